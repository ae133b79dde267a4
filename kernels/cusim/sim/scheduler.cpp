#include "scheduler.h"

#include <algorithm>
#include <map>

#include "barrier.h"
#include "collective.h"
#include "failure.h"
#include "fibre.h"
#include "hopper.h"

namespace cusim {

namespace {

uint64_t random_state = 1;
uint32_t ready_lanes[MAX_WARPS];
uint8_t priority[MAX_WARPS];  // warps, the most urgent first
unsigned ready_threads, live;

void demote(unsigned warp) {
  uint8_t* at = std::find(priority, priority + launch.warps, warp);
  std::rotate(at, at + 1, priority + launch.warps);
}

// A random lane of a non-empty mask.
unsigned any_lane(uint32_t mask) {
  const unsigned turn = random_bits() % WARP;
  const uint32_t turned = mask >> turn | (turn ? mask << (WARP - turn) : 0);
  return (__builtin_ctz(turned) + turn) % WARP;
}

Fibre* pick() {
  for (;;) {
    const uint64_t r = random_bits();
    if (r % 256 == 0) demote((r >> 8) % launch.warps);
    if (r >> 16 & 15) {
      // Transfers by hardware complete as late as possible for most of the time.
    } else if (complete_a_transfer()) {
      continue;
    }
    if (ready_threads == 0) {
      if (complete_a_transfer()) continue;
      return nullptr;
    }
    for (unsigned i = 0;; i++) {
      const unsigned warp = priority[i];
      if (!ready_lanes[warp]) continue;
      const unsigned lane = any_lane(ready_lanes[warp]);
      ready_lanes[warp] &= ~(1u << lane);
      ready_threads--;
      return &fibres[warp * WARP + lane];
    }
  }
}

[[noreturn]] void report_deadlock() {
  std::map<std::string, unsigned> places;
  for (unsigned i = 0; i < launch.threads; i++) {
    const Fibre& f = fibres[i];
    if (f.state != State::Blocked) continue;
    std::string place = f.waits.what;
    if (f.waits.file) place += std::string(" at ") + base_name(f.waits.file) + ":" + std::to_string(f.waits.line);
    places[place]++;
  }
  std::string text;
  for (const auto& [place, count] : places) text += ", " + std::to_string(count) + " wait in " + place;
  fail("DEADLOCK: no thread can go on: %u have returned%s", launch.threads - live, text.c_str());
}

void thread_main() {
  launch.kernel->call(launch.kernel->function, launch.arguments);
  current->state = State::Done;
  live--;
  if (live == 0) leave_fibres();
  barrier_after_exit();
  Fibre* next = pick();
  if (!next) report_deadlock();
  switch_to(*next);
  __builtin_unreachable();
}

}  // namespace

void seed_scheduler(uint64_t seed) { random_state = seed * 0x9E3779B97F4A7C15ull | 1; }

uint64_t random_bits() {  // xorshift64*
  random_state ^= random_state >> 12;
  random_state ^= random_state << 25;
  random_state ^= random_state >> 27;
  return random_state * 0x2545F4914F6CDD1Dull;
}

unsigned live_threads() { return live; }

void make_ready(Fibre& fibre) {
  fibre.state = State::Ready;
  ready_lanes[fibre.warp] |= 1u << fibre.lane;
  ready_threads++;
}

void block_thread(const char* what, const char* file, int line) {
  current->state = State::Blocked;
  current->waits = {what, file, line};
  Fibre* next = pick();
  if (!next) report_deadlock();
  switch_to(*next);
}

void maybe_yield() {
  if (random_bits() % 4) return;
  make_ready(*current);
  demote(current->warp);
  switch_to(*pick());
}

bool run_block() {
  const dim3& block = launch.block;
  live = launch.threads;
  ready_threads = 0;
  for (unsigned w = 0; w < launch.warps; w++) priority[w] = static_cast<uint8_t>(w);
  for (unsigned w = launch.warps; w > 1; w--) std::swap(priority[w - 1], priority[random_bits() % w]);
  for (unsigned w = 0; w < launch.warps; w++) ready_lanes[w] = 0;
  for (unsigned i = 0; i < launch.threads; i++) {
    Fibre& f = fibres[i];
    f.number = i;
    f.lane = i % WARP;
    f.warp = i / WARP;
    f.index = {i % block.x, i / block.x % block.y, i / (block.x * block.y)};
    f.fenced = false;
    f.proxy_fence = 0;
    f.clock_epoch = f.row_epoch = 0;
    prepare_fibre(f, thread_main);
    make_ready(f);
  }
  enter_fibres(*pick());
  return !failed();
}

}  // namespace cusim
