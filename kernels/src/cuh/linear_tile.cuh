// What linear and gated_linear share, whatever their main loop: where a tile stands in the output, and what
// becomes of its sums.
#pragma once
#include "activation.cuh"
#include "mma_tile.cuh"
#include "split_sum.cuh"

// The first feature and token of a tile.
struct Place {
  int feature, token;
};

DEVICE int tile_count(int tile_features, int tile_tokens, int features, int tokens) {
  return ((features + tile_features - 1) / tile_features) * ((tokens + tile_tokens - 1) / tile_tokens);
}

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

  // So many features from a multiple of as many on stand together in the weight, from row `box_row` on; those
  // that do not exist are rows beyond the weight, or rows whose sums `store` drops.
  static constexpr int BOX_ROWS = 64;
  __device__ __forceinline__ int box_row(int feature) const { return feature; }

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
    return i >= I ? -1 : box_row(feature);
  }
  static constexpr int BOX_ROWS = 8;
  __device__ __forceinline__ int box_row(int feature) const {
    return feature % 16 < 8 ? output(feature) : I + output(feature);
  }
  __device__ __forceinline__ void store(int token, int feature, float gate, float up) const {
    const int i = output(feature);
    if (i >= I) return;
    if (bias != nullptr) gate += bias[i], up += bias[I + i];
    out[(size_t)token * I + i] = from_f32<bf16>(apply_glu(glu, gate, up));
  }
  static __device__ __forceinline__ int output(int feature) { return feature / 16 * 8 + feature % 8; }
};

// Stores a thread's sums of the tile at `place`.
template <class Tile, class Outputs>
DEVICE void store_tile(const Outputs& outputs, const typename Tile::Sums& sums, Place place, int T) {
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
