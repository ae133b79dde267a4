#include "clock.h"

#include <string.h>

#include <algorithm>

namespace cusim {

namespace {

uint64_t epoch = 1;
struct {
  uint64_t epoch;
  uint32_t clock;  // every access in the warp with a smaller clock is ordered for all its lanes
} warp_orders[MAX_WARPS];
std::vector<uint32_t> rows(MAX_THREADS * MAX_THREADS);

uint32_t* row_of(const Fibre& f) { return &rows[f.number * MAX_THREADS]; }
bool has_row(const Fibre& f) { return f.row_epoch == epoch; }
uint32_t* make_row(Fibre& f) {
  uint32_t* row = row_of(f);
  if (!has_row(f)) {
    memset(row, 0, launch.threads * sizeof *row);
    f.row_epoch = epoch;
  }
  return row;
}

uint32_t& clock_of(Fibre& f) {
  if (f.clock_epoch != epoch) {
    f.clock_epoch = epoch;
    f.clock = 1;
  }
  return f.clock;
}

uint32_t warp_order(unsigned warp) {
  return warp_orders[warp].epoch == epoch ? warp_orders[warp].clock : 0;
}

void merge(uint32_t* into, const uint32_t* from) {
  for (unsigned t = 0; t < launch.threads; t++) into[t] = std::max(into[t], from[t]);
}

// All that `f` knows to have happened, itself included.
void merge_knowledge(uint32_t* into, Fibre& f) {
  if (has_row(f)) merge(into, row_of(f));
  if (const uint32_t order = warp_order(f.warp)) {
    const unsigned first = f.warp * WARP, last = std::min(first + WARP, launch.threads);
    for (unsigned t = first; t < last; t++) into[t] = std::max(into[t], order - 1);
  }
  into[f.number] = std::max(into[f.number], clock_of(f));
}

}  // namespace

void clocks_begin_block() { epoch++; }

void order_block() { epoch++; }

Stamp stamp_of(Fibre& f) {
  return epoch << STAMP_EPOCH_SHIFT | Stamp{clock_of(f)} << STAMP_CLOCK_SHIFT |
         Stamp{f.number} << STAMP_THREAD_SHIFT;
}

bool happened_before(Stamp s, Fibre& f) {
  if (stamp_epoch(s) != epoch) return true;
  const unsigned thread = stamp_thread(s);
  if (thread == f.number) return true;
  if (thread / WARP == f.warp && stamp_clock(s) < warp_order(f.warp)) return true;
  return has_row(f) && row_of(f)[thread] >= stamp_clock(s);
}

void order_warp(unsigned warp) {
  const unsigned first = warp * WARP, last = std::min(first + WARP, launch.threads);
  bool any_row = false;
  uint32_t newest = 0;
  for (unsigned t = first; t < last; t++) {
    any_row |= has_row(fibres[t]);
    newest = std::max(newest, clock_of(fibres[t]));
  }
  if (any_row) {
    Fibre* lanes[WARP];
    for (unsigned t = first; t < last; t++) lanes[t - first] = &fibres[t];
    order_threads(lanes, last - first);
  }
  for (unsigned t = first; t < last; t++) fibres[t].clock = newest + 2;
  warp_orders[warp] = {epoch, newest + 2};
}

void order_threads(Fibre* const* f, size_t n) {
  std::vector<uint32_t> all(launch.threads, 0);
  for (size_t i = 0; i < n; i++) merge_knowledge(all.data(), *f[i]);
  for (size_t i = 0; i < n; i++) {
    memcpy(make_row(*f[i]), all.data(), launch.threads * sizeof all[0]);
    clock_of(*f[i])++;
  }
}

void release_into(Row& row, Fibre& f) {
  if (row.epoch != epoch) {
    row.epoch = epoch;
    row.clocks.assign(launch.threads, 0);
  }
  merge_knowledge(row.clocks.data(), f);
  clock_of(f)++;
}

void acquire_from(const Row& row, Fibre& f) {
  if (row.epoch == epoch) merge(make_row(f), row.clocks.data());
}

}  // namespace cusim
