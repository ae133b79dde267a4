// moe: a mixture of experts, as ops/moe.rs defines it.
//
// A *visit* is a (row, slot) pair; visits are sorted by expert, so that those of one expert are a matrix product.
// Tiles of that product are cut on the device and read their rows through the sorted list: nothing is gathered, and
// the host waits for nothing. Every sum runs over all of K in ascending order, whatever the tile.
#include "../cuh/activation.cuh"
#include "../cuh/mma_tile.cuh"
#include "../cuh/simt_tile.cuh"
#include "../cuh/vec.cuh"

constexpr int SORT_THREADS = 512;
constexpr int MAX_EXPERTS = 1024;

// Visits first .. end of one expert, at most as many as a tile has tokens. end 0: no tile.
struct ExpertTile {
  uint32_t expert, first, end;
};

// As in ops/moe/cuda.rs: E experts of H to I, k visits of each row.
struct MoeShape {
  uint32_t experts, chosen, hidden, intermediate;
  uint32_t visits, tile_tokens, tile_count;
};

// Sorts the visits by expert. `ids` [visits]; `pairs` [visits]: each place's visit, as row * k + slot; `places`
// [visits]: where each visit stands; `tiles` [tile_count]. Within an expert the order is that of chance: no sum sees
// it. One thread block.
extern "C" __global__ void __launch_bounds__(SORT_THREADS)
    moe_sort(uint32_t* pairs, uint32_t* places, ExpertTile* tiles, const uint32_t* ids, MoeShape shape) {
  SMEM(uint32_t, counts, [MAX_EXPERTS]);   // of each expert's visits
  SMEM(uint32_t, starts, [MAX_EXPERTS]);   // its first place; moves on while places are taken
  SMEM(uint32_t, begins, [MAX_EXPERTS]);   // its first tile
  for (uint32_t e = threadIdx.x; e < shape.experts; e += SORT_THREADS) counts[e] = 0;
  for (uint32_t i = threadIdx.x; i < shape.tile_count; i += SORT_THREADS) tiles[i] = {0, 0, 0};
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < shape.visits; i += SORT_THREADS) atomicAdd(&counts[ids[i]], 1u);
  __syncthreads();
  if (warp_id() == 0) {
    uint32_t place = 0, tile = 0;
    for (uint32_t first = 0; first < shape.experts; first += WARP_SIZE) {
      const uint32_t e = first + lane_id(), count = e < shape.experts ? counts[e] : 0;
      const uint32_t own = (count + shape.tile_tokens - 1) / shape.tile_tokens;
      uint32_t count_sum = count, tile_sum = own;
#pragma unroll
      for (int offset = 1; offset < WARP_SIZE; offset *= 2) {
        const uint32_t other_count = __shfl_up_sync(ALL_LANES, count_sum, offset);
        const uint32_t other_tiles = __shfl_up_sync(ALL_LANES, tile_sum, offset);
        if (lane_id() >= offset) count_sum += other_count, tile_sum += other_tiles;
      }
      if (e < shape.experts) starts[e] = place + count_sum - count, begins[e] = tile + tile_sum - own;
      place += __shfl_sync(ALL_LANES, count_sum, WARP_SIZE - 1);
      tile += __shfl_sync(ALL_LANES, tile_sum, WARP_SIZE - 1);
    }
  }
  __syncthreads();
  for (uint32_t e = threadIdx.x; e < shape.experts; e += SORT_THREADS) {
    const uint32_t start = starts[e], end = start + counts[e];
    for (uint32_t at = start, i = begins[e]; at < end; at += shape.tile_tokens, i++) {
      tiles[i] = {e, at, min(at + shape.tile_tokens, end)};
    }
  }
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < shape.visits; i += SORT_THREADS) {
    const uint32_t place = atomicAdd(&starts[ids[i]], 1u);
    pairs[place] = i;
    places[i] = place;
  }
}
KERNEL_EXPORT(moe_sort)

// What becomes of the products with gate and up: an element of `activated`.
template <class X>
struct GateUp {
  X* activated;          // [visits, I]
  const float* bias;     // [E, 2I] or null
  const float* weights;  // [T, k]: factors of gate and up, or null
  const uint32_t* pairs;
  Glu glu;

  __device__ __forceinline__ void store(const MoeShape& shape, uint32_t expert, uint32_t place, uint32_t i, float gate,
                                        float up) const {
    const uint32_t n = shape.intermediate;
    if (bias != nullptr) gate += bias[2 * n * expert + i], up += bias[2 * n * expert + n + i];
    if (weights != nullptr) gate *= weights[pairs[place]], up *= weights[pairs[place]];
    activated[(size_t)place * n + i] = from_f32<X>(apply_glu(glu, gate, up));
  }
};

