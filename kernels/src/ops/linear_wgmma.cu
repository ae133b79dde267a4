// linear and gated_linear as in linear.cu, with Hopper's wgmma and TMA: the family of kernels for compute
// capability 9.0, from one row up. `weight` is a map of [N, K] in boxes of 64 rows for linear, of 8 for
// gated_linear (gate and up rows alternate in eights); `x` is one of [T, K] in boxes of the tile's tokens.
//
// gridDim.x thread blocks share the tiles of the output, with gridDim.y parts of K or each with all: while
// the sums of a tile are stored, TMA fills the ring for the next.
#include "../cuh/linear_tile.cuh"
#include "../cuh/wgmma_tile.cuh"

// Which parts of K a thread block computes.
enum class Parts {
  ONE,    // that of blockIdx.y; the last thread block of a tile adds them up
  ALL,    // all in turn
  WHOLE,  // K is one part
};

// The part of linear_tiles in a thread block's one thread that fills the ring.
template <class Tile, class Outputs>
DEVICE void fill(Ring<Tile>& ring, const Outputs& outputs, const TensorMap& weight, const TensorMap& x,
                 Place place, int first, int last) {
  ring.fill(first, last, [&](bf16* weight_rows, bf16* input_rows, int k, uint64_t* barrier) {
#pragma unroll
    for (int row = 0; row < Tile::FEATURES; row += Outputs::BOX_ROWS)
      tma_load_2d(weight_rows + row * STAGE_K, &weight, k, outputs.box_row(place.feature + row), barrier);
    tma_load_2d(input_rows, &x, k, place.token, barrier);
  });
}

// That in the threads that multiply. True where they have the sums of all parts, to be stored.
template <class Tile, Parts PARTS>
DEVICE bool sum_tile(typename Tile::Sums& sums, Ring<Tile>& ring, float* partials, uint32_t* semaphores,
                     int tile, int first, int last, int part) {
  if constexpr (PARTS == Parts::ALL) {
    typename Tile::Sums of_part;
    clear(sums);
    for (int start = first; start < last; start += part) {
      ring.multiply(of_part, min(part, last - start));
      add(sums, of_part);
    }
    return true;
  } else {
    ring.multiply(sums, last - first);
    if (PARTS == Parts::WHOLE) return true;
    return add_parts<Tile::CONSUMERS>(sums, partials, semaphores, tile, blockIdx.y, gridDim.y);
  }
}

template <class Tile, Parts PARTS, class Outputs>
DEVICE void linear_tiles(const Outputs& outputs, const TensorMap& weight, const TensorMap& x, float* partials,
                         uint32_t* semaphores, int T, int K, int part) {
#if defined(CUSIM) || defined(__CUDA_ARCH__)
  DYN_SMEM(bf16, stages);
  SMEM(uint64_t, barriers, [2 * Tile::STAGES]);
  Ring<Tile> ring(stages, barriers);
  const int all = (K + STAGE_K - 1) / STAGE_K;
  const int first = PARTS == Parts::ONE ? blockIdx.y * part : 0;
  const int last = PARTS == Parts::ONE ? min(first + part, all) : all;
  const int tiles = tile_count(Tile::FEATURES, Tile::TOKENS, outputs.features(), T);
  const auto place = [&](int tile) {
    return place_of(tile, Tile::FEATURES, Tile::TOKENS, outputs.features(), T);
  };

  if (threadIdx.x >= Tile::CONSUMERS) {
    if (Tile::SHARES_REGISTERS) setmaxnreg_dec<Tile::PRODUCER_REGISTERS>();
    if (threadIdx.x > Tile::CONSUMERS) return;
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x)
      fill(ring, outputs, weight, x, place(tile), first, last);
  } else {
    if (Tile::SHARES_REGISTERS) setmaxnreg_inc<Tile::CONSUMER_REGISTERS>();
    for (int tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
      typename Tile::Sums sums;
      if (sum_tile<Tile, PARTS>(sums, ring, partials, semaphores, tile, first, last, part))
        store_tile<Tile>(outputs, sums, place(tile), T);
    }
  }
#endif
}

// The kernels linear_wgmma_<variant>_bf16 and gated_linear_wgmma_<variant>_bf16; after BLOCKS, the thread
// blocks that a multiprocessor is to hold, what makes the WgmmaTile.
#define LINEAR_WGMMA(variant, PARTS, BLOCKS, ...)                                                       \
  extern "C" __global__ void __launch_bounds__(WgmmaTile<__VA_ARGS__>::THREADS, BLOCKS)                 \
      linear_wgmma_##variant##_bf16(float* out, const __grid_constant__ TensorMap x,                    \
                                    const __grid_constant__ TensorMap weight, const float* bias,        \
                                    float* partials, uint32_t* semaphores, int T, int N, int K, int part) {\
    const Plain outputs = {out, bias, N};                                                               \
    linear_tiles<WgmmaTile<__VA_ARGS__>, PARTS>(outputs, weight, x, partials, semaphores, T, K, part);    \
  }                                                                                                     \
  KERNEL_EXPORT(linear_wgmma_##variant##_bf16)                                                          \
  extern "C" __global__ void __launch_bounds__(WgmmaTile<__VA_ARGS__>::THREADS, BLOCKS)                 \
      gated_linear_wgmma_##variant##_bf16(bf16* out, const __grid_constant__ TensorMap x,               \
                                          const __grid_constant__ TensorMap weight, const float* bias,  \
                                          float* partials, uint32_t* semaphores, int T, int I, int K,     \
                                          int part, int kind, int act, float alpha, float limit) {      \
    const Gated outputs = {out, bias, I, {kind, act, alpha, limit}};                                    \
    linear_tiles<WgmmaTile<__VA_ARGS__>, PARTS>(outputs, weight, x, partials, semaphores, T, K, part);    \
  }                                                                                                     \
  KERNEL_EXPORT(gated_linear_wgmma_##variant##_bf16)

// Features, tokens, stages.
LINEAR_WGMMA(t8, Parts::ONE, 3, 64, 8, 8)
LINEAR_WGMMA(t16, Parts::ONE, 3, 64, 16, 7)
LINEAR_WGMMA(t32, Parts::ONE, 3, 64, 32, 6)
LINEAR_WGMMA(t64, Parts::ONE, 3, 64, 64, 4)
LINEAR_WGMMA(t128, Parts::ONE, 1, 128, 128, 6)
LINEAR_WGMMA(t192_serial_split_k, Parts::ALL, 1, 128, 192, 5)
LINEAR_WGMMA(t256_whole, Parts::WHOLE, 1, 128, 256, 4)
