// Every memory access of device code arrives here: kernels are compiled with -fsanitize=thread, and these are the
// functions that the compiler then calls. ThreadSanitizer's own library is not linked.
#include <link.h>
#include <string.h>

#include <algorithm>

#include "checks.h"
#include "fibre.h"
#include "global.h"
#include "scheduler.h"
#include "shared.h"

namespace cusim {

namespace {

// The library that holds the running kernel: its constants may be read.
struct {
  const char *low = nullptr, *high = nullptr;
} image;

int find_image(dl_phdr_info* info, size_t, void* function) {
  const char *low = nullptr, *high = nullptr;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const auto& segment = info->dlpi_phdr[i];
    if (segment.p_type != PT_LOAD) continue;
    const char* start = reinterpret_cast<const char*>(info->dlpi_addr + segment.p_vaddr);
    if (!low || start < low) low = start;
    high = std::max(high, start + segment.p_memsz);
  }
  if (function < low || function >= high) return 0;
  image = {low, high};
  return 1;
}

bool reads_constant(const char* p, Access access) {
  if (access != Access::Read) return false;
  if (p >= image.low && p < image.high) return true;
  const char* function = static_cast<const char*>(launch.kernel->function);
  if (function < image.low || function >= image.high) dl_iterate_phdr(find_image, launch.kernel->function);
  return p >= image.low && p < image.high;
}

}  // namespace

void check_access(const char* p, size_t n, Access access) {
  const char* verb = access == Access::Read ? "read" : "write";
  if (n <= 16 && !(n & (n - 1)) && reinterpret_cast<uintptr_t>(p) % n) {
    fail("MISALIGNED: %zu-byte %s at %p", n, verb, p);
  }
  if (in_shared(p)) return shared_access(p, n, access, *current);
  if (in_global(p)) return global_access(p, n, access);
  if (reads_constant(p, access)) return;
  if (in_stacks(p)) fail("OUT OF BOUNDS: %s of the local memory of another thread", verb);
  fail("OUT OF BOUNDS: %zu-byte %s at %p, which is not device memory (an address of the host?)", n, verb, p);
}

}  // namespace cusim

namespace {

inline void hook(void* at, size_t n, cusim::Access access, const void* site) {
  const char* p = static_cast<const char*>(at);
  if (!cusim::current || !cusim::options.check) return;
  if (p >= cusim::current->stack_low && p < cusim::current->stack_high) return;
  cusim::access_site = site;
  cusim::check_access(p, n, access);
}

}  // namespace

#define HOOKS(n)                                                                                             \
  extern "C" void __tsan_read##n(void* p) { hook(p, n, cusim::Access::Read, __builtin_return_address(0)); }   \
  extern "C" void __tsan_write##n(void* p) { hook(p, n, cusim::Access::Write, __builtin_return_address(0)); } \
  extern "C" void __tsan_unaligned_read##n(void* p) {                                                        \
    hook(p, n, cusim::Access::Read, __builtin_return_address(0));                                            \
  }                                                                                                          \
  extern "C" void __tsan_unaligned_write##n(void* p) {                                                       \
    hook(p, n, cusim::Access::Write, __builtin_return_address(0));                                           \
  }                                                                                                          \
  extern "C" void __tsan_volatile_read##n(void* p) {                                                         \
    hook(p, n, cusim::Access::Read, __builtin_return_address(0));                                            \
  }                                                                                                          \
  extern "C" void __tsan_volatile_write##n(void* p) {                                                        \
    hook(p, n, cusim::Access::Write, __builtin_return_address(0));                                           \
  }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

extern "C" void __tsan_read_range(void* p, size_t n) {
  hook(p, n, cusim::Access::Read, __builtin_return_address(0));
}
extern "C" void __tsan_write_range(void* p, size_t n) {
  hook(p, n, cusim::Access::Write, __builtin_return_address(0));
}
extern "C" void __tsan_func_entry(void*) {}
extern "C" void __tsan_func_exit() {}
extern "C" void __tsan_init() {}

namespace cusim {

void before_atomic(const void* at, size_t size) {
  maybe_yield();
  const char* p = static_cast<const char*>(at);
  if (options.check) {
    access_site = __builtin_return_address(0);
    check_access(p, size, Access::Atomic);
  }
}

void device_fence() { current->fenced = true; }

}  // namespace cusim
