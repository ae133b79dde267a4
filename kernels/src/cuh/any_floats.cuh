// A vector of a float type that is known at run time only: weights of norms, biases, which are small beside
// the rows they meet, so that a test per load costs less than a kernel per type.
#pragma once
#include "vec.cuh"

enum FloatType : int { FLOAT_F32 = 0, FLOAT_F16 = 1, FLOAT_BF16 = 2 };

struct AnyFloats {
  const void* data;  // null: there is none
  int type;          // a FloatType

  __device__ __forceinline__ float operator[](size_t i) const {
    if (type == FLOAT_F32) return static_cast<const float*>(data)[i];
    if (type == FLOAT_F16) return to_f32(static_cast<const f16*>(data)[i]);
    return to_f32(static_cast<const bf16*>(data)[i]);
  }
};

// N elements from `at`, a multiple of N, as f32.
template <int N>
DEVICE void load_any(float (&to)[N], AnyFloats from, int at) {
  if (from.type == FLOAT_F32) load_f32<N>(to, static_cast<const float*>(from.data) + at);
  else if (from.type == FLOAT_F16) load_f32<N>(to, static_cast<const f16*>(from.data) + at);
  else load_f32<N>(to, static_cast<const bf16*>(from.data) + at);
}
