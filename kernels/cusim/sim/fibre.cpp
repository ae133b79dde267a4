#include "fibre.h"

#include <stdlib.h>
#include <sys/mman.h>

#ifndef __x86_64__
#error "the context switch of the simulated CUDA device is written for x86-64 only"
#endif

// Saves the callee-saved registers on the running stack, its pointer in *save, and goes on from `load`.
extern "C" void cusim_switch(void** save, void* load);
asm(R"(
.text
.globl cusim_switch
.hidden cusim_switch
.type cusim_switch,@function
cusim_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size cusim_switch,.-cusim_switch
)");

namespace cusim {

namespace {
constexpr size_t STACK = 64 << 10;
constexpr size_t GUARD = 4 << 10;  // an unmapped page under each stack: an overflow faults instead of spreading
char* stacks;
void* scheduler_stack_pointer;
}  // namespace

void prepare_stacks() {
  if (stacks) return;
  const size_t bytes = (STACK + GUARD) * MAX_THREADS;
  void* map = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (map == MAP_FAILED) abort();
  stacks = static_cast<char*>(map);
  for (unsigned i = 0; i < MAX_THREADS; i++) {
    char* guard = stacks + i * (STACK + GUARD);
    mprotect(guard, GUARD, PROT_NONE);
    fibres[i].stack_low = guard + GUARD;
    fibres[i].stack_high = guard + GUARD + STACK;
  }
}

void prepare_fibre(Fibre& fibre, void (*entry)()) {
  // Stacks at equal distances would share cache sets: stagger their tops.
  char* top = fibre.stack_high - (fibre.number % 16) * 320;
  void** frame = reinterpret_cast<void**>(reinterpret_cast<uintptr_t>(top) & ~uintptr_t{15});
  *--frame = nullptr;  // the return address of `entry`, which keeps the stack aligned as after a call
  *--frame = reinterpret_cast<void*>(entry);
  for (int saved_register = 0; saved_register < 6; saved_register++) *--frame = nullptr;
  fibre.stack_pointer = frame;
}

void enter_fibres(Fibre& first) {
  current = &first;
  cusim_switch(&scheduler_stack_pointer, first.stack_pointer);
  current = nullptr;
}

void switch_to(Fibre& next) {
  Fibre* previous = current;
  if (previous == &next) return;
  current = &next;
  cusim_switch(&previous->stack_pointer, next.stack_pointer);
}

void leave_fibres() {
  void* never_used;
  cusim_switch(&never_used, scheduler_stack_pointer);
  __builtin_unreachable();
}

bool in_stacks(const char* p) { return p >= stacks && p < stacks + (STACK + GUARD) * MAX_THREADS; }

}  // namespace cusim
