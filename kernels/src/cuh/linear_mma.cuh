// A tile of linear and gated_linear with mma_tile.cuh, whatever the format of the weight. K is cut into parts of `part`
// stages of 64, a constant of the weight's shape. An output is the sum of its parts in ascending order, whether thread
// blocks compute one part each (gridDim.y parts) or one computes all.
#pragma once
#include "linear_tile.cuh"

// One tile of the output.
template <class Tile, bool ALL_PARTS, class Outputs, class Weight>
DEVICE void linear_tile(const Outputs& outputs, const bf16* x, const Weight& weight, float* partials,
                        uint32_t* semaphores, int T, int part) {
  DYN_SMEM(bf16, shared);
  const Place place = place_of(blockIdx.x, Tile::FEATURES, Tile::TOKENS, outputs.features(), T);
  typename Weight::template Copies<Tile::FEATURES, Tile::THREADS> weight_rows(
      weight, [&](int row) { return outputs.weight_row(place.feature + row); });
  const RowCopies<Tile::TOKENS, Tile::THREADS> input_rows(
      x, weight.K, [&](int row) { return place.token + row < T ? place.token + row : -1; });
  const int stages = (weight.K + STAGE_K - 1) / STAGE_K;

  typename Tile::Sums sums;
  if constexpr (ALL_PARTS) {
    typename Tile::Sums total;
    clear(total);
    multiply<Tile>(sums, shared, weight_rows, input_rows, 0, stages, part,
                   [&](auto& sums) { add(total, sums); });
    add(sums, total);
  } else {
    const int first = blockIdx.y * part;
    multiply<Tile>(sums, shared, weight_rows, input_rows, first, min(first + part, stages), part,
                   [](auto&) {});
    if (!add_parts<Tile::THREADS>(sums, partials, semaphores, blockIdx.x, blockIdx.y, gridDim.y)) return;
  }
  store_tile<Tile>(outputs, sums, place, T);
}
