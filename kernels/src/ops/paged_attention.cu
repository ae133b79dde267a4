// paged_attention: queries against the keys and values of their sequences, KV block by KV block.
//
// One thread block works on a tile of queries of one sequence that share a key/value head. Prefill and decode rows
// take the same steps in the same order (see cuh/attention.cuh).
#include "../cuh/attention_mma.cuh"
#include "../cuh/vec.cuh"

// On the tensor cores: 16 queries, and DIM >= D elements of a head, the rest zeros. The warps share the keys of a span
// between them for the scores, and the elements of the values for the sums; each warp computes all weights.
template <int DIM_, int SPAN_, int STAGES_, int WARPS_>
struct MmaShape {
  static constexpr int DIM = DIM_, SPAN = SPAN_, STAGES = STAGES_;
  static constexpr int QUERIES = 16, WARPS = WARPS_, THREADS = WARPS * WARP_SIZE;
  // 16 bytes more than a row: the same chunk of eight rows lies in different banks.
  static constexpr int STRIDE = DIM + 8, SCORE_STRIDE = SPAN + 8;
  static constexpr int BUFFER = SPAN * STRIDE;            // elements of a span of keys or values
  static constexpr int COLUMNS = DIM / WARPS / 8;         // fragments of 8 elements of the values in a warp
  static_assert(DIM % (8 * WARPS) == 0 && SPAN % 32 == 0 && SPLIT % SPAN == 0);
};

template <class Shape>
struct MmaMemory {
  alignas(16) bf16 queries[Shape::QUERIES * Shape::STRIDE];
  alignas(16) bf16 keys[Shape::STAGES][Shape::BUFFER];
  alignas(16) bf16 values[Shape::STAGES][Shape::BUFFER];
  float scores[Shape::QUERIES * Shape::SCORE_STRIDE];
  BlockRing blocks;
};

// 16 elements of 8 or 16 keys, as operands B.
template <class Shape, int KEYS>
DEVICE void load_key_fragments(uint32_t (&to)[4], const bf16* keys) {
  const int lane = lane_id();
  if (KEYS == 2) {
    ldmatrix_x4(to, keys + (lane % 8 + lane / 16 * 8) * Shape::STRIDE + lane / 8 % 2 * 8);
  } else {
    uint32_t two[2];
    ldmatrix_x2(two, keys + lane % 8 * Shape::STRIDE + lane / 8 % 2 * 8);
    to[0] = two[0], to[1] = two[1];
  }
}

// The scores of a warp's share of a span's keys, to shared memory.
template <class Shape>
DEVICE void score_span(MmaMemory<Shape>& shared, const bf16* keys, const Attention<bf16>& a, const Query (&rows)[2],
                       uint32_t span) {
  constexpr int KEYS = Shape::SPAN <= 8 * Shape::WARPS ? 1 : 2;  // fragments of 8 keys in a warp
  static_assert(Shape::SPAN <= 16 * Shape::WARPS);
  const int lane = lane_id(), first = warp_id() * KEYS * 8;
  if (first >= Shape::SPAN) return;
  float dots[KEYS][4] = {};
#pragma unroll
  for (int k = 0; k < Shape::DIM / 16; k++) {
    uint32_t q[4], b[4];
    ldmatrix_x4(q, shared.queries + lane % 16 * Shape::STRIDE + 16 * k + lane / 16 * 8);
    load_key_fragments<Shape, KEYS>(b, keys + first * Shape::STRIDE + 16 * k);
#pragma unroll
    for (int j = 0; j < KEYS; j++) mma_bf16(dots[j], q, {b[2 * j], b[2 * j + 1]});
  }
#pragma unroll
  for (int j = 0; j < KEYS; j++) {
    const uint32_t key = first + 8 * j + lane % 4 * 2, position = span * Shape::SPAN + key;
#pragma unroll
    for (int half = 0; half < 2; half++) {
      Pack<float, 2> scores;
#pragma unroll
      for (int e = 0; e < 2; e++) scores.v[e] = rows[half].score(a, dots[j][2 * half + e], position + e);
      store_pack(shared.scores + (lane / 4 + 8 * half) * Shape::SCORE_STRIDE + key, scores);
    }
  }
}

