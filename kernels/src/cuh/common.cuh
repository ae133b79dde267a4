// What every kernel includes: the macros of shared memory and of the table of kernels, element types, lane numbers.
// Compiled by nvcc for GPUs, and by g++ with CUSIM defined for the simulated device (kernels/cusim), which brings
// its own versions of the macros. Files in this folder are the only ones with inline PTX; each wrapper has its
// emulation beside it.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>

#define DEVICE static __device__ __forceinline__

#ifndef CUSIM
// Static shared memory: SMEM(float, sums, [32]). 16-byte aligned, so that vectors may be read from it.
#define SMEM(T, name, dims) __shared__ __align__(16) T name dims
// The dynamic shared memory of the launch as a T*: DYN_SMEM(bf16, tile). 1024-byte aligned, as TMA's swizzle needs.
#define DYN_SMEM(T, name)                                       \
  extern __shared__ __align__(1024) uint8_t dynamic_shared_[]; \
  T* name = reinterpret_cast<T*>(dynamic_shared_)
// After each kernel: enters it into the simulated device's registry.
#define KERNEL_EXPORT(name)
#endif

using bf16 = __nv_bfloat16;
using f16 = __half;

constexpr int WARP_SIZE = 32;
constexpr uint32_t ALL_LANES = 0xffffffffu;

// For thread blocks of one dimension.
DEVICE int lane_id() { return threadIdx.x % WARP_SIZE; }
DEVICE int warp_id() { return threadIdx.x / WARP_SIZE; }

DEVICE float to_f32(float x) { return x; }
DEVICE float to_f32(bf16 x) { return __bfloat162float(x); }
DEVICE float to_f32(f16 x) { return __half2float(x); }

// Rounds to nearest, ties to even.
template <class T>
DEVICE T from_f32(float x);
template <>
__device__ __forceinline__ float from_f32<float>(float x) { return x; }
template <>
__device__ __forceinline__ bf16 from_f32<bf16>(float x) { return __float2bfloat16_rn(x); }
template <>
__device__ __forceinline__ f16 from_f32<f16>(float x) { return __float2half_rn(x); }

// Two bf16 in the register layout of mma operands: `low` has the smaller index.
DEVICE uint32_t pack_bf16(float low, float high) {
  __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<uint32_t*>(&pair);
}

// 2^x by the special function unit (relative error about 2^-22; -inf gives 0).
DEVICE float fast_exp2(float x) {
#ifdef CUSIM
  return exp2f(x);
#else
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
#endif
}

// A barrier of `threads` threads (a multiple of 32) under number 1..15; __syncthreads is number 0.
DEVICE void barrier_sync(int number, int threads) {
#ifdef CUSIM
  cusim::named_barrier(number, threads);
#else
  asm volatile("bar.sync %0, %1;" ::"r"(number), "r"(threads) : "memory");
#endif
}

// Programmatic dependent launch (sm_90 and newer; nothing elsewhere). Before the first read of what the kernel
// before it in the stream writes: wait. Once the next kernel may start its prologue: allow it.
DEVICE void wait_for_previous_kernel() {
#ifdef CUSIM
  cusim::wait_for_previous_kernel();
#elif defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
DEVICE void allow_next_kernel() {
#if !defined(CUSIM) && defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
