// Reductions over a warp and over a thread block, in an order fixed by the shape: equal inputs give equal bits.
#pragma once
#include "common.cuh"

struct Sum {
  static constexpr float NEUTRAL = 0.0f;
  static __device__ __forceinline__ float apply(float a, float b) { return a + b; }
};
struct Max {
  static constexpr float NEUTRAL = -INFINITY;
  static __device__ __forceinline__ float apply(float a, float b) { return fmaxf(a, b); }
};

// Over groups of LANES adjacent lanes (a power of two); every lane of a group gets the same bits.
template <class Op, int LANES = WARP_SIZE>
DEVICE float warp_reduce(float x) {
#pragma unroll
  for (int offset = LANES / 2; offset > 0; offset /= 2) x = Op::apply(x, __shfl_xor_sync(ALL_LANES, x, offset));
  return x;
}
template <int LANES = WARP_SIZE>
DEVICE float warp_sum(float x) { return warp_reduce<Sum, LANES>(x); }
template <int LANES = WARP_SIZE>
DEVICE float warp_max(float x) { return warp_reduce<Max, LANES>(x); }

// Over a one-dimensional thread block of whole warps; every thread gets the same bits. `partials` is shared memory
// for 32 floats; it may be used again as soon as the call returns.
template <class Op>
DEVICE float block_reduce(float x, float* partials) {
  const int warps = blockDim.x / WARP_SIZE;
  x = warp_reduce<Op>(x);
  if (lane_id() == 0) partials[warp_id()] = x;
  __syncthreads();
  x = warp_reduce<Op>(lane_id() < warps ? partials[lane_id()] : Op::NEUTRAL);
  __syncthreads();
  return x;
}
DEVICE float block_sum(float x, float* partials) { return block_reduce<Sum>(x, partials); }
DEVICE float block_max(float x, float* partials) { return block_reduce<Max>(x, partials); }
