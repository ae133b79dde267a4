// latent_attention on the tensor cores: the queries of all heads against one row per position, which is a key
// as a whole and a value by its first elements, so that it is read once.
//
//   out [T, Hq, L]; queries [T, Hq, R]; keys = values: the cache [B, bs, R]. R and L are multiples of 8.
//
// Queries, splits of the keys and what becomes of them are paged_attention's (cuh/attention.cuh), with one
// key/value head. Other sizes and f32 take paged_attention_plain.
#include "../cuh/attention_mma.cuh"

// 16 queries and spans of 32 rows of up to 576 elements; the rest of a row is zeros. For the scores four
// warps share the rows of a span and the others do the same with the second half of the elements; for the
// sums all share the elements of the values. Each warp works out all weights.
struct LatentTile {
  static constexpr int DIM = 576, VALUES = 512, SPAN = 32, STAGES = 2;
  static constexpr int QUERIES = 16, WARPS = 8, THREADS = WARPS * WARP_SIZE;
  static constexpr int DOT_STRIDE = SPAN + 8;
  static constexpr int KEYS = SPAN / 8;               // fragments of 8 keys
  static constexpr int COLUMNS = VALUES / WARPS / 8;  // fragments of 8 elements of the values in a warp
};

// As MMA_SHARED_BYTES in ops/latent_attention/cuda.rs.
struct LatentMemory {
  alignas(16) bf16 queries[LatentTile::QUERIES * LatentTile::DIM];
  alignas(16) bf16 rows[LatentTile::STAGES][LatentTile::SPAN * LatentTile::DIM];
  float dots[2][LatentTile::QUERIES * LatentTile::DOT_STRIDE];  // over each half of the elements
  BlockRing blocks;
};

// The dot products of the queries with a warp's 8 rows of a span, over its half of the elements.
DEVICE void dot_rows(LatentMemory& shared, const bf16* rows) {
  constexpr int DIM = LatentTile::DIM, HALF = DIM / 2;
  static_assert(LatentTile::WARPS == 2 * LatentTile::KEYS && HALF % 32 == 0);
  const int lane = lane_id(), half = warp_id() / LatentTile::KEYS, key = warp_id() % LatentTile::KEYS * 8;
  const auto q = [&](int column) {
    column += half * HALF + lane / 16 * 8;
    return shared.queries + tile_at<DIM, LatentTile::QUERIES>(lane % 16, column);
  };
  float dots[4] = {};
#pragma unroll
  for (int i = 0; i < HALF; i += 32) {
    uint32_t a[4], b[4];  // 16 queries by 16 elements; 8 rows by 32 elements
    ldmatrix_x4(b, rows + tile_at<DIM, LatentTile::SPAN>(key + lane % 8, half * HALF + i + lane / 8 * 8));
    ldmatrix_x4(a, q(i));
    mma_bf16(dots, a, {b[0], b[1]});
    ldmatrix_x4(a, q(i + 16));
    mma_bf16(dots, a, {b[2], b[3]});
  }
  float* to = shared.dots[half] + lane / 4 * LatentTile::DOT_STRIDE + key + lane % 4 * 2;
  store_pack(to, Pack<float, 2>{dots[0], dots[1]});
  store_pack(to + 8 * LatentTile::DOT_STRIDE, Pack<float, 2>{dots[2], dots[3]});
}

// All scores of a span, in every warp, in units of log2. `ends`: how many positions a thread's two queries
// see.
DEVICE void load_scores(Fragments<LatentTile::KEYS>& scores, const LatentMemory& shared, float scale,
                        const uint32_t (&ends)[2], uint32_t span) {
#pragma unroll
  for (int j = 0; j < LatentTile::KEYS; j++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const int key = 8 * j + lane_id() % 4 * 2;
      const int at = (lane_id() / 4 + 8 * half) * LatentTile::DOT_STRIDE + key;
      const Pack<float, 2> low = load_pack<2>(shared.dots[0] + at), high = load_pack<2>(shared.dots[1] + at);
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const bool seen = span * LatentTile::SPAN + key + e < ends[half];
        // Never fused with what follows, so that no weight is over 1.
        scores.at[j][2 * half + e] = seen ? __fmul_rn(low.v[e] + high.v[e], scale) : -INFINITY;
      }
    }
}

DEVICE void attend_latents(const Attention<bf16>& a) {
  constexpr int SPANS = SPLIT / LatentTile::SPAN, COLUMNS = LatentTile::COLUMNS;
  DYN_SMEM(LatentMemory, memory);
  LatentMemory& shared = *memory;
  const QueryTile<LatentTile::QUERIES> tile(a, blockIdx.x);
  uint32_t start = tile.start, end = tile.end;
  if (a.splits > 1) {
    start = max(start, blockIdx.z * SPLIT);
    end = min(end, (blockIdx.z + 1) * SPLIT);
  }
  if (start >= end) return;
  const uint32_t first = start / LatentTile::SPAN, last = (end - 1) / LatentTile::SPAN;
  const int lane = lane_id(), column = warp_id() * 8 * COLUMNS;
  const auto query = [&](int half) { return Query(a, tile, 0, lane / 4u + 8 * half); };
  const uint32_t ends[2] = {query(0).present ? query(0).position + 1 : 0,
                            query(1).present ? query(1).position + 1 : 0};

  load_queries<LatentTile>(shared.queries, a, tile);
  fetch_blocks(shared.blocks, a, tile.sequence, first / SPANS);
  __syncthreads();
  const auto stage_at = [&](uint32_t span) { return shared.rows[span % LatentTile::STAGES]; };
  const auto copy = [&](uint32_t span) {
    if (span <= last) copy_span<LatentTile>(stage_at(span), a.keys, a, tile, shared.blocks, span);
    cp_async_commit();
  };
  copy(first);

  Softmax total[2], part[2];
  Fragments<COLUMNS> total_sums, sums;
  total_sums.clear();
  sums.clear();
  for (uint32_t span = first; span <= last; span++) {
    cp_async_wait<0>();
    __syncthreads();  // the rows are there, and all are done with those before
    copy(span + 1);
    // Rows start at position 0, so that the first span of every split comes by.
    if (span % SPANS == 0) fetch_blocks(shared.blocks, a, tile.sequence, span / SPANS + 1);
    dot_rows(shared, stage_at(span));
    __syncthreads();  // the dot products are there
    Fragments<LatentTile::KEYS> scores;
    load_scores(scores, shared, a.scale * LOG2_E, ends, span);
    weigh(scores, part, sums);
    add_values<LatentTile::DIM>(sums, scores, stage_at(span), column);
    if ((span + 1) % SPANS == 0 || span == last) {
      part[0].sum = warp_sum<4>(part[0].sum);
      part[1].sum = warp_sum<4>(part[1].sum);
      if (a.splits > 1) store_partials(a, {query(0), query(1)}, part, sums, column);
      merge_split(total, total_sums, part, sums);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Query row = query(half);
    if (!row.present || (a.splits > 1 && !(row.in_one_split() && row.reaches(blockIdx.z)))) continue;
    store_output(a, row, normalizer(a, total[half], row.head), total_sums, half, column);
  }
}

extern "C" __global__ void __launch_bounds__(LatentTile::THREADS, 2)
    latent_attention_mma_bf16(ATTENTION_PARAMETERS(bf16)) {
  attend_latents(ATTENTION_ARGUMENTS);
}
KERNEL_EXPORT(latent_attention_mma_bf16)
