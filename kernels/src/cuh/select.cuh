// Finding a place in an order without sorting: the first elements that number, or weigh, enough. A descent through
// histograms; sums are of integers, so that no order of additions shows in the result.
#pragma once
#include "common.cuh"

constexpr int BINS = 2048, BIN_BITS = 11;

struct Histogram {
  uint32_t counts[BINS];
  unsigned long long weights[BINS];
  unsigned long long warp_sums[WARP_SIZE];
  // The bin in which the wanted amount is reached, what comes before it, and how many elements it has.
  uint32_t found, found_count;
  unsigned long long before;
};

DEVICE uint64_t min_key(uint64_t a, uint64_t b) { return a < b ? a : b; }

// A thread block's inclusive sum over the threads up to this one; `total` is that of all.
DEVICE uint64_t block_scan(uint64_t x, unsigned long long* warp_sums, uint64_t& total) {
  const auto warp_scan = [](unsigned long long x) {
#pragma unroll
    for (int offset = 1; offset < WARP_SIZE; offset *= 2) {
      const unsigned long long other = __shfl_up_sync(ALL_LANES, x, offset);
      if (lane_id() >= offset) x += other;
    }
    return x;
  };
  x = warp_scan(x);
  if (lane_id() == WARP_SIZE - 1) warp_sums[warp_id()] = x;
  __syncthreads();
  const unsigned long long sums = warp_scan(lane_id() < (int)(blockDim.x / WARP_SIZE) ? warp_sums[lane_id()] : 0);
  total = __shfl_sync(ALL_LANES, sums, WARP_SIZE - 1);
  const uint64_t before = __shfl_sync(ALL_LANES, sums, max(warp_id() - 1, 0));
  return warp_id() == 0 ? x : x + before;
}

// How much is wanted: a number of elements, or a share of the weight of all.
struct Wanted {
  uint64_t count;  // 0: a share
  double share;
};

// The smallest key such that the elements with keys up to it are enough; `last` where all together are not.
// `for_each(visit)` calls visit(key, weight) for each of the calling thread's elements, weights in fixed point. Keys
// beyond `last` do not count. `linear`: bits 32 and up of a key are those of a float >= 0, of which the first
// histogram has 64 bins per unit, so that common values spread over many bins.
// For a thread block of up to 512 threads, a power of two; all get the same key, whatever their number.
template <class ForEach>
DEVICE uint64_t select(Histogram& histogram, uint64_t last, bool linear, Wanted wanted, ForEach for_each) {
  const bool by_weight = wanted.count == 0;
  uint64_t low = 0, high = last, amount = wanted.count;
  for (bool first = true;; first = false, linear = false) {
    for (int bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
      histogram.counts[bin] = 0;
      histogram.weights[bin] = 0;
    }
    __syncthreads();
    const int shift = max(0, 64 - __clzll(high - low) - BIN_BITS);
    for_each([&](uint64_t key, uint64_t weight) {
      if (key < low || key > high) return;
      const float value = __uint_as_float((uint32_t)(key >> 32));
      const uint32_t bin = linear ? (uint32_t)fminf(64.0f * value, BINS - 1) : (uint32_t)((key - low) >> shift);
      atomicAdd(&histogram.counts[bin], 1u);
      if (by_weight) atomicAdd(&histogram.weights[bin], (unsigned long long)weight);
    });
    __syncthreads();
    const auto amount_of = [&](int bin) -> uint64_t {
      return by_weight ? histogram.weights[bin] : histogram.counts[bin];
    };
    const int own = BINS / blockDim.x, first_bin = threadIdx.x * own;
    uint64_t mine = 0, total;
    for (int bin = first_bin; bin < first_bin + own; bin++) mine += amount_of(bin);
    uint64_t sum = block_scan(mine, histogram.warp_sums, total) - mine;
    if (first && by_weight) amount = (uint64_t)fmax(1.0, ceil(wanted.share * (double)total));
    if (total < amount) return last;
    for (int bin = first_bin; bin < first_bin + own; bin++) {
      const uint64_t added = amount_of(bin);
      if (sum < amount && sum + added >= amount) {
        histogram.found = bin;
        histogram.found_count = histogram.counts[bin];
        histogram.before = sum;
      }
      sum += added;
    }
    __syncthreads();
    const uint64_t bin = histogram.found, count = histogram.found_count;
    amount -= histogram.before;
    if (linear) {
      const auto first_key = [](uint64_t bin) { return (uint64_t)__float_as_uint((float)bin / 64.0f) << 32; };
      low = first_key(bin);
      if (bin < BINS - 1) high = min_key(high, first_key(bin + 1) - 1);
    } else {
      low += bin << shift;
      high = min_key(high, low + ((uint64_t)1 << shift) - 1);
    }
    if (low == high || count == 1 || (!by_weight && count == amount)) return high;
    __syncthreads();  // all have read what was found
  }
}
