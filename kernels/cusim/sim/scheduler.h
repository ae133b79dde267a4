// Which thread runs next. Strict priorities among warps, drawn anew for every thread block: a warp runs until it
// blocks, so that warps drift as far apart as their barriers allow (probabilistic concurrency testing). Picking
// uniformly at random keeps them in step and finds far fewer races.
#pragma once
#include "machine.h"

namespace cusim {

uint64_t random_bits();
void seed_scheduler(uint64_t seed);

// Runs the thread block `current_block` to its end; false if it failed.
bool run_block();

// Blocks the running thread in `what` until another calls make_ready for it.
void block_thread(const char* what, const char* file = nullptr, int line = 0);
void make_ready(Fibre& fibre);
// Lets others go first, now and then; for places where an order of events should vary.
void maybe_yield();

// Threads of the running block that have not returned.
unsigned live_threads();

}  // namespace cusim
