// What the kernels of moe share: its sizes, tiles of pairs, what becomes of the sums, and products on the tensor cores
// with weights of any format.
#pragma once
#include "activation.cuh"
#include "mma_tile.cuh"
#include "vec.cuh"

// Visits first .. end of one expert, at most as many as a tile has tokens. end 0: no tile.
struct ExpertTile {
  uint32_t expert, first, end;
};

// As in ops/moe/cuda.rs: E experts of H to I, k pairs of each row.
struct MoeShape {
  uint32_t experts, chosen, hidden, intermediate;
  uint32_t pairs, tile_tokens, tile_count;
};

// Features, tokens, warps along each, stages: those of `linear`.
using Tile8 = MmaTile<64, 8, 4, 1, 6>;
using Tile32 = MmaTile<64, 32, 4, 1, 5>;
using Tile128 = MmaTile<128, 128, 2, 4, 3>;

// What becomes of the products with gate and up: an element of `activated`.
template <class X>
struct GateUp {
  X* activated;          // [pairs, I]
  const float* bias;     // [E, 2I] or null
  const float* weights;  // [T, k]: factors of gate and up, or null
  const uint32_t* pair_ids;
  Glu glu;

  __device__ __forceinline__ void store(const MoeShape& shape, uint32_t expert, uint32_t place, uint32_t i, float gate,
                                        float up) const {
    const uint32_t n = shape.intermediate;
    if (bias != nullptr) gate += bias[2 * n * expert + i], up += bias[2 * n * expert + n + i];
    if (weights != nullptr) gate *= weights[pair_ids[place]], up *= weights[pair_ids[place]];
    activated[(size_t)place * n + i] = from_f32<X>(apply_glu(glu, gate, up));
  }
};

// What becomes of the products with down.
struct Down {
  float* out;         // [pairs, H]
  const float* bias;  // [E, H] or null

  __device__ __forceinline__ void store(const MoeShape& shape, uint32_t expert, uint32_t place, uint32_t i,
                                        float sum) const {
    const uint32_t n = shape.hidden;
    out[(size_t)place * n + i] = bias == nullptr ? sum : sum + bias[n * expert + i];
  }
};

// A tile's products on the tensor cores. `weight_row(feature)`, `input_row(place)`: rows of the matrices, -1 for none;
// `store(feature, place, low, high)`: the sums of features `feature` and `feature + 8`.
template <class Tile, class Weight, class WeightRow, class InputRow, class Store>
DEVICE void multiply_tile(const ExpertTile& tile, const Weight& weight, const bf16* input, WeightRow weight_row,
                          InputRow input_row, Store store) {
  DYN_SMEM(bf16, shared);
  const int first_feature = blockIdx.x * Tile::FEATURES, stages = (weight.K + STAGE_K - 1) / STAGE_K;
  typename Weight::template Copies<Tile::FEATURES, Tile::THREADS> weight_rows(
      weight, [&](int row) { return weight_row(first_feature + row); });
  const RowCopies<Tile::TOKENS, Tile::THREADS> input_rows(input, weight.K, [&](int row) {
    const uint32_t place = tile.first + row;
    return place < tile.end ? input_row(place) : -1;
  });
  typename Tile::Sums sums;
  multiply<Tile>(sums, shared, weight_rows, input_rows, 0, stages, stages, [](auto&) {});
  const int feature = first_feature + warp_feature<Tile>() + lane_id() / 4;
  const uint32_t place = tile.first + warp_token<Tile>() + lane_id() % 4 * 2;
#pragma unroll
  for (int i = 0; i < Tile::M; i++)
#pragma unroll
    for (int j = 0; j < Tile::N; j++)
#pragma unroll
      for (int odd = 0; odd < 2; odd++) {
        const float(&own)[4] = sums[i * Tile::N + j];
        if (place + 8 * j + odd < tile.end) store(feature + 16 * i, place + 8 * j + odd, own[odd], own[2 + odd]);
      }
}

// gate_up [E, 2I, H] of any format. Features alternate: eight gate rows, then the eight up rows that go with them, so that one
// thread has both sums of an output. Grid [2I / FEATURES, tiles].
template <class Tile, class Weight>
DEVICE void gate_up_mma(const GateUp<bf16>& to, const bf16* x, const Weight& gate_up, const ExpertTile* tiles,
                        const MoeShape& shape) {
  const ExpertTile tile = tiles[blockIdx.y];
  if (tile.first >= tile.end) return;
  const int I = shape.intermediate;
  const auto output = [](int feature) { return feature / 16 * 8 + feature % 8; };
  multiply_tile<Tile>(
      tile, gate_up.from_row((size_t)tile.expert * 2 * I), x,
      [&](int feature) { return output(feature) >= I ? -1 : feature % 16 < 8 ? output(feature) : I + output(feature); },
      [&](uint32_t place) { return (int)(to.pair_ids[place] / shape.chosen); },
      [&](int feature, uint32_t place, float gate, float up) {
        if (output(feature) < I) to.store(shape, tile.expert, place, output(feature), gate, up);
      });
}

// down [E, H, I]. Grid [H / FEATURES, tiles].
template <class Tile, class Weight>
DEVICE void down_mma(const Down& to, const bf16* activated, const Weight& down, const ExpertTile* tiles,
                     const MoeShape& shape) {
  const ExpertTile tile = tiles[blockIdx.y];
  if (tile.first >= tile.end) return;
  const int H = shape.hidden;
  multiply_tile<Tile>(
      tile, down.from_row((size_t)tile.expert * H), activated,
      [&](int feature) { return feature < H ? feature : -1; }, [](uint32_t place) { return (int)place; },
      [&](int feature, uint32_t place, float low, float high) {
        if (feature < H) to.store(shape, tile.expert, place, feature, low);
        if (feature + 8 < H) to.store(shape, tile.expert, place, feature + 8, high);
      });
}