// Every warp reads all scores, in the layout of Fragments.
template <class Shape>
DEVICE void load_scores(Fragments<Shape::SPAN / 8>& scores, const float* shared) {
  const int lane = lane_id();
#pragma unroll
  for (int j = 0; j < Shape::SPAN / 8; j++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const float* at = shared + (lane / 4 + 8 * half) * Shape::SCORE_STRIDE + 8 * j + lane % 4 * 2;
      const Pack<float, 2> pair = load_pack<2>(at);
      scores.at[j][2 * half] = pair.v[0];
      scores.at[j][2 * half + 1] = pair.v[1];
    }
}

template <class Shape>
DEVICE void attend(const Attention<bf16>& a) {
  constexpr int SPANS = SPLIT / Shape::SPAN, KEYS = Shape::SPAN / 8, COLUMNS = Shape::COLUMNS;
  DYN_SMEM(MmaMemory<Shape>, memory);
  MmaMemory<Shape>& shared = *memory;
  const QueryTile<Shape::QUERIES> tile(a, blockIdx.x);
  uint32_t start = tile.start, end = tile.end;
  if (a.splits > 1) {
    start = max(start, blockIdx.z * SPLIT);
    end = min(end, (blockIdx.z + 1) * SPLIT);
  }
  if (start >= end) return;
  const uint32_t first = start / Shape::SPAN, last = (end - 1) / Shape::SPAN;
  const int lane = lane_id(), warp = warp_id();
  const Query rows[2] = {{a, tile, blockIdx.y, lane / 4u}, {a, tile, blockIdx.y, lane / 4u + 8}};

  load_queries<Shape>(shared.queries, a, tile);
  fetch_blocks(shared.blocks, a, tile.sequence, start / SPLIT);
  fetch_blocks(shared.blocks, a, tile.sequence, start / SPLIT + 1);
  __syncthreads();
  // Every span is one group of copies for its keys and one for its values, empty after the last span.
  const auto copy = [&](bf16 (&to)[Shape::STAGES][Shape::BUFFER], const bf16* from, uint32_t span) {
    if (span <= last) copy_span<Shape>(to[(span - first) % Shape::STAGES], from, a, tile, shared.blocks, span);
    cp_async_commit();
  };
#pragma unroll
  for (int stage = 0; stage < Shape::STAGES; stage++) {
    copy(shared.keys, a.keys, first + stage);
    copy(shared.values, a.values, first + stage);
  }

  Softmax total[2], part[2];
  Fragments<COLUMNS> total_sums, sums;
  total_sums.clear();
  sums.clear();
  for (uint32_t span = first; span <= last; span++) {
    const uint32_t stage = (span - first) % Shape::STAGES;
    cp_async_wait<2 * Shape::STAGES - 2>();
    __syncthreads();  // the keys are there, and all are done with the values before
    if (span > first) {
      copy(shared.values, a.values, span - 1 + Shape::STAGES);
      if (span % SPANS == 0) fetch_blocks(shared.blocks, a, tile.sequence, span / SPANS + 1);
    }
    score_span<Shape>(shared, shared.keys[stage], a, rows, span);
    __syncthreads();  // the scores are there, and all are done with the keys
    copy(shared.keys, a.keys, span + Shape::STAGES);
    Fragments<KEYS> scores;
    load_scores<Shape>(scores, shared.scores);
    weigh(scores, part, sums);
    cp_async_wait<2 * Shape::STAGES - 1>();
    __syncthreads();  // the values are there
    add_values(sums, scores, shared.values[stage], Shape::STRIDE, warp * 8 * COLUMNS);
    if ((span + 1) % SPANS == 0 || span == last) {
      part[0].sum = warp_sum<4>(part[0].sum);
      part[1].sum = warp_sum<4>(part[1].sum);
      if (a.splits > 1) store_partials(a, rows, part, sums, warp * 8 * COLUMNS);
      merge_split(total, total_sums, part, sums);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Query& row = rows[half];
    if (!row.present || (a.splits > 1 && !(row.in_one_split() && row.reaches(blockIdx.z)))) continue;
    store_output(a, row, normalizer(a, total[half], row.head), total_sums, half, warp * 8 * COLUMNS);
  }
}

#define ATTEND_MMA(DIM, SPAN, STAGES, WARPS)                                                      \
  extern "C" __global__ void __launch_bounds__(32 * WARPS, 8 / WARPS)                             \
      paged_attention_mma##DIM##_bf16(ATTENTION_PARAMETERS(bf16)) {                               \
    attend<MmaShape<DIM, SPAN, STAGES, WARPS>>(ATTENTION_ARGUMENTS);                              \
  }                                                                                               \
  KERNEL_EXPORT(paged_attention_mma##DIM##_bf16)
ATTEND_MMA(32, 64, 2, 4)
ATTEND_MMA(64, 64, 2, 4)
ATTEND_MMA(96, 64, 2, 4)
ATTEND_MMA(128, 64, 2, 4)
ATTEND_MMA(192, 64, 1, 4)
ATTEND_MMA(256, 64, 1, 4)
ATTEND_MMA(512, 32, 1, 8)

// Without tensor cores, in f32: every head size and type. A tile of 8 queries; each thread scores half of them with
// one key of a span of 64, and sums every 128th element of the values for all of them.
constexpr int PLAIN_QUERIES = 8, PLAIN_SPAN = 64, PLAIN_THREADS = 128, PLAIN_DEPTH = 32;
constexpr int PLAIN_COLUMNS = 512 / PLAIN_THREADS, PLAIN_HALF = PLAIN_QUERIES / 2;

struct PlainMemory {
  float queries[PLAIN_QUERIES][PLAIN_DEPTH];
  float keys[PLAIN_SPAN][PLAIN_DEPTH + 1];  // one more than needed, so that a column lies in different banks
  float weights[PLAIN_QUERIES][PLAIN_SPAN];
  float factors[PLAIN_QUERIES];             // what the sums are multiplied by before the span, or in the end
  Merge merges[PLAIN_QUERIES];
  BlockRing blocks;
};

// The dot products of a thread's key of the span with its half of the queries.
template <class T, class Tile>
DEVICE void dot_plain(float (&dots)[PLAIN_HALF], PlainMemory& shared, const Attention<T>& a, const Tile& tile,
                      uint32_t span) {
  for (uint32_t depth = 0; depth < a.head_dim; depth += PLAIN_DEPTH) {
    for (int i = threadIdx.x; i < PLAIN_SPAN * PLAIN_DEPTH; i += PLAIN_THREADS) {
      const uint32_t key = i / PLAIN_DEPTH, d = depth + i % PLAIN_DEPTH, position = span * PLAIN_SPAN + key;
      const bool seen = position >= tile.start && position < tile.end && d < a.head_dim;
      const size_t at = seen ? a.slot(block_of(shared.blocks, a, position), blockIdx.y, position) + d : 0;
      shared.keys[key][i % PLAIN_DEPTH] = seen ? to_f32(a.keys[at]) : 0.0f;
    }
    for (int i = threadIdx.x; i < PLAIN_QUERIES * PLAIN_DEPTH; i += PLAIN_THREADS) {
      const uint32_t query = i / PLAIN_DEPTH, d = depth + i % PLAIN_DEPTH;
      const bool seen = query < tile.count && d < a.head_dim;
      const size_t at = seen ? Query(a, tile, blockIdx.y, query).index * a.head_dim + d : 0;
      shared.queries[query][i % PLAIN_DEPTH] = seen ? to_f32(a.queries[at]) : 0.0f;
    }
    __syncthreads();
    const float* key = shared.keys[threadIdx.x % PLAIN_SPAN];
    const float(*queries)[PLAIN_DEPTH] = shared.queries + threadIdx.x / PLAIN_SPAN * PLAIN_HALF;
#pragma unroll
    for (int d = 0; d < PLAIN_DEPTH; d++)
#pragma unroll
      for (int i = 0; i < PLAIN_HALF; i++) dots[i] = fmaf(queries[i][d], key[d], dots[i]);
    __syncthreads();
  }
}

// sums = factors · sums + weights · values, for every 128th element of the values.
template <class T, class Tile>
DEVICE void add_plain(float (&sums)[PLAIN_COLUMNS][PLAIN_QUERIES], const PlainMemory& shared, const Attention<T>& a,
                      const Tile& tile, uint32_t span) {
  const uint32_t first = max(tile.start, span * PLAIN_SPAN), end = min(tile.end, (span + 1) * PLAIN_SPAN);
#pragma unroll
  for (int c = 0; c < PLAIN_COLUMNS; c++) {
    const uint32_t column = threadIdx.x + c * PLAIN_THREADS;
    if (column >= a.value_dim) continue;
#pragma unroll
    for (int i = 0; i < PLAIN_QUERIES; i++) sums[c][i] *= shared.factors[i];
#pragma unroll 4
    for (uint32_t position = first; position < end; position++) {
      const size_t at = a.slot(block_of(shared.blocks, a, position), blockIdx.y, position) + column;
      const float value = to_f32(a.values[at]);
#pragma unroll
      for (int i = 0; i < PLAIN_QUERIES; i++) {
        sums[c][i] = fmaf(shared.weights[i][position % PLAIN_SPAN], value, sums[c][i]);
      }
    }
  }
}

template <class T>
DEVICE void attend_plain(const Attention<T>& a) {
  constexpr int ROWS = PLAIN_QUERIES / (PLAIN_THREADS / WARP_SIZE);  // whose softmax a warp works out
  SMEM(PlainMemory, shared, );
  const QueryTile<PLAIN_QUERIES> tile(a, blockIdx.x);
  uint32_t start = tile.start, end = tile.end;
  if (a.splits > 1) {
    start = max(start, blockIdx.z * SPLIT);
    end = min(end, (blockIdx.z + 1) * SPLIT);
  }
  if (start >= end) return;
  const uint32_t first = start / PLAIN_SPAN, last = (end - 1) / PLAIN_SPAN;
  const int lane = lane_id(), row = warp_id() * ROWS, half = threadIdx.x / PLAIN_SPAN * PLAIN_HALF;

  Softmax total[ROWS], part[ROWS];
  float total_sums[PLAIN_COLUMNS][PLAIN_QUERIES] = {}, sums[PLAIN_COLUMNS][PLAIN_QUERIES] = {};
  for (uint32_t span = first; span <= last; span++) {
    __syncthreads();  // all are done with the span before
    if (span == first || span * PLAIN_SPAN % SPLIT == 0) {
      fetch_blocks(shared.blocks, a, tile.sequence, span * PLAIN_SPAN / SPLIT);
      __syncthreads();
    }
    float dots[PLAIN_HALF] = {};
    dot_plain(dots, shared, a, tile, span);
    const uint32_t key = threadIdx.x % PLAIN_SPAN, position = span * PLAIN_SPAN + key;
#pragma unroll
    for (int i = 0; i < PLAIN_HALF; i++) {
      shared.weights[half + i][key] = Query(a, tile, blockIdx.y, half + i).score(a, dots[i], position);
    }
    __syncthreads();
#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      float* scores = shared.weights[row + i];
      const float low = scores[lane], high = scores[lane + WARP_SIZE];
      const float max = fmaxf(warp_max(fmaxf(low, high)), part[i].max);
      const float rescale = fast_exp2(part[i].max - max);
      scores[lane] = fast_exp2(low - max);
      scores[lane + WARP_SIZE] = fast_exp2(high - max);
      part[i] = {max, fmaf(part[i].sum, rescale, scores[lane] + scores[lane + WARP_SIZE])};
      if (lane == 0) shared.factors[row + i] = rescale;
    }
    __syncthreads();
    add_plain(sums, shared, a, tile, span);
    if ((span + 1) * PLAIN_SPAN % SPLIT != 0 && span != last) continue;

#pragma unroll
    for (int i = 0; i < ROWS; i++) {
      part[i].sum = warp_sum(part[i].sum);
      const Query query(a, tile, blockIdx.y, row + i);
      if (a.splits > 1 && lane == 0 && query.reaches(blockIdx.z) && !query.in_one_split()) {
        float* partial = partial_of(a, query, blockIdx.z);
        partial[0] = part[i].max, partial[1] = part[i].sum;
      }
      const Merge both = merge(total[i], part[i]);
      part[i] = Softmax();
      if (lane == 0) shared.merges[row + i] = both;
    }
    __syncthreads();
#pragma unroll
    for (int c = 0; c < PLAIN_COLUMNS; c++) {
      const uint32_t column = threadIdx.x + c * PLAIN_THREADS;
#pragma unroll
      for (int i = 0; i < PLAIN_QUERIES; i++) {
        const Query query(a, tile, blockIdx.y, i);
        if (a.splits > 1 && column < a.value_dim && query.reaches(blockIdx.z) && !query.in_one_split()) {
          partial_of(a, query, blockIdx.z)[2 + column] = sums[c][i];
        }
        total_sums[c][i] = shared.merges[i](total_sums[c][i], sums[c][i]);
        sums[c][i] = 0.0f;
      }
    }
  }
#pragma unroll
  for (int i = 0; i < ROWS; i++) {
    const Query query(a, tile, blockIdx.y, row + i);
    if (lane == 0 && query.present) shared.factors[row + i] = normalizer(a, total[i], query.head);
  }
  __syncthreads();
#pragma unroll
  for (int c = 0; c < PLAIN_COLUMNS; c++) {
    const uint32_t column = threadIdx.x + c * PLAIN_THREADS;
#pragma unroll
    for (int i = 0; i < PLAIN_QUERIES; i++) {
      const Query query(a, tile, blockIdx.y, i);
      if (column >= a.value_dim || !query.present) continue;
      if (a.splits > 1 && !(query.in_one_split() && query.reaches(blockIdx.z))) continue;
      const float out = normalized(total_sums[c][i], shared.factors[i]);
      a.out[query.index * a.value_dim + column] = from_f32<T>(out);
    }
  }
}

