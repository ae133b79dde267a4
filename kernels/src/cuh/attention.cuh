// What the paged attention kernels share: which queries a thread block works on, which keys they see, and how
// the parts of a softmax become one.
//
// The keys of a row are walked in splits of SPLIT positions that start at multiples of SPLIT. Each split has
// a softmax of its own, and the splits are merged in ascending order. So the bits of a row depend on its
// position alone: not on the rows beside it, nor on whether one thread block walks all splits or each has its
// own. Scores are in units of log2, so that weights are powers of two.
#pragma once
#include "any_floats.cuh"

constexpr uint32_t SPLIT = 256;
constexpr float LOG2_E = 1.44269504088896340736f;
// Below every score; finite, so that differences are never NaN.
constexpr float NO_SCORE = -3.402823466e38f;

// As in ops/paged_attention/cuda.rs.
struct AttentionShape {
  uint32_t sequences, table_width, heads, kv_heads;
  uint32_t head_dim;       // of queries and keys
  uint32_t value_dim;      // of values and outputs: the first elements of their slots
  uint32_t block_shift;    // slots of a KV block: 1 << block_shift
  uint32_t splits;         // 1: a thread block walks all splits; else the grid's z says which one
  uint32_t window, chunk;  // see first_visible
  int sinks_type;
  float scale, softcap, per_softcap;  // per_softcap is 1 / softcap; softcap 0: none
};

// The arguments of an attention kernel: T rows, S sequences, M entries of each block table.
template <class T>
struct Attention : AttentionShape {
  T* out;                        // [T, Hq, value_dim]
  const T* queries;              // [T, Hq, D]
  const T* keys;                 // [B, Hkv, bs, D]
  const T* values;               // [B, Hkv, bs, D]
  const uint32_t* cu_seqlens_q;  // [S + 1]
  const uint32_t* context_lens;  // [S]
  const uint32_t* block_tables;  // [S, M]
  const float* temperature;      // [P], or null
  const float* slopes;           // [Hq], or null
  const void* sinks;             // any float [Hq], or null
  float* partials;               // [T, Hq, splits, 2 + value_dim]: maximum, sum, weighted values; or null
  uint32_t* semaphores;            // [tiles, Hkv] of 0, where thread blocks merge splits; or null

  __device__ __forceinline__ uint32_t group() const { return heads / kv_heads; }

  // Scores are scaled dot products and nothing more.
  __device__ __forceinline__ bool scales_only() const {
    return softcap == 0.0f && temperature == nullptr && slopes == nullptr;
  }

  // The score then. Kernels must agree: it is never fused with what follows.
  __device__ __forceinline__ float scaled(float dot) const {
    return __fmul_rn(dot, __fmul_rn(scale, LOG2_E));
  }

  // The first position that the query at `position` sees; the last is its own. chunk 0: no chunks.
  __device__ __forceinline__ uint32_t first_visible(uint32_t position) const {
    if (chunk > 0) return position / chunk * chunk;
    return position < window ? 0 : position - window + 1;
  }

  // First element of a head's keys or values in KV block `block`.
  __device__ __forceinline__ size_t block_start(uint32_t block, uint32_t kv_head) const {
    return (((size_t)block * kv_heads + kv_head) << block_shift) * head_dim;
  }
};

#define ATTENTION_PARAMETERS(T)                                                                            \
  T *out, const T *queries, const T *keys, const T *values, const uint32_t *cu_seqlens_q,                  \
      const uint32_t *context_lens, const uint32_t *block_tables, const float *temperature,                \
      const float *slopes, const void *sinks, float *partials, uint32_t *semaphores, AttentionShape shape
#define ATTENTION_ARGUMENTS                                                                                \
  {shape,        out,         queries, keys,  values,  cu_seqlens_q, context_lens,                         \
   block_tables, temperature, slopes,  sinks, partials, semaphores}

// The last of `count` ascending values that is at most `wanted`, found by a whole warp. `value_at(0) <=
// wanted`.
template <class ValueAt>
DEVICE uint32_t last_at_most(uint32_t count, uint32_t wanted, ValueAt value_at) {
  uint32_t found = 0;
  for (uint32_t first = 0; first < count; first += WARP_SIZE) {
    const uint32_t i = first + lane_id();
    found += __popc(__ballot_sync(ALL_LANES, i < count && value_at(i) <= wanted));
  }
  return found - 1;
}

// Up to QUERIES queries of one sequence. A query is a (row, head) pair; those of a row's group are
// neighbours.
template <int QUERIES>
struct QueryTile {
  uint32_t sequence;
  uint32_t row, position;  // of the sequence's first row: its index in the step, and its position
  uint32_t first, count;   // the tile's queries; count 0: none
  uint32_t start, end;     // positions that some query sees
  uint32_t common_start, common_end;  // those that every query sees

