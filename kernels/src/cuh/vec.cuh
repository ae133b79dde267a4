// Vector loads and stores: N elements in one access of at most 16 bytes.
#pragma once
#include "common.cuh"

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  static_assert(sizeof(T) * N <= 16 && (N & (N - 1)) == 0, "one access is 2, 4, 8 or 16 bytes");
  T v[N];
};

// How many T fill 16 bytes.
template <class T>
constexpr int PER_16_BYTES = 16 / sizeof(T);

// `from` is aligned to the pack's size.
template <int N, class T>
DEVICE Pack<T, N> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, N>*>(from);
}
template <class T, int N>
DEVICE void store_pack(T* to, const Pack<T, N>& pack) {
  *reinterpret_cast<Pack<T, N>*>(to) = pack;
}

// 16 bytes that are read once and never written by this kernel, such as weights: leaves the L1 cache to others.
template <class T>
DEVICE Pack<T, PER_16_BYTES<T>> load_streaming(const T* from) {
#ifdef CUSIM
  return load_pack<PER_16_BYTES<T>>(from);
#else
  uint4 raw;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(raw.x), "=r"(raw.y), "=r"(raw.z), "=r"(raw.w)
               : "l"(from));
  return *reinterpret_cast<Pack<T, PER_16_BYTES<T>>*>(&raw);
#endif
}

// N elements of any float type as f32, and back.
template <int N, class T>
DEVICE void load_f32(float (&to)[N], const T* from) {
  const Pack<T, N> pack = load_pack<N>(from);
#pragma unroll
  for (int i = 0; i < N; i++) to[i] = to_f32(pack.v[i]);
}
template <int N, class T>
DEVICE void store_f32(T* to, const float (&from)[N]) {
  Pack<T, N> pack;
#pragma unroll
  for (int i = 0; i < N; i++) pack.v[i] = from_f32<T>(from[i]);
  store_pack(to, pack);
}