#define ATTEND_PLAIN(T)                                                                                \
  extern "C" __global__ void __launch_bounds__(128) paged_attention_plain_##T(ATTENTION_PARAMETERS(T)) {\
    attend_plain<T>(ATTENTION_ARGUMENTS);                                                              \
  }                                                                                                    \
  KERNEL_EXPORT(paged_attention_plain_##T)
using f32 = float;
ATTEND_PLAIN(f32)
ATTEND_PLAIN(bf16)

// Merges the splits of one row and head that sees more than one; grid [T, Hq].
template <class T>
DEVICE void combine(const Attention<T>& a) {
  const uint32_t row = blockIdx.x, head = blockIdx.y;
  const auto first_row = [&](uint32_t i) { return a.cu_seqlens_q[i]; };
  const uint32_t sequence = last_at_most(a.sequences, row, first_row);
  const uint32_t position = a.context_lens[sequence] - (a.cu_seqlens_q[sequence + 1] - row);
  const uint32_t first = a.first_visible(position) / SPLIT, last = position / SPLIT;
  if (first == last) return;
  const size_t index = (size_t)row * a.heads + head, width = 2 + a.value_dim;
  Softmax total;
  float sums[PLAIN_COLUMNS] = {};
#pragma unroll 4
  for (uint32_t split = first; split <= last; split++) {
    const float* partial = a.partials + (index * a.splits + split) * width;
    const Merge both = merge(total, {partial[0], partial[1]});
#pragma unroll
    for (int c = 0; c < PLAIN_COLUMNS; c++) {
      const uint32_t column = threadIdx.x + c * PLAIN_THREADS;
      if (column < a.value_dim) sums[c] = both(sums[c], partial[2 + column]);
    }
  }
  const float factor = normalizer(a, total, head);
#pragma unroll
  for (int c = 0; c < PLAIN_COLUMNS; c++) {
    const uint32_t column = threadIdx.x + c * PLAIN_THREADS;
    if (column < a.value_dim) a.out[index * a.value_dim + column] = from_f32<T>(normalized(sums[c], factor));
  }
}

#define COMBINE(T)                                                                                             \
  extern "C" __global__ void __launch_bounds__(128) paged_attention_combine_##T(ATTENTION_PARAMETERS(T)) {     \
    combine<T>(ATTENTION_ARGUMENTS);                                                                           \
  }                                                                                                            \
  KERNEL_EXPORT(paged_attention_combine_##T)
COMBINE(f32)
COMBINE(bf16)
