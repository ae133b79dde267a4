// The part of CUDA's f16 header that kernels use.
#pragma once
#include <stdint.h>
#include <string.h>

struct alignas(2) __half {
  _Float16 value;
};
struct alignas(4) __half2 {
  __half x, y;
};

static inline float __half2float(__half x) { return static_cast<float>(x.value); }
static inline __half __float2half_rn(float f) { return {static_cast<_Float16>(f)}; }
static inline __half __float2half(float f) { return __float2half_rn(f); }
static inline float2 __half22float2(__half2 v) { return {__half2float(v.x), __half2float(v.y)}; }
static inline __half2 __floats2half2_rn(float x, float y) { return {__float2half_rn(x), __float2half_rn(y)}; }
