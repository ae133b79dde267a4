// What linear and gated_linear share, whatever their main loop: which tile a thread block computes, and what becomes
// of the sums.
#pragma once
#include "activation.cuh"
#include "mma_tile.cuh"
#include "split_sum.cuh"

// The first feature and token of a tile.
struct Place {
  int feature, token;
};

// Tiles are counted eight token tiles abreast, so that thread blocks that run together read the same rows.
DEVICE Place place_of(int tile, int tile_features, int tile_tokens, int features, int tokens) {
  constexpr int ABREAST = 8;
  const int down = (features + tile_features - 1) / tile_features,
            across = (tokens + tile_tokens - 1) / tile_tokens;
  const int group = tile / (ABREAST * down), within = tile % (ABREAST * down);
  const int abreast = min(ABREAST, across - group * ABREAST);
  return {within / abreast * tile_features, (group * ABREAST + within % abreast) * tile_tokens};
}

// What `linear` makes of the sums.
struct Plain {
  float* out;         // [T, N]
  const float* bias;  // [N] or null
  int N;

  // Features that the tiles cover together, and which row of the weight feature `feature` is (-1: none).
  __device__ __forceinline__ int features() const { return N; }
  __device__ __forceinline__ int weight_row(int feature) const { return feature < N ? feature : -1; }

  // Stores sums e = 0, 2 (or 1, 3) of a fragment: those of features `feature` and `feature + 8` for one
  // token.
  __device__ __forceinline__ void store(int token, int feature, float low, float high) const {
    float* row = out + (size_t)token * N;
    if (feature < N) row[feature] = low + added(feature);
    if (feature + 8 < N) row[feature + 8] = high + added(feature + 8);
  }
  __device__ __forceinline__ float added(int feature) const { return bias != nullptr ? bias[feature] : 0.0f; }
};

// What `gated_linear` makes of them. Features alternate: eight gate rows, then the eight up rows that go with
// them, so that one thread has both sums of an output.
struct Gated {
  bf16* out;          // [T, I]
  const float* bias;  // [2I] or null
  int I;
  Glu glu;

  __device__ __forceinline__ int features() const { return (I + 7) / 8 * 16; }
  __device__ __forceinline__ int weight_row(int feature) const {
    const int i = output(feature);
    return i >= I ? -1 : feature % 16 < 8 ? i : I + i;
  }
  __device__ __forceinline__ void store(int token, int feature, float gate, float up) const {
    const int i = output(feature);
    if (i >= I) return;
    if (bias != nullptr) gate += bias[i], up += bias[I + i];
    out[(size_t)token * I + i] = from_f32<bf16>(apply_glu(glu, gate, up));
  }
  static __device__ __forceinline__ int output(int feature) { return feature / 16 * 8 + feature % 8; }
};

// One tile of the output. `Multiply::run<Tile>` is the main loop, with the arguments of `multiply` in mma_tile.cuh.
template <class Multiply, class Tile, bool ALL_PARTS, class Outputs>
DEVICE void linear_tile(const Outputs& outputs, const bf16* x, const bf16* weight, float* partials,
                        uint32_t* arrivals, int T, int K, int part) {
  DYN_SMEM(bf16, shared);
  const Place place = place_of(blockIdx.x, Tile::FEATURES, Tile::TOKENS, outputs.features(), T);
  const RowCopies<Tile::FEATURES, Tile::THREADS> weight_rows(
      weight, K, [&](int row) { return outputs.weight_row(place.feature + row); });
  const RowCopies<Tile::TOKENS, Tile::THREADS> input_rows(
      x, K, [&](int row) { return place.token + row < T ? place.token + row : -1; });
  const int stages = (K + STAGE_K - 1) / STAGE_K;

  typename Tile::Sums sums;
  if constexpr (ALL_PARTS) {
    typename Tile::Sums total;
    clear(total);
    Multiply::template run<Tile>(sums, shared, weight_rows, input_rows, 0, stages, part,
                   [&](auto& sums) { add(total, sums); });
    add(sums, total);
  } else {
    const int first = blockIdx.y * part;
    Multiply::template run<Tile>(sums, shared, weight_rows, input_rows, first, min(first + part, stages), part,
                   [](auto&) {});
    if (!add_parts(sums, partials, arrivals, blockIdx.x, blockIdx.y, gridDim.y)) return;
  }

  const int feature = place.feature + warp_feature<Tile>() + lane_id() / 4;
  const int token = place.token + warp_token<Tile>() + lane_id() % 4 * 2;
#pragma unroll
  for (int i = 0; i < Tile::M; i++)
#pragma unroll
    for (int j = 0; j < Tile::N; j++)
#pragma unroll
      for (int odd = 0; odd < 2; odd++)
        if (token + 8 * j + odd < T) {
          const float (&own)[4] = sums[i * Tile::N + j];
          outputs.store(token + 8 * j + odd, feature + 16 * i, own[odd], own[2 + odd]);
        }
}

// The kernels linear_<variant>_bf16 and gated_linear_<variant>_bf16; after BLOCKS, the thread blocks that a multiprocessor
// is to hold, what makes the MmaTile.
#define LINEAR(Multiply, variant, ALL_PARTS, BLOCKS, ...)                                                         \
  extern "C" __global__ void __launch_bounds__(MmaTile<__VA_ARGS__>::THREADS, BLOCKS)                   \
      linear_##variant##_bf16(float* out, const bf16* x, const bf16* weight, const float* bias,         \
                              float* partials, uint32_t* arrivals, int T, int N, int K, int part) {     \
    const Plain outputs = {out, bias, N};                                                               \
    linear_tile<Multiply, MmaTile<__VA_ARGS__>, ALL_PARTS>(outputs, x, weight, partials, arrivals, T, K, part);   \
  }                                                                                                     \
  KERNEL_EXPORT(linear_##variant##_bf16)                                                                \
  extern "C" __global__ void __launch_bounds__(MmaTile<__VA_ARGS__>::THREADS, BLOCKS)                   \
      gated_linear_##variant##_bf16(bf16* out, const bf16* x, const bf16* weight, const float* bias,    \
                                    float* partials, uint32_t* arrivals, int T, int I, int K, int part, \
                                    int kind, int act, float alpha, float limit) {                      \
    const Gated outputs = {out, bias, I, {kind, act, alpha, limit}};                                    \
    linear_tile<Multiply, MmaTile<__VA_ARGS__>, ALL_PARTS>(outputs, x, weight, partials, arrivals, T, K, part);   \
  }                                                                                                     \
  KERNEL_EXPORT(gated_linear_##variant##_bf16)
