// Seeded bugs: each file has one kernel body with a switch, made into two kernels, <name>_bug and <name>_fixed.
// All take `out` and `in` of 1024 floats. The table of tests/defects.rs says how each is launched and what the
// checker must say.
#pragma once
#include "../../src/cuh/async.cuh"

#define DEFECT(name)                                                                     \
  extern "C" __global__ void name##_bug(float* out, const float* in) { name<true>(out, in); }   \
  KERNEL_EXPORT(name##_bug)                                                               \
  extern "C" __global__ void name##_fixed(float* out, const float* in) { name<false>(out, in); } \
  KERNEL_EXPORT(name##_fixed)
