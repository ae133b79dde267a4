// Paged attention on the tensor cores: what happens within a warp, the same in all kernels.
#pragma once
#include "attention.cuh"
#include "mma.cuh"
#include "reduce.cuh"
#include "vec.cuh"

// A warp's scores or weights of 16 queries: at[j][e] is that of query lane / 4 (+ 8 where e >= 2) with key
// 8 j + lane % 4 * 2 (+ 1 where e is odd). Likewise a warp's sums, with elements of the values in place of keys.
template <int N>
struct Fragments {
  float at[N][4];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) at[j][e] = 0.0f;
  }
};

// Turns scores into weights 2^(score - max), scales the sums of the split so far and adds the weights' sums to those
// of the calling thread.
template <int N, int COLUMNS>
DEVICE void weigh(Fragments<N>& scores, Softmax (&softmax)[2], Fragments<COLUMNS>& sums) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    float max = NO_SCORE;
#pragma unroll
    for (int j = 0; j < N; j++) max = fmaxf(max, fmaxf(scores.at[j][2 * half], scores.at[j][2 * half + 1]));
    max = fmaxf(warp_max<4>(max), softmax[half].max);
    const float rescale = fast_exp2(softmax[half].max - max);
    float sum = 0.0f;
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; e++) {
        scores.at[j][e] = fast_exp2(scores.at[j][e] - max);
        sum += scores.at[j][e];
      }
    softmax[half] = {max, fmaf(softmax[half].sum, rescale, sum)};
#pragma unroll
    for (int j = 0; j < COLUMNS; j++) {
      sums.at[j][2 * half] *= rescale;
      sums.at[j][2 * half + 1] *= rescale;
    }
  }
}

// sums += weights · values [8 N, ...], whose column `first` is the warp's first, in ascending order of keys.
template <int N, int COLUMNS>
DEVICE void add_values(Fragments<COLUMNS>& sums, const Fragments<N>& weights, const bf16* values, int stride,
                       int first) {
#pragma unroll
  for (int j = 0; j < N; j += 4) {
    uint32_t w[2][4];
#pragma unroll
    for (int i = 0; i < 2; i++) {
      const float(&low)[4] = weights.at[j + 2 * i], (&high)[4] = weights.at[j + 2 * i + 1];
      w[i][0] = pack_bf16(low[0], low[1]);
      w[i][1] = pack_bf16(low[2], low[3]);
      w[i][2] = pack_bf16(high[0], high[1]);
      w[i][3] = pack_bf16(high[2], high[3]);
    }
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      uint32_t v[4];  // 32 keys by 8 elements
      ldmatrix_x4_trans(v, values + (8 * j + lane_id()) * stride + first + 8 * c);
      mma_bf16(sums.at[c], w[0], {v[0], v[1]});
      mma_bf16(sums.at[c], w[1], {v[2], v[3]});
    }
  }
}

// Starts copying the keys or values of a span. Positions that no query sees become zeros: their slots may hold
// anything.
template <class Shape, class Tile>
DEVICE void copy_span(bf16* to, const bf16* from, const Attention<bf16>& a, const Tile& tile, const BlockRing& blocks,
                      uint32_t span) {
  constexpr int CHUNKS = Shape::DIM / 8;
#pragma unroll 4
  for (int copy = 0; copy < Shape::SPAN * CHUNKS / Shape::THREADS; copy++) {
    const int i = threadIdx.x + copy * Shape::THREADS;
    const uint32_t key = i / CHUNKS, column = i % CHUNKS * 8, position = span * Shape::SPAN + key;
    const bool seen = position >= tile.start && position < tile.end && column < a.head_dim;
    const size_t at = seen ? a.slot(block_of(blocks, a, position), blockIdx.y, position) + column : 0;
    cp_async_16(to + key * Shape::STRIDE + column, from + at, seen);
  }
}

// The tile's queries, to shared memory; absent ones and elements beyond D are zeros.
template <class Shape, class Tile>
DEVICE void load_queries(bf16* to, const Attention<bf16>& a, const Tile& tile) {
  constexpr int CHUNKS = Shape::DIM / 8;
  for (int i = threadIdx.x; i < Shape::QUERIES * CHUNKS; i += Shape::THREADS) {
    const uint32_t query = i / CHUNKS, column = i % CHUNKS * 8;
    Pack<bf16, 8> chunk = {};
    if (query < tile.count && column < a.head_dim) {
      chunk = load_pack<8>(a.queries + Query(a, tile, blockIdx.y, query).index * a.head_dim + column);
    }
    store_pack(to + query * Shape::STRIDE + column, chunk);
  }
}

// Closes a split: takes it into the totals and begins the next.
template <int COLUMNS>
DEVICE void merge_split(Softmax (&total)[2], Fragments<COLUMNS>& total_sums, Softmax (&part)[2],
                        Fragments<COLUMNS>& sums) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Merge both = merge(total[half], part[half]);
    part[half] = Softmax();
#pragma unroll
    for (int c = 0; c < COLUMNS; c++)
#pragma unroll
      for (int e = 2 * half; e < 2 * half + 2; e++) total_sums.at[c][e] = both(total_sums.at[c][e], sums.at[c][e]);
  }
  sums.clear();
}

// Keeps a split of a thread's two rows, where they see more than one: from column `first` of the head on.
template <int COLUMNS>
DEVICE void store_partials(const Attention<bf16>& a, const Query (&rows)[2], const Softmax (&part)[2],
                           const Fragments<COLUMNS>& sums, uint32_t first) {
#pragma unroll
  for (int half = 0; half < 2; half++) {
    if (rows[half].in_one_split() || !rows[half].reaches(blockIdx.z)) continue;
    float* partial = partial_of(a, rows[half], blockIdx.z);
    if (first == 0 && lane_id() % 4 == 0) partial[0] = part[half].max, partial[1] = part[half].sum;
#pragma unroll
    for (int c = 0; c < COLUMNS; c++) {
      const uint32_t column = first + 8 * c + lane_id() % 4 * 2;
      const Pack<float, 2> pair = {sums.at[c][2 * half], sums.at[c][2 * half + 1]};
      if (column < a.value_dim) store_pack(partial + 2 + column, pair);
    }
  }
}

// Writes one of a thread's two rows, from column `first` of the head on.
template <int COLUMNS>
DEVICE void store_output(const Attention<bf16>& a, const Query& row, float normalizer,
                         const Fragments<COLUMNS>& sums, int half, uint32_t first) {
  bf16* out = a.out + row.index * a.value_dim;
#pragma unroll
  for (int c = 0; c < COLUMNS; c++) {
    const uint32_t column = first + 8 * c + lane_id() % 4 * 2;
    const float low = normalized(sums.at[c][2 * half], normalizer);
    const float high = normalized(sums.at[c][2 * half + 1], normalizer);
    if (column < a.value_dim) *reinterpret_cast<uint32_t*>(out + column) = pack_bf16(low, high);
  }
}
