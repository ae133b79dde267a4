// Conformance kernels: each shows what one wrapper of kernels/src/cuh does, on inputs of its own. All take
// `out` and `in` (or a map of it) as 32-bit words and run as one thread block of 128 threads (THREADS);
// tests/conformance knows what must come out, and compares it with what a GPU gave where that has been
// recorded.
#pragma once
#include "../../src/cuh/common.cuh"

constexpr int THREADS = 128;

#define CONFORMANCE_OF(name, ...)                                                         \
  extern "C" __global__ void __launch_bounds__(THREADS) name(uint32_t* out, __VA_ARGS__); \
  KERNEL_EXPORT(name)                                                                     \
  extern "C" __global__ void __launch_bounds__(THREADS) name(uint32_t* out, __VA_ARGS__)

#define CONFORMANCE(name) CONFORMANCE_OF(name, const uint32_t* in)
