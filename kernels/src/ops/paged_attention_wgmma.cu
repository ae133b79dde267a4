// paged_attention as in paged_attention.cu, with Hopper's wgmma: the family of kernels for compute capability
// 9.0 and heads of up to 128 elements, from one row up. A warpgroup has 64 queries.
#include "../cuh/attend.cuh"
#include "../cuh/wgmma.cuh"

// Operands in shared memory are advanced by adding to the descriptor: its address is in units of 8 elements.
struct Wgmma {
#if defined(CUSIM) || defined(__CUDA_ARCH__)
  template <class Shape, class ToScores>
  static __device__ __forceinline__ void scores(Fragments<Shape::SPAN / 8>& scores, const bf16* queries,
                                                const bf16* keys, float*, const Place<Shape>& place,
                                                bool busy, ToScores to_scores) {
    auto& dots = reinterpret_cast<float(&)[Shape::SPAN / 2]>(scores);
    const uint64_t q = wgmma_swizzled(queries + place.band / 4 * 64 * 64), k = wgmma_swizzled(keys);
    scores.clear();
    wgmma_fence();
#pragma unroll
    for (int at = 0; at < Shape::DIM; at += 16) {
      const int panel = at / 64 * 64;
      wgmma_bf16(dots, q + (panel * Shape::QUERIES + at % 64) / 8, k + (panel * Shape::SPAN + at % 64) / 8);
    }
    wgmma_commit();
    wgmma_wait<0>();
    if (busy) to_scores(scores, 0);
  }
  template <class Shape>
  static __device__ __forceinline__ void add(Fragments<Shape::COLUMNS>& sums,
                                             const Fragments<Shape::SPAN / 8>& weights, const bf16* values,
                                             const Place<Shape>&, bool) {
    uint32_t w[Shape::SPAN / 16][4];
#pragma unroll
    for (int j = 0; j < Shape::SPAN / 16; j++) pack_weights(w[j], weights, 2 * j);
    auto& flat = reinterpret_cast<float(&)[Shape::COLUMNS * 4]>(sums);
    const uint64_t v = wgmma_panels(values, Shape::SPAN * 64 * sizeof(bf16));
    wgmma_fence();
#pragma unroll
    for (int j = 0; j < Shape::SPAN / 16; j++) wgmma_bf16_by_rows(flat, w[j], v + 16 * j * 64 / 8);
    wgmma_commit();
    wgmma_wait<0>();
  }
  // wgmma reads what copies of all threads wrote.
  static __device__ __forceinline__ void fence() { fence_async_proxy(); }
#endif
};

// 64 queries: for decode, whose warps without queries do little.
ATTEND(wgmma64, 3, Wgmma, 64, 64, 2, 4, 1)
ATTEND(wgmma128, 2, Wgmma, 128, 64, 2, 4, 1)
// 128: for prefill.
ATTEND(wgmma64_tall, 1, Wgmma, 64, 64, 2, 8, 1)
ATTEND(wgmma128_tall, 1, Wgmma, 128, 64, 2, 8, 1)
