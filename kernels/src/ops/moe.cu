// moe: a mixture of experts, as ops/moe.rs defines it.
//
// A *pair* is one of a row and one of its experts (a slot); pairs are sorted by expert, so that those of one expert are a matrix product.
// Tiles of that product are cut on the device and read their rows through the sorted list: nothing is gathered, and
// the host waits for nothing. Every sum runs over all of K in ascending order, whatever the tile.
#include "../cuh/moe.cuh"
#include "../cuh/simt_tile.cuh"

constexpr int SORT_THREADS = 512;
constexpr int MAX_EXPERTS = 1024;

// Sorts the pairs by expert. `ids` [pairs]; `pair_ids` [pairs]: which pair stands at each place, as row * k + slot; `places`
// [pairs]: where each pair stands; `tiles` [tile_count]. Within an expert the order is that of chance: no sum sees
// it. One thread block.
extern "C" __global__ void __launch_bounds__(SORT_THREADS)
    moe_sort(uint32_t* pair_ids, uint32_t* places, ExpertTile* tiles, const uint32_t* ids, MoeShape shape) {
  SMEM(uint32_t, counts, [MAX_EXPERTS]);   // of each expert's pairs
  SMEM(uint32_t, starts, [MAX_EXPERTS]);   // its first place; moves on while places are taken
  SMEM(uint32_t, begins, [MAX_EXPERTS]);   // its first tile
  for (uint32_t e = threadIdx.x; e < shape.experts; e += SORT_THREADS) counts[e] = 0;
  for (uint32_t i = threadIdx.x; i < shape.tile_count; i += SORT_THREADS) tiles[i] = {0, 0, 0};
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < shape.pairs; i += SORT_THREADS) atomicAdd(&counts[ids[i]], 1u);
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
  for (uint32_t i = threadIdx.x; i < shape.pairs; i += SORT_THREADS) {
    const uint32_t place = atomicAdd(&starts[ids[i]], 1u);
    pair_ids[place] = i;
    places[i] = place;
  }
}
KERNEL_EXPORT(moe_sort)

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
    return place < tile.end ? x + (size_t)(to.pair_ids[place] / shape.chosen) * H : nullptr;
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

// With weights of bf16 on the tensor cores.
template <class Tile>
DEVICE void gate_up_bf16(const GateUp<bf16>& to, const bf16* x, const bf16* gate_up, const ExpertTile* tiles,
                         const MoeShape& shape) {
  gate_up_mma<Tile>(to, x, Bf16Weight{gate_up, (int)shape.hidden}, tiles, shape);
}
template <class Tile>
DEVICE void down_bf16(const Down& to, const bf16* activated, const bf16* down, const ExpertTile* tiles,
                      const MoeShape& shape) {
  down_mma<Tile>(to, activated, Bf16Weight{down, (int)shape.intermediate}, tiles, shape);
}

#define MOE_KERNELS(name, X, W, THREADS, GATE_UP, DOWN)                                                               \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                               \
      moe_gate_up_##name(X* activated, const X* x, const W* gate_up, const float* bias, const float* weights,         \
                         const uint32_t* pair_ids, const ExpertTile* tiles, MoeShape shape, int kind, int act,           \
                         float alpha, float limit) {                                                                  \
    GATE_UP({activated, bias, weights, pair_ids, {kind, act, alpha, limit}}, x, gate_up, tiles, shape);                  \
  }                                                                                                                   \
  KERNEL_EXPORT(moe_gate_up_##name)                                                                                   \
  extern "C" __global__ void __launch_bounds__(THREADS)                                                               \
      moe_down_##name(float* out, const X* activated, const W* down, const float* bias, const ExpertTile* tiles,      \
                      MoeShape shape) {                                                                               \
    DOWN({out, bias}, activated, down, tiles, shape);                                                                 \
  }                                                                                                                   \
  KERNEL_EXPORT(moe_down_##name)

#define MOE_MMA(name, Tile)                                                                                           \
  MOE_KERNELS(name, bf16, bf16, Tile::THREADS, gate_up_bf16<Tile>, down_bf16<Tile>)
MOE_MMA(t8_bf16, Tile8)
MOE_MMA(t32_bf16, Tile32)
MOE_MMA(t128_bf16, Tile128)
MOE_KERNELS(simt_bf16, bf16, bf16, SIMT_THREADS, gate_up_simt, down_simt)
MOE_KERNELS(simt_f16, float, f16, SIMT_THREADS, gate_up_simt, down_simt)
MOE_KERNELS(simt_f32, float, float, SIMT_THREADS, gate_up_simt, down_simt)

// out[t] = Σ_slot weights[t, slot] · down[places[t, slot]], in order of slots. out f32 [T, H]; weights [T, k] or null
// (1); down [pairs, H]. Grid [T, H / 256].
extern "C" __global__ void __launch_bounds__(256)
    moe_combine(float* out, const float* down, const float* weights, const uint32_t* places, MoeShape shape) {
  const uint32_t i = blockIdx.y * blockDim.x + threadIdx.x, H = shape.hidden;
  if (i >= H) return;
  float sum = 0.0f;
  for (uint32_t pair = blockIdx.x * shape.chosen; pair < (blockIdx.x + 1) * shape.chosen; pair++) {
    sum = fmaf(weights == nullptr ? 1.0f : weights[pair], down[(size_t)places[pair] * H + i], sum);
  }
  out[(size_t)blockIdx.x * H + i] = sum;
}
KERNEL_EXPORT(moe_combine)
