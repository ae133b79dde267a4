#include "collective.h"

#include <algorithm>

#include "clock.h"
#include "scheduler.h"

namespace cusim {

namespace {

// Lanes that meet. Lanes of one warp may meet in disjoint masks at the same time.
struct Meeting {
  uint32_t mask, arrived;
  WarpOperation operation;
  void* arguments[WARP];
};
constexpr int MEETINGS = 8;
Meeting meetings[MAX_WARPS][MEETINGS];

Meeting& find_meeting(uint32_t mask, WarpOperation operation) {
  Meeting* unused = nullptr;
  for (Meeting& m : meetings[current->warp]) {
    if (!m.arrived) {
      if (!unused) unused = &m;
      continue;
    }
    if (!(m.mask & mask)) continue;
    if (m.mask != mask) fail("DIVERGENCE: warp-wide operations with masks %08x and %08x overlap", m.mask, mask);
    if (m.operation != operation) {
      fail("DIVERGENCE: lanes of one warp wait in different warp-wide operations");
    }
    return m;
  }
  if (!unused) fail("UNSUPPORTED: more than %d warp-wide operations under way in one warp", MEETINGS);
  unused->mask = mask;
  unused->operation = operation;
  return *unused;
}

struct Vote {
  uint32_t value, result;
};

template <class Combine>
void combine_votes(void* const* arguments, uint32_t mask, Combine combine) {
  uint32_t result = 0;
  for (unsigned lane = 0; lane < WARP; lane++) {
    if (mask >> lane & 1) result = combine(result, static_cast<Vote*>(arguments[lane])->value, lane);
  }
  for (unsigned lane = 0; lane < WARP; lane++) {
    if (mask >> lane & 1) static_cast<Vote*>(arguments[lane])->result = result;
  }
}
void ballot_all(void* const* arguments, uint32_t mask) {
  combine_votes(arguments, mask, [](uint32_t r, uint32_t v, unsigned lane) { return r | v << lane; });
}
void add_all(void* const* arguments, uint32_t mask) {
  combine_votes(arguments, mask, [](uint32_t r, uint32_t v, unsigned) { return r + v; });
}
void max_all(void* const* arguments, uint32_t mask) {
  combine_votes(arguments, mask, [](uint32_t r, uint32_t v, unsigned) { return std::max(r, v); });
}
uint32_t vote(uint32_t mask, uint32_t value, WarpOperation operation) {
  Vote argument{value, 0};
  collective(mask, operation, &argument);
  return argument.result;
}

void order_all(void* const*, uint32_t mask) {
  const unsigned first = current->warp * WARP;
  if (mask == existing_lanes()) return order_warp(current->warp);
  Fibre* lanes[WARP];
  size_t n = 0;
  for (unsigned lane = 0; lane < WARP; lane++) {
    if (mask >> lane & 1) lanes[n++] = &fibres[first + lane];
  }
  order_threads(lanes, n);
}

}  // namespace

void collectives_begin_block() {
  for (auto& warp : meetings) {
    for (Meeting& m : warp) m.arrived = 0;
  }
}

uint32_t existing_lanes() {
  const unsigned lanes = std::min(WARP, launch.threads - current->warp * WARP);
  return lanes == WARP ? ~0u : (1u << lanes) - 1;
}

void collective(uint32_t mask, WarpOperation operation, void* argument) {
  Fibre& me = *current;
  access_site = __builtin_return_address(0);
  mask &= existing_lanes();
  if (!(mask >> me.lane & 1)) fail("DIVERGENCE: lane %u runs a warp-wide operation of mask %08x", me.lane, mask);
  Meeting& m = find_meeting(mask, operation);
  m.arguments[me.lane] = argument;
  m.arrived |= 1u << me.lane;
  if (m.arrived != mask) return block_thread("a warp-wide operation");
  operation(m.arguments, mask);
  m.arrived = 0;
  for (uint32_t others = mask & ~(1u << me.lane); others; others &= others - 1) {
    make_ready(fibres[me.warp * WARP + __builtin_ctz(others)]);
  }
}

void warp_barrier(uint32_t mask) { collective(mask, order_all, nullptr); }

// Which lanes run together is up to the hardware: the least it promises is the asking one.
uint32_t active_mask() { return 1u << current->lane; }

uint32_t ballot(uint32_t mask, bool yes) { return vote(mask, yes, ballot_all); }
uint32_t reduce_add(uint32_t mask, uint32_t value) { return vote(mask, value, add_all); }
uint32_t reduce_max(uint32_t mask, uint32_t value) { return vote(mask, value, max_all); }

}  // namespace cusim
