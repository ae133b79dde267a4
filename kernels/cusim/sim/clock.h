// Vector clocks of the threads of a block: which access happened before which.
//
// A barrier of the whole block starts a new epoch, and everything of older epochs is ordered. A full __syncwarp is
// a clock per warp. Only named barriers, partial warps and mbarriers need a row per thread: row[t] = the newest
// clock of thread t that is known to have happened before.
#pragma once
#include <vector>

#include "machine.h"

namespace cusim {

// An access to up to 4 bytes: who, when, which of the bytes. 0 = none.
using Stamp = uint64_t;
constexpr Stamp STAMP_ATOMIC = 16;
constexpr int STAMP_THREAD_SHIFT = 5, STAMP_CLOCK_SHIFT = 15, STAMP_EPOCH_SHIFT = 33;
inline unsigned stamp_bytes(Stamp s) { return s & 15; }
inline unsigned stamp_thread(Stamp s) { return s >> STAMP_THREAD_SHIFT & (MAX_THREADS - 1); }
inline unsigned stamp_clock(Stamp s) { return s >> STAMP_CLOCK_SHIFT & 0x3ffff; }
inline uint64_t stamp_epoch(Stamp s) { return s >> STAMP_EPOCH_SHIFT; }

// Knowledge handed on through an mbarrier; clocks of an older epoch mean nothing.
struct Row {
  uint64_t epoch = 0;
  std::vector<uint32_t> clocks;
};

void clocks_begin_block();
// An access by `f` now, without its bytes.
Stamp stamp_of(Fibre& f);
// Whether the access `s` happened before what `f` does now.
bool happened_before(Stamp s, Fibre& f);

void order_block();                            // __syncthreads
void order_warp(unsigned warp);                // all lanes met
void order_threads(Fibre* const* f, size_t n);  // exactly these met
void release_into(Row& row, Fibre& f);         // what `f` knows goes into the row, f's clock moves on
void acquire_from(const Row& row, Fibre& f);   // what the row knows, `f` knows

}  // namespace cusim