// What becomes of the products with down.
struct Down {
  float* out;         // [visits, H]
  const float* bias;  // [E, H] or null

  __device__ __forceinline__ void store(const MoeShape& shape, uint32_t expert, uint32_t place, uint32_t i,
                                        float sum) const {
    const uint32_t n = shape.hidden;
    out[(size_t)place * n + i] = bias == nullptr ? sum : sum + bias[n * expert + i];
  }
};

// A tile's products on the tensor cores. `weight_row(feature)`, `input_row(place)`: rows of the matrices, -1 for none;
// `store(feature, place, low, high)`: the sums of features `feature` and `feature + 8`.
template <class Tile, class WeightRow, class InputRow, class Store>
DEVICE void multiply_tile(const ExpertTile& tile, const bf16* weight, const bf16* input, int K, WeightRow weight_row,
                          InputRow input_row, Store store) {
  DYN_SMEM(bf16, shared);
  const int first_feature = blockIdx.x * Tile::FEATURES, stages = (K + STAGE_K - 1) / STAGE_K;
  const RowCopies<Tile::FEATURES, Tile::THREADS> weight_rows(
      weight, K, [&](int row) { return weight_row(first_feature + row); });
  const RowCopies<Tile::TOKENS, Tile::THREADS> input_rows(input, K, [&](int row) {
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

// gate_up [E, 2I, H]. Features alternate: eight gate rows, then the eight up rows that go with them, so that one
// thread has both sums of an output. Grid [2I / FEATURES, tiles].
template <class Tile>
DEVICE void gate_up_mma(const GateUp<bf16>& to, const bf16* x, const bf16* gate_up, const ExpertTile* tiles,
                        const MoeShape& shape) {
  const ExpertTile tile = tiles[blockIdx.y];
  if (tile.first >= tile.end) return;
  const int I = shape.intermediate;
  const auto output = [](int feature) { return feature / 16 * 8 + feature % 8; };
  multiply_tile<Tile>(
      tile, gate_up + (size_t)tile.expert * 2 * I * shape.hidden, x, shape.hidden,
      [&](int feature) { return output(feature) >= I ? -1 : feature % 16 < 8 ? output(feature) : I + output(feature); },
      [&](uint32_t place) { return (int)(to.pairs[place] / shape.chosen); },
      [&](int feature, uint32_t place, float gate, float up) {
        if (output(feature) < I) to.store(shape, tile.expert, place, output(feature), gate, up);
      });
}

// down [E, H, I]. Grid [H / FEATURES, tiles].
template <class Tile>
DEVICE void down_mma(const Down& to, const bf16* activated, const bf16* down, const ExpertTile* tiles,
                     const MoeShape& shape) {
  const ExpertTile tile = tiles[blockIdx.y];
  if (tile.first >= tile.end) return;
  const int H = shape.hidden;
  multiply_tile<Tile>(
      tile, down + (size_t)tile.expert * H * shape.intermediate, activated, shape.intermediate,
      [&](int feature) { return feature < H ? feature : -1; }, [](uint32_t place) { return (int)place; },
      [&](int feature, uint32_t place, float low, float high) {
        if (feature < H) to.store(shape, tile.expert, place, feature, low);
        if (feature + 8 < H) to.store(shape, tile.expert, place, feature + 8, high);
      });
}

// Without tensor cores. Grid [I / 32, tiles].
template <class X, class W>
DEVICE void gate_up_simt(const GateUp<X>& to, const X* x, const W* gate_up, const ExpertTile* tiles,
                         const MoeShape& shape) {
  const ExpertTile tile = tiles[blockIdx.y];
  if (tile.first >= tile.end) return;
  const uint32_t H = shape.hidden, I = shape.intermediate;
  const W* weights = gate_up + (size_t)tile.expert * 2 * I * H;
  float sums[2][SIMT_EACH] = {};
  const auto weight_at = [&](uint32_t m, uint32_t row) {
    const uint32_t i = blockIdx.x * SIMT_FEATURES + row;
    return i < I ? weights + (size_t)(m * I + i) * H : nullptr;
  };
  const auto input_at = [&](uint32_t row) {
    const uint32_t place = tile.first + row;
    return place < tile.end ? x + (size_t)(to.pairs[place] / shape.chosen) * H : nullptr;
  };
  multiply_simt<2, X, W>(sums, H, weight_at, input_at);
  const uint32_t i = blockIdx.x * SIMT_FEATURES + simt_feature();
#pragma unroll
  for (int t = 0; t < SIMT_EACH; t++) {
    const uint32_t place = tile.first + simt_token() + t;
    if (i < I && place < tile.end) to.store(shape, tile.expert, place, i, sums[0][t], sums[1][t]);
  }
}

// Grid [H / 32, tiles].
template <class X, class W>
DEVICE void down_simt(const Down& to, const X* activated, const W* down, const ExpertTile* tiles,
                      const MoeShape& shape) {
  const ExpertTile tile = tiles[blockIdx.y];
  if (tile.first >= tile.end) return;
  const uint32_t H = shape.hidden, I = shape.intermediate;
  const W* weights = down + (size_t)tile.expert * H * I;
  float sums[1][SIMT_EACH] = {};
  const auto weight_at = [&](uint32_t, uint32_t row) {
    const uint32_t i = blockIdx.x * SIMT_FEATURES + row;
    return i < H ? weights + (size_t)i * I : nullptr;
  };
  const auto input_at = [&](uint32_t row) {
    return tile.first + row < tile.end ? activated + (size_t)(tile.first + row) * I : nullptr;
  };
  multiply_simt<1, X, W>(sums, I, weight_at, input_at);
  const uint32_t i = blockIdx.x * SIMT_FEATURES + simt_feature();
#pragma unroll
  for (int t = 0; t < SIMT_EACH; t++) {
    const uint32_t place = tile.first + simt_token() + t;
    if (i < H && place < tile.end) to.store(shape, tile.expert, place, i, sums[0][t]);
  }
}

#define MOE_KERNELS(name, X, W, THREADS, GATE_UP, DOWN)                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                               \
      moe_gate_up_##name(X* activated, const X* x, const W* gate_up, const float* bias, const float* weights,         \
                         const uint32_t* pairs, const ExpertTile* tiles, MoeShape shape, int kind, int act,           \
                         float alpha, float limit) {                                                                  \
    GATE_UP({activated, bias, weights, pairs, {kind, act, alpha, limit}}, x, gate_up, tiles, shape);                  \
  }                                                                                                                   \
  KERNEL_EXPORT(moe_gate_up_##name)                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                               \
      moe_down_##name(float* out, const X* activated, const W* down, const float* bias, const ExpertTile* tiles,      \
                      MoeShape shape) {                                                                               \
    DOWN({out, bias}, activated, down, tiles, shape);                                                                 \
  }                                                                                                                   \
  KERNEL_EXPORT(moe_down_##name)

// Features, tokens, warps along each, stages: those of `linear`.
using Tile8 = MmaTile<64, 8, 4, 1, 6>;
using Tile32 = MmaTile<64, 32, 4, 1, 5>;
using Tile128 = MmaTile<128, 128, 2, 4, 3>;
MOE_KERNELS(t8_bf16, bf16, bf16, Tile8::THREADS, gate_up_mma<Tile8>, down_mma<Tile8>)
MOE_KERNELS(t32_bf16, bf16, bf16, Tile32::THREADS, gate_up_mma<Tile32>, down_mma<Tile32>)
MOE_KERNELS(t128_bf16, bf16, bf16, Tile128::THREADS, gate_up_mma<Tile128>, down_mma<Tile128>)
MOE_KERNELS(simt_bf16, bf16, bf16, SIMT_THREADS, gate_up_simt, down_simt)
MOE_KERNELS(simt_f16, float, f16, SIMT_THREADS, gate_up_simt, down_simt)
MOE_KERNELS(simt_f32, float, float, SIMT_THREADS, gate_up_simt, down_simt)

// out[t] = Σ_slot weights[t, slot] · down[places[t, slot]], in order of slots. out f32 [T, H]; weights [T, k] or null
// (1); down [visits, H]. Grid [T, H / 256].
extern "C" __global__ void __launch_bounds__(256)
    moe_combine(float* out, const float* down, const float* weights, const uint32_t* places, MoeShape shape) {
  const uint32_t i = blockIdx.y * blockDim.x + threadIdx.x, H = shape.hidden;
  if (i >= H) return;
  float sum = 0.0f;
  for (uint32_t visit = blockIdx.x * shape.chosen; visit < (blockIdx.x + 1) * shape.chosen; visit++) {
    sum = fmaf(weights == nullptr ? 1.0f : weights[visit], down[(size_t)places[visit] * H + i], sum);
  }
  out[(size_t)blockIdx.x * H + i] = sum;
}
KERNEL_EXPORT(moe_combine)
