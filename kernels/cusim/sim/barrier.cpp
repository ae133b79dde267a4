#include "barrier.h"

#include <string.h>

#include <vector>

#include "clock.h"
#include "failure.h"
#include "scheduler.h"

namespace cusim {

namespace {

struct Barrier {
  std::vector<Fibre*> waiting;
  const char* file;
  int line;
  unsigned threads;  // expected by the first to arrive
};
constexpr int BARRIERS = 16;
Barrier barriers[BARRIERS];

void release_waiting(Barrier& barrier) {
  for (Fibre* f : barrier.waiting) make_ready(*f);
  barrier.waiting.clear();
}

}  // namespace

void barriers_begin_block() {
  for (Barrier& b : barriers) b.waiting.clear();
}

void barrier_after_exit() {
  Barrier& b = barriers[0];
  if (b.waiting.empty() || b.waiting.size() < live_threads()) return;
  order_block();
  release_waiting(b);
}

void block_barrier(const char* file, int line) {
  Barrier& b = barriers[0];
  if (b.waiting.empty()) {
    b.file = file;
    b.line = line;
  } else if (line != b.line || strcmp(file, b.file)) {
    access_site = __builtin_return_address(0);
    fail("DIVERGENCE: __syncthreads of %s:%d while other threads of the block wait in that of %s:%d",
         base_name(file), line, base_name(b.file), b.line);
  }
  if (b.waiting.size() + 1 < live_threads()) {
    b.waiting.push_back(current);
    block_thread("__syncthreads", file, line);
    return;
  }
  order_block();
  release_waiting(b);
  maybe_yield();
}

void named_barrier(int number, int threads) {
  access_site = __builtin_return_address(0);
  if (number < 1 || number >= BARRIERS) fail("INVALID: barrier_sync number %d is not 1..15", number);
  if (threads <= 0 || threads % WARP || static_cast<unsigned>(threads) > launch.threads) {
    fail("INVALID: barrier_sync of %d threads in a block of %u", threads, launch.threads);
  }
  Barrier& b = barriers[number];
  if (b.waiting.empty()) b.threads = threads;
  if (b.threads != static_cast<unsigned>(threads)) {
    fail("DIVERGENCE: barrier_sync %d of %d threads while others wait for %u", number, threads, b.threads);
  }
  b.waiting.push_back(current);
  if (b.waiting.size() < b.threads) return block_thread("barrier_sync");
  order_threads(b.waiting.data(), b.waiting.size());
  b.waiting.pop_back();
  release_waiting(b);
}

}  // namespace cusim
