// Rotary position embedding of one head.
#pragma once
#include "common.cuh"

// One row's angles, and which elements they pair up. Elements beyond the rotating ones are pairs of
// neighbours.
struct Rotation {
  const float *cos, *sin;  // [half]
  uint32_t half, interleaved;

  __device__ __forceinline__ uint32_t first(uint32_t pair) const {
    return interleaved || pair >= half ? 2 * pair : pair;
  }
  __device__ __forceinline__ uint32_t second(uint32_t pair) const {
    return interleaved || pair >= half ? 2 * pair + 1 : pair + half;
  }
  __device__ __forceinline__ void rotate(float& a, float& b, uint32_t pair) const {
    if (pair >= half) return;
    const float x = a, y = b;
    a = x * cos[pair] - y * sin[pair];
    b = y * cos[pair] + x * sin[pair];
  }
};
