// The main loop of mma_tile.cuh with Hopper's wgmma (sm_90a only). A stage's rows of 128 bytes, swizzled, are what
// wgmma reads from shared memory, and a warpgroup's sums lie in its registers as those of four warps' mma do: for
// tiles whose warps each have 16 features and all tokens. The weight is the A operand here too, and k ascends.
#pragma once
#include "mma_tile.cuh"
#include "wgmma.cuh"

// As `multiply`. A warpgroup's products of one stage run while it prepares the next: STAGES - 2 stages are on their
// way.
struct Wgmma {
  template <class Tile, class FinishPart>
  static __device__ __forceinline__ void run(typename Tile::Sums& sums, bf16* shared,
                                             const RowCopies<Tile::FEATURES, Tile::THREADS>& weight,
                                             const RowCopies<Tile::TOKENS, Tile::THREADS>& input, int first,
                                             int last, int part, FinishPart finish_part) {
    static_assert(Tile::M == 1 && Tile::N * 8 == Tile::TOKENS, "a warp has 16 features and all tokens");
#if defined(CUSIM) || defined(__CUDA_ARCH__)
    const auto stage_at = [&](int stage) { return shared + stage % Tile::STAGES * Tile::STAGE_ELEMENTS; };
    const auto start = [&](int stage) {
      if (stage < last) {
        weight.start(stage_at(stage), stage * STAGE_K);
        input.start(stage_at(stage) + Tile::FEATURES * STAGE_K, stage * STAGE_K);
      }
      cp_async_commit();  // of nothing at the end, so that groups keep step with stages
    };
#pragma unroll
    for (int i = 0; i < Tile::STAGES - 2; i++) start(first + i);
    clear(sums);
    auto& flat = reinterpret_cast<float(&)[Tile::N * 4]>(sums);
    int boundary = first + part;
    for (int stage = first; stage < last; stage++) {
      cp_async_wait<Tile::STAGES - 3>();
      fence_async_proxy();
      __syncthreads();  // every thread's copies are there, and the products before the last are done
      start(stage + Tile::STAGES - 2);
      if (stage == boundary) {
        wgmma_wait<0>();
        finish_part(sums);
        clear(sums);
        boundary += part;
      }
      const bf16* rows = stage_at(stage) + warp_id() / 4 * 64 * STAGE_K;
      const bf16* tokens = stage_at(stage) + Tile::FEATURES * STAGE_K;
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < STAGE_K; k += 16) wgmma_bf16(flat, wgmma_swizzled(rows + k), wgmma_swizzled(tokens + k));
      wgmma_commit();
      wgmma_wait<1>();
    }
    wgmma_wait<0>();
#endif
  }
};