  // There is a tile for every QUERIES queries, and one more per sequence at most: sequence i begins at tile
  // cu_seqlens_q[i] * group / QUERIES + i, which needs no sum over the sequences before it.
  template <class T>
  __device__ __forceinline__ QueryTile(const Attention<T>& a, uint32_t tile) {
    const uint32_t group = a.group();
    const auto first_tile = [&](uint32_t i) { return a.cu_seqlens_q[i] * group / QUERIES + i; };
    sequence = last_at_most(a.sequences, tile, first_tile);
    row = a.cu_seqlens_q[sequence];
    const uint32_t queries = (a.cu_seqlens_q[sequence + 1] - row) * group;
    position = a.context_lens[sequence] - queries / group;
    first = (tile - first_tile(sequence)) * QUERIES;
    count = first < queries ? min((uint32_t)QUERIES, queries - first) : 0;
    start = a.first_visible(position + first / group);
    const uint32_t last = count == 0 ? 0 : position + (first + count - 1) / group;
    end = count == 0 ? 0 : last + 1;
    common_start = a.first_visible(last);
    common_end = position + first / group + 1;
  }
};

// One query of a tile. Absent ones see nothing.
struct Query {
  bool present;
  uint32_t start, position;  // sees start ..= position
  uint32_t head;
  size_t index;              // row * Hq + head
  float temperature = 1.0f, slope = 0.0f;

  template <class T, class Tile>
  __device__ __forceinline__ Query(const Attention<T>& a, const Tile& tile, uint32_t kv_head, uint32_t i) {
    const uint32_t group = a.group(), row = (tile.first + i) / group;
    present = i < tile.count;
    position = tile.position + row;
    start = a.first_visible(position);
    head = kv_head * group + (tile.first + i) % group;
    index = (size_t)(tile.row + row) * a.heads + head;
    if (present && a.temperature != nullptr) temperature = a.temperature[position];
    if (a.slopes != nullptr) slope = a.slopes[head];
  }

  // The score with a key that it sees, from their dot product.
  template <class T>
  __device__ __forceinline__ float score(const Attention<T>& a, float dot, uint32_t key) const {
    if (a.scales_only()) return a.scaled(dot);
    float score = dot * a.scale;
    if (a.softcap > 0.0f) score = a.softcap * tanhf(score * a.per_softcap);
    score *= temperature;
    if (a.slopes != nullptr) score = fmaf(slope, (float)((int)key - (int)position), score);
    return __fmul_rn(score, LOG2_E);
  }

  __device__ __forceinline__ bool sees(uint32_t key) const {
    return present && key >= start && key <= position;
  }
  __device__ __forceinline__ bool reaches(uint32_t split) const {
    return present && split >= start / SPLIT && split <= position / SPLIT;
  }
  __device__ __forceinline__ bool in_one_split() const { return start / SPLIT == position / SPLIT; }
};

// Where the KV blocks of two splits begin, as elements of the cache, in shared memory: those of split s are
// at [s % 2].
constexpr int SPLIT_BLOCKS = SPLIT / 16;
typedef size_t BlockRing[2][SPLIT_BLOCKS];

template <class T>
DEVICE void fetch_blocks(BlockRing& ring, const Attention<T>& a, uint32_t sequence, uint32_t split) {
  if (threadIdx.x < SPLIT_BLOCKS) {
    const uint32_t entry = (split * SPLIT >> a.block_shift) + threadIdx.x;
    const uint32_t* table = a.block_tables + (size_t)sequence * a.table_width;
    ring[split % 2][threadIdx.x] = a.block_start(entry < a.table_width ? table[entry] : 0, blockIdx.y);
  }
}

// First element of the key or value at `position`.
template <class T>
DEVICE size_t slot_of(const BlockRing& ring, const Attention<T>& a, uint32_t position) {
  const uint32_t offset = position & ((1u << a.block_shift) - 1);
  return ring[position / SPLIT % 2][position % SPLIT >> a.block_shift] + offset * a.head_dim;
}

// A softmax in progress: the largest score, and the sum of 2^(score - max).
struct Softmax {
  float max = NO_SCORE, sum = 0.0f;
};

// What the parts of a sum are multiplied by to become one.
struct Merge {
  float before, added;

  __device__ __forceinline__ float operator()(float total, float split) const {
    return fmaf(total, before, split * added);
  }
};

// Takes in the next split.
DEVICE Merge merge(Softmax& total, const Softmax& split) {
  const float max = fmaxf(total.max, split.max);
  const Merge merge = {fast_exp2(total.max - max), fast_exp2(split.max - max)};
  total = {max, merge(total.sum, split.sum)};
  return merge;
}

// What the weighted values are multiplied by in the end. A sink is one more score, without a value.
template <class T>
DEVICE float normalizer(const Attention<T>& a, const Softmax& total, uint32_t head) {
  if (a.sinks == nullptr) return 1.0f / total.sum;
  const float sink = AnyFloats{a.sinks, a.sinks_type}[head] * LOG2_E, max = fmaxf(total.max, sink);
  const float factor = fast_exp2(total.max - max);
  return factor / fmaf(total.sum, factor, fast_exp2(sink - max));
}

// Adding zero turns -0 into 0: keys that are masked instead of left out may change that sign.
DEVICE float normalized(float value, float normalizer) { return fmaf(value, normalizer, 0.0f); }

// Where a query's share of a split is kept until all are merged.
template <class T>
DEVICE float* partial_of(const Attention<T>& a, const Query& query, uint32_t split) {
  return a.partials + (query.index * a.splits + split) * (2 + a.value_dim);
}
