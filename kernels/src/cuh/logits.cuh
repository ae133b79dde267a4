// A thread block's walk over a row of logits.
#pragma once
#include "vec.cuh"

// Calls visit(id, logit) for the calling thread's share of a row, in ascending order of ids.
template <class Visit>
DEVICE void for_each_logit(const float* logits, uint32_t vocab, Visit visit) {
  if (vocab % 4 == 0) {
#pragma unroll 2
    for (uint32_t id = threadIdx.x * 4; id < vocab; id += blockDim.x * 4) {
      const Pack<float, 4> four = load_pack<4>(logits + id);
#pragma unroll
      for (int i = 0; i < 4; i++) visit(id + i, four.v[i]);
    }
  } else {
#pragma unroll 2
    for (uint32_t id = threadIdx.x; id < vocab; id += blockDim.x) visit(id, logits[id]);
  }
}

// Keys in the order of floats: a < b exactly when ordered(a) < ordered(b); -0 and 0 are the same. Not for NaN.
DEVICE uint32_t ordered(float x) {
  const uint32_t bits = __float_as_uint(x + 0.0f);
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

// The inverse of `ordered`.
DEVICE float from_ordered(uint32_t key) {
  return __uint_as_float(key & 0x80000000u ? key & 0x7fffffffu : ~key);
}

// The largest key over the thread block; `partials` is shared memory for 32 keys, free again after the call.
DEVICE uint64_t block_max_key(uint64_t key, unsigned long long* partials) {
  const auto warp_max_key = [](unsigned long long key) {
#pragma unroll
    for (int offset = WARP_SIZE / 2; offset > 0; offset /= 2) {
      const unsigned long long other = __shfl_xor_sync(ALL_LANES, key, offset);
      key = max(key, other);
    }
    return key;
  };
  key = warp_max_key(key);
  if (lane_id() == 0) partials[warp_id()] = key;
  __syncthreads();
  const int warps = blockDim.x / WARP_SIZE;
  key = warp_max_key(lane_id() < warps ? partials[lane_id()] : 0);
  __syncthreads();
  return key;
}
