// Paged attention on the tensor cores: what happens within a warp, the same in all kernels.
#pragma once
#include "attention.cuh"
#include "mma.cuh"
#include "reduce.cuh"
#include "vec.cuh"

// Tiles of keys, values and queries in shared memory: panels of 64 columns (32 where DIM is no multiple of
// 64), a panel's rows one after another. 16-byte chunks trade places within a row, as TMA and wgmma swizzle,
// so that the same chunk of eight rows lies in different banks.
template <int DIM>
constexpr int PANEL = DIM % 64 == 0 ? 64 : 32;

// Where an element lies in a tile of ROWS rows.
template <int DIM, int ROWS>
DEVICE int tile_at(int row, int column) {
  constexpr int WIDTH = PANEL<DIM>;
  static_assert(DIM % WIDTH == 0);
  const int other = WIDTH == 64 ? row % 8 : row / 2 % 4;
  return (column / WIDTH * ROWS + row) * WIDTH + ((column % WIDTH / 8 ^ other) * 8 + column % 8);
}

// A warp's scores or weights of 16 queries: at[j][e] is that of query lane / 4 (+ 8 where e >= 2) with key 8
// j + lane % 4 * 2 (+ 1 where e is odd). Likewise a warp's sums, with elements of the values in place of
// keys.
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

// Turns scores into weights 2^(score - max), scales the sums of the split so far and adds the weights' sums
// to those of the calling thread.
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

// dots = queries [16, DIM] · keys [8 N, DIM]^T, elements in ascending order: rows from a multiple of 8 on of
// tiles of QUERIES and SPAN rows.
template <int DIM, int QUERIES, int SPAN, int N>
DEVICE void multiply_keys(Fragments<N>& dots, const bf16* queries, const bf16* keys) {
  const int lane = lane_id();
  dots.clear();
#pragma unroll
  for (int k = 0; k < DIM; k += 16) {
    uint32_t q[4];
    ldmatrix_x4(q, queries + tile_at<DIM, QUERIES>(lane % 16, k + lane / 16 * 8));
    const bf16* elements = keys + tile_at<DIM, SPAN>(lane % 8, k + lane / 8 % 2 * 8);
    if (N == 1) {
      uint32_t eight[2];
      ldmatrix_x2(eight, elements);
      mma_bf16(dots.at[0], q, eight);
    }
#pragma unroll
    for (int j = 0; j + 1 < N; j += 2) {
      uint32_t b[4];
      ldmatrix_x4(b, elements + (8 * j + lane / 16 * 8) * PANEL<DIM>);
      mma_bf16(dots.at[j], q, {b[0], b[1]});
      mma_bf16(dots.at[j + 1], q, {b[2], b[3]});
    }
  }
}

// Turns the dot products of a thread's two rows into scores; the first key is at `position`. `row(half)` is
// made only where it is needed, so that nothing of it is kept meanwhile. `all_seen`: every row sees every
// key.
template <int N, class Row>
DEVICE void to_scores(Fragments<N>& dots, const Attention<bf16>& a, Row row, uint32_t position,
                      bool all_seen) {
  position += lane_id() % 4 * 2;
  const auto change = [&](auto score) {
#pragma unroll
    for (int j = 0; j < N; j++)
#pragma unroll
      for (int e = 0; e < 4; e++) dots.at[j][e] = score(e / 2, dots.at[j][e], position + 8 * j + e % 2);
  };
  if (a.scales_only()) {
    change([&](int, float dot, uint32_t) { return a.scaled(dot); });
  } else {
    const Query rows[2] = {row(0), row(1)};
    change([&](int half, float dot, uint32_t key) { return rows[half].score(a, dot, key); });
  }
  if (all_seen) return;
  const Query rows[2] = {row(0), row(1)};
  change([&](int half, float score, uint32_t key) { return rows[half].sees(key) ? score : -INFINITY; });
}

