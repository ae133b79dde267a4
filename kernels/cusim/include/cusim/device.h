// Included before a .cu file that is compiled as C++ for the simulated device: the words of CUDA C++ that kernels use.
// Defines: qualifiers, threadIdx and its kin, vector types, warp intrinsics, atomics, device math.
#pragma once
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <algorithm>
#include <type_traits>

#include "cusim/runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__ const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

// Every array of shared memory is placed by the simulator, between red zones, where the thread block first reaches
// it. (`__shared__` itself cannot be a section attribute: GCC drops those inside templates without a word.)
#define SMEM(T, name, dims)                                                               \
  typedef T name##_array_ dims;                                                           \
  static ::cusim::SharedArray name##_place_{sizeof(name##_array_), #name, 0, nullptr};    \
  name##_array_& name = *reinterpret_cast<name##_array_*>(::cusim::shared_array(name##_place_))
#define DYN_SMEM(T, name) T* name = reinterpret_cast<T*>(::cusim::dynamic_shared())
#define KERNEL_EXPORT(name) static ::cusim::Kernel cusim_kernel_##name(#name, __FILE__, &name);

#define threadIdx (::cusim::thread_index())
#define blockIdx (::cusim::block_index())
#define blockDim (::cusim::block_dim())
#define gridDim (::cusim::grid_dim())
static constexpr int warpSize = 32;

// ---- barriers and warp intrinsics -------------------------------------------------------------------------------
// A macro, so that threads that wait in different statements are told apart.
#define __syncthreads() ::cusim::block_barrier(__FILE__, __LINE__)
static inline void __syncwarp(uint32_t mask = ~0u) { ::cusim::warp_barrier(mask); }
static inline uint32_t __activemask() { return ::cusim::active_mask(); }

template <class T>
static inline T __shfl_sync(uint32_t mask, T value, int source, int width = 32) {
  const int lane = ::cusim::lane();
  return ::cusim::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)));
}
namespace cusim {
// Lanes outside the segment of `width` lanes give the reader its own value.
template <class T>
static inline T shuffle_within(uint32_t mask, T value, int source, int width) {
  const int me = lane(), segment = ~(width - 1);
  return shuffle(mask, value, source >= 0 && (source & segment) == (me & segment) ? source : me);
}
}  // namespace cusim
template <class T>
static inline T __shfl_xor_sync(uint32_t mask, T value, int lanes, int width = 32) {
  return ::cusim::shuffle_within(mask, value, ::cusim::lane() ^ lanes, width);
}
template <class T>
static inline T __shfl_down_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  return ::cusim::shuffle_within(mask, value, ::cusim::lane() + static_cast<int>(delta), width);
}
template <class T>
static inline T __shfl_up_sync(uint32_t mask, T value, unsigned delta, int width = 32) {
  return ::cusim::shuffle_within(mask, value, ::cusim::lane() - static_cast<int>(delta), width);
}
static inline uint32_t __ballot_sync(uint32_t mask, int predicate) { return ::cusim::ballot(mask, predicate != 0); }
static inline int __any_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
static inline int __all_sync(uint32_t mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }
static inline uint32_t __reduce_add_sync(uint32_t mask, uint32_t v) { return ::cusim::reduce_add(mask, v); }
static inline uint32_t __reduce_max_sync(uint32_t mask, uint32_t v) { return ::cusim::reduce_max(mask, v); }
static inline uint32_t __reduce_min_sync(uint32_t mask, uint32_t v) { return ~::cusim::reduce_max(mask, ~v); }

// ---- atomics and fences -----------------------------------------------------------------------------------------
// Threads are switched only inside calls of the simulator, so that a plain update between two calls is atomic.
#define CUSIM_ATOMIC(name, update)                                                            \
  template <class T>                                                                          \
  __attribute__((no_sanitize("thread"), noinline)) static T name(T* at, ::cusim::same<T> v) { \
    ::cusim::before_atomic(at, sizeof(T));                                                    \
    const T old = *at;                                                                        \
    *at = (update);                                                                           \
    return old;                                                                               \
  }
CUSIM_ATOMIC(atomicAdd, old + v)
CUSIM_ATOMIC(atomicSub, old - v)
CUSIM_ATOMIC(atomicMax, old > v ? old : v)
CUSIM_ATOMIC(atomicMin, old < v ? old : v)
CUSIM_ATOMIC(atomicOr, old | v)
CUSIM_ATOMIC(atomicAnd, old& v)
CUSIM_ATOMIC(atomicExch, v)
CUSIM_ATOMIC(atomicInc, old >= v ? 0 : old + 1)
template <class T>
__attribute__((no_sanitize("thread"), noinline)) static T atomicCAS(T* at, ::cusim::same<T> expected,
                                                                    ::cusim::same<T> v) {
  ::cusim::before_atomic(at, sizeof(T));
  const T old = *at;
  if (old == expected) *at = v;
  return old;
}
static inline void __threadfence() { ::cusim::device_fence(); }
static inline void __threadfence_block() {}

// ---- vector types -----------------------------------------------------------------------------------------------
#define CUSIM_VECTORS(T, name)                                                                  \
  struct alignas(2 * sizeof(T)) name##2 { T x, y; };                                            \
  struct alignas(sizeof(T) == 8 ? 16 : 4 * sizeof(T)) name##4 { T x, y, z, w; };                \
  static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                             \
  static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }
CUSIM_VECTORS(int, int)
CUSIM_VECTORS(unsigned, uint)
CUSIM_VECTORS(float, float)
CUSIM_VECTORS(unsigned char, uchar)
CUSIM_VECTORS(unsigned short, ushort)

// ---- math -------------------------------------------------------------------------------------------------------
// glibc declares some of these names for itself: macros, not functions.
#define __expf(x) expf(x)
#define __exp10f(x) exp10f(x)
#define __logf(x) logf(x)
#define __log2f(x) log2f(x)
#define __sinf(x) sinf(x)
#define __cosf(x) cosf(x)
#define __powf(x, y) powf(x, y)
static inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
static inline float __frsqrt_rn(float x) { return 1.0f / sqrtf(x); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline uint32_t __umulhi(uint32_t a, uint32_t b) { return static_cast<uint32_t>((uint64_t{a} * b) >> 32); }
static inline int __popc(uint32_t x) { return __builtin_popcount(x); }
static inline int __popcll(uint64_t x) { return __builtin_popcountll(x); }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
namespace cusim {
template <class To, class From>
static inline To bits_as(From from) {
  static_assert(sizeof(To) == sizeof(From), "a cast of bits keeps the size");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace cusim
static inline float __int_as_float(int x) { return ::cusim::bits_as<float>(x); }
static inline float __uint_as_float(uint32_t x) { return ::cusim::bits_as<float>(x); }
static inline int __float_as_int(float x) { return ::cusim::bits_as<int>(x); }
static inline uint32_t __float_as_uint(float x) { return ::cusim::bits_as<uint32_t>(x); }
static inline long long __double_as_longlong(double x) { return ::cusim::bits_as<long long>(x); }
static inline double __longlong_as_double(long long x) { return ::cusim::bits_as<double>(x); }
template <class T>
static inline T __ldg(const T* at) { return *at; }
template <class T>
static inline T __ldcs(const T* at) { return *at; }
using std::max;
using std::min;
