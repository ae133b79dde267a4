// paged_attention without tensor cores, in f32, for every head size and type; and paged_attention_combine,
// which merges splits by a launch of its own.
#include "../cuh/merge_splits.cuh"
#include "../cuh/reduce.cuh"

// A tile of 8 queries; each thread scores half of them with one key of a span of 64, and sums every 128th
// element of the values for all of them.
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
      const size_t at = seen ? slot_of(shared.blocks, a, position) + d : 0;
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
DEVICE void add_plain(float (&sums)[PLAIN_COLUMNS][PLAIN_QUERIES], const PlainMemory& shared,
                      const Attention<T>& a, const Tile& tile, uint32_t span) {
  const uint32_t first = max(tile.start, span * PLAIN_SPAN), end = min(tile.end, (span + 1) * PLAIN_SPAN);
#pragma unroll
  for (int c = 0; c < PLAIN_COLUMNS; c++) {
    const uint32_t column = threadIdx.x + c * PLAIN_THREADS;
    if (column >= a.value_dim) continue;
#pragma unroll
    for (int i = 0; i < PLAIN_QUERIES; i++) sums[c][i] *= shared.factors[i];
#pragma unroll 4
    for (uint32_t position = first; position < end; position++) {
      const size_t at = slot_of(shared.blocks, a, position) + column;
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
      const Query query(a, tile, blockIdx.y, half + i);
      shared.weights[half + i][key] = query.sees(position) ? query.score(a, dots[i], position) : -INFINITY;
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
  merge_splits<PLAIN_THREADS, 1>(a, tile);
}

#define ATTEND_PLAIN(T)                                                                                \
  extern "C" __global__ void __launch_bounds__(128, 3) paged_attention_plain_##T(ATTENTION_PARAMETERS(T)) {\
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

#define COMBINE(T)                                                                                         \
  extern "C" __global__ void __launch_bounds__(128) paged_attention_combine_##T(ATTENTION_PARAMETERS(T)) { \
    combine<T>(ATTENTION_ARGUMENTS);                                                                       \
  }                                                                                                        \
  KERNEL_EXPORT(paged_attention_combine_##T)
COMBINE(f32)
COMBINE(bf16)