// The weights of 16 keys, from fragment j on, as operand A.
template <int N>
DEVICE void pack_weights(uint32_t (&to)[4], const Fragments<N>& weights, int j) {
  const float(&low)[4] = weights.at[j], (&high)[4] = weights.at[j + 1];
  to[0] = pack_bf16(low[0], low[1]);
  to[1] = pack_bf16(low[2], low[3]);
  to[2] = pack_bf16(high[0], high[1]);
  to[3] = pack_bf16(high[2], high[3]);
}

// sums += weights · values [8 N, DIM], a tile whose column `first` is the warp's first; keys ascend.
template <int DIM, int N, int COLUMNS>
DEVICE void add_values(Fragments<COLUMNS>& sums, const Fragments<N>& weights, const bf16* values, int first) {
  const int lane = lane_id();
#pragma unroll
  for (int j = 0; j < N; j += 2) {
    uint32_t w[4];
    pack_weights(w, weights, j);
    const bf16* keys = values + 8 * j * PANEL<DIM>;
#pragma unroll
    for (int c = 0; c + 1 < COLUMNS; c += 2) {
      uint32_t v[4];  // 16 keys by 16 elements
      ldmatrix_x4_trans(v, keys + tile_at<DIM, 8 * N>(lane % 16, first + 8 * c + lane / 16 * 8));
      mma_bf16(sums.at[c], w, {v[0], v[1]});
      mma_bf16(sums.at[c + 1], w, {v[2], v[3]});
    }
    if (COLUMNS % 2 == 1) {
      uint32_t v[2];
      ldmatrix_x2_trans(v, keys + tile_at<DIM, 8 * N>(lane % 16, first + 8 * (COLUMNS - 1)));
      mma_bf16(sums.at[COLUMNS - 1], w, v);
    }
  }
}

// Starts copying the keys or values of a span to a tile. Positions that no query sees become zeros: their
// slots may hold anything. Neighbouring threads copy chunks of a row, as many as trade places in tile_at.
template <class Shape, class Tile>
DEVICE void copy_span(bf16* to, const bf16* from, const Attention<bf16>& a, const Tile& tile,
                      const BlockRing& blocks, uint32_t span) {
  constexpr int DIM = Shape::DIM, WIDTH = PANEL<DIM>, LANES = WIDTH / 8, ROWS = Shape::THREADS / LANES;
  static_assert(ROWS % 8 == 0);
  const uint32_t row = threadIdx.x / LANES, first = threadIdx.x % LANES * 8;
  const uint32_t start = tile.start, seen = tile.end - start;
  to += tile_at<DIM, Shape::SPAN>(row, first);
  from += first;
#pragma unroll
  for (int key = 0; key < Shape::SPAN; key += ROWS) {
    if (Shape::SPAN % ROWS != 0 && key + row >= Shape::SPAN) break;
    const uint32_t position = span * Shape::SPAN + key + row;
    const bf16* slot = from + slot_of(blocks, a, position);
#pragma unroll
    for (int column = 0; column < DIM; column += WIDTH) {
      cp_async_16(to + key * WIDTH + column * Shape::SPAN, slot + column,
                  position - start < seen && first + column < a.head_dim);
    }
  }
}

// The queries, to a tile; absent ones and elements beyond D are zeros.
template <class Shape, class Tile>
DEVICE void load_queries(bf16* to, const Attention<bf16>& a, const Tile& tile) {
  constexpr int CHUNKS = Shape::DIM / 8;
  for (int i = threadIdx.x; i < Shape::QUERIES * CHUNKS; i += Shape::THREADS) {
    const uint32_t query = i / CHUNKS, column = i % CHUNKS * 8;
    Pack<bf16, 8> chunk = {};
    if (query < tile.count && column < a.head_dim) {
      chunk = load_pack<8>(a.queries + Query(a, tile, blockIdx.y, query).index * a.head_dim + column);
    }
    store_pack(to + tile_at<Shape::DIM, Shape::QUERIES>(query, column), chunk);
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
      for (int e = 2 * half; e < 2 * half + 2; e++) {
        total_sums.at[c][e] = both(total_sums.at[c][e], sums.at[c][e]);
      }
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
