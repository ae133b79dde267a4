// A matrix product per head, out[t, h, f] = Σ_k weight[h, f, k] · x[t, h, k]: what absorb_w_uk and
// up_project_w_uv share. Every sum runs over all of K in ascending order, so its bits depend on its two rows
// alone.
//
//   out [T, Hq, out_stride], of which the first F elements; x [T, Hq, x_stride], of which the first K;
//   weight [Hq, F, K]. Grid [F / features of a tile, Hq, T / tokens of a tile].
#pragma once
#include "mma_tile.cuh"
#include "simt_tile.cuh"
#include "vec.cuh"

struct HeadProduct {
  uint32_t rows, heads, features, k;
  uint32_t x_stride, out_stride;  // elements from head to head

  // Where the calling thread block's head of a row begins.
  template <class T>
  __device__ __forceinline__ T* x_row(T* x, uint32_t row) const {
    return x + ((size_t)row * heads + blockIdx.y) * x_stride;
  }
  template <class T>
  __device__ __forceinline__ T* out_row(T* out, uint32_t row) const {
    return out + ((size_t)row * heads + blockIdx.y) * out_stride;
  }
};

// On the tensor cores: K is a multiple of 8. `input` copies the tile's rows of x, as RowCopies does.
template <class Tile, class Input>
DEVICE void multiply_heads_mma(bf16* out, const bf16* weight, const Input& input, const HeadProduct& p) {
  DYN_SMEM(bf16, shared);
  const int F = p.features, K = p.k, stages = (K + STAGE_K - 1) / STAGE_K;
  const int first_feature = blockIdx.x * Tile::FEATURES;
  const RowCopies<Tile::FEATURES, Tile::THREADS> weights(
      weight + (size_t)blockIdx.y * F * K, K,
      [&](int row) { return first_feature + row < F ? first_feature + row : -1; });
  typename Tile::Sums sums;
  multiply<Tile>(sums, shared, weights, input, 0, stages, stages, [](auto&) {});
  const int feature = first_feature + warp_feature<Tile>() + lane_id() / 4;
  const uint32_t row = blockIdx.z * Tile::TOKENS + warp_token<Tile>() + lane_id() % 4 * 2;
#pragma unroll
  for (int i = 0; i < Tile::M; i++)
#pragma unroll
    for (int j = 0; j < Tile::N; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) {
        const int f = feature + 16 * i + e / 2 * 8;
        const uint32_t t = row + 8 * j + e % 2;
        if (t < p.rows && f < F) p.out_row(out, t)[f] = from_f32<bf16>(sums[i * Tile::N + j][e]);
      }
}

// Without tensor cores, for every size and type. x is rounded to X.
template <class X, class W, class In>
DEVICE void multiply_heads_simt(X* out, const W* weight, const In* x, const HeadProduct& p) {
  const uint32_t first_feature = blockIdx.x * SIMT_FEATURES, first_row = blockIdx.z * SIMT_TOKENS;
  const W* weights = weight + (size_t)blockIdx.y * p.features * p.k;
  float sums[1][SIMT_EACH] = {};
  const auto weight_at = [&](uint32_t, uint32_t row) {
    return first_feature + row < p.features ? weights + (size_t)(first_feature + row) * p.k : nullptr;
  };
  const auto input_at = [&](uint32_t row) {
    return first_row + row < p.rows ? p.x_row(x, first_row + row) : nullptr;
  };
  multiply_simt<1, X, W>(sums, p.k, weight_at, input_at);
  const uint32_t feature = first_feature + simt_feature();
#pragma unroll
  for (int t = 0; t < SIMT_EACH; t++) {
    const uint32_t row = first_row + simt_token() + t;
    if (row < p.rows && feature < p.features) p.out_row(out, row)[feature] = from_f32<X>(sums[0][t]);
  }
}

// Features, tokens, warps along each, stages. With few rows, many small thread blocks that ask for all of
// their weights at once; with many, tiles that read weights and rows less often.
using FewRows = MmaTile<32, 8, 2, 1, 8>;
using ManyRows = MmaTile<128, 64, 4, 2, 3>;
