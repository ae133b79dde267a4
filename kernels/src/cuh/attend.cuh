// Paged attention on the tensor cores: what a thread block does, whatever its tile and its products.
#pragma once
#include "attention_mma.cuh"
#include "merge_splits.cuh"

// DIM >= D elements of a head, the rest zeros; BANDS of 16 queries; SHARES warps for each band, which share the
// elements of the values between them for the sums, while each works out all weights. Products is the family of
// instructions:
//   scores<Shape>(scores, queries, keys, ..)   all of a span's scores of the warp's band; none where it is not busy
//   add<Shape>(sums, weights, values, ..)      sums += weights · values, likewise
//   fence()                                    after copies to shared memory, before the barrier
template <class Products_, int DIM_, int SPAN_, int STAGES_, int BANDS_, int SHARES_>
struct TileShape {
  using Products = Products_;
  static constexpr int DIM = DIM_, SPAN = SPAN_, STAGES = STAGES_, BANDS = BANDS_, SHARES = SHARES_;
  static constexpr int QUERIES = 16 * BANDS, THREADS = BANDS * SHARES * WARP_SIZE;
  static constexpr int BUFFER = SPAN * DIM;               // elements of a span of keys or values
  static constexpr int COLUMNS = DIM / SHARES / 8;        // fragments of 8 elements of the values in a warp
  static constexpr int SCORE_STRIDE = SPAN + 8;
  static_assert(DIM % (8 * SHARES) == 0 && SPAN % 32 == 0 && SPLIT % SPAN == 0);
};

// Followed by the scores [QUERIES, SCORE_STRIDE] in f32 where warps share them.
template <class Shape>
struct TileMemory {
  alignas(16) bf16 queries[Shape::QUERIES * Shape::DIM];
  alignas(16) bf16 keys[Shape::STAGES][Shape::BUFFER];
  alignas(16) bf16 values[Shape::STAGES][Shape::BUFFER];
  BlockRing blocks;
};

// A warp's place in its thread block.
template <class Shape>
struct Place {
  int band = warp_id() / Shape::SHARES, share = warp_id() % Shape::SHARES;

  template <class Tile>
  __device__ __forceinline__ Query row(const Attention<bf16>& a, const Tile& tile, int half) const {
    return Query(a, tile, blockIdx.y, 16 * band + lane_id() / 4 + 8 * half);
  }
  __device__ __forceinline__ uint32_t first_column() const { return share * Shape::COLUMNS * 8; }
};

template <class Shape>
DEVICE void attend(const Attention<bf16>& a) {
  using Products = typename Shape::Products;
  constexpr int SPAN = Shape::SPAN, SPANS = SPLIT / SPAN, STAGES = Shape::STAGES;
  DYN_SMEM(TileMemory<Shape>, memory);
  TileMemory<Shape>& shared = *memory;
  // The last tiles of a prompt see most keys: they begin first.
  const QueryTile<Shape::QUERIES> tile(a, gridDim.x - 1 - blockIdx.x);
  uint32_t start = tile.start, end = tile.end;
  if (a.splits > 1) {
    start = max(start, blockIdx.z * SPLIT);
    end = min(end, (blockIdx.z + 1) * SPLIT);
  }
  if (start >= end) return;
  const uint32_t first = start / SPAN, last = (end - 1) / SPAN;
  const Place<Shape> place;
  const bool busy = 16 * place.band < tile.count;  // a band without queries copies only
  const auto row = [&](int half) { return place.row(a, tile, half); };
  float* exchanged = reinterpret_cast<float*>(memory + 1) + place.band * 16 * Shape::SCORE_STRIDE;

  load_queries<Shape>(shared.queries, a, tile);
  fetch_blocks(shared.blocks, a, tile.sequence, start / SPLIT);
  fetch_blocks(shared.blocks, a, tile.sequence, start / SPLIT + 1);
  __syncthreads();
  // Every span is one group of copies for its keys and one for its values, empty after the last span.
  const auto copy = [&](bf16 (&to)[STAGES][Shape::BUFFER], const bf16* from, uint32_t span) {
    if (span <= last) copy_span<Shape>(to[(span - first) % STAGES], from, a, tile, shared.blocks, span);
    cp_async_commit();
  };
#pragma unroll
  for (int stage = 0; stage < STAGES; stage++) {
    copy(shared.keys, a.keys, first + stage);
    copy(shared.values, a.values, first + stage);
  }

  Softmax total[2], part[2];
  Fragments<Shape::COLUMNS> total_sums, sums;
  total_sums.clear();
  sums.clear();
  for (uint32_t span = first; span <= last; span++) {
    const uint32_t stage = (span - first) % STAGES, position = span * SPAN;
    const bool all_seen = position >= tile.common_start && position + SPAN <= tile.common_end;
    cp_async_wait<2 * STAGES - 2>();
    Products::fence();
    __syncthreads();  // the keys are there, and all are done with the values before
    if (span > first) {
      copy(shared.values, a.values, span - 1 + STAGES);
      if (span % SPANS == 0) fetch_blocks(shared.blocks, a, tile.sequence, span / SPANS + 1);
    }
    Fragments<SPAN / 8> scores;
    const auto finish = [&](auto& dots, uint32_t key) { to_scores(dots, a, row, position + key, all_seen); };
    const bf16* keys = shared.keys[stage];
    Products::template scores<Shape>(scores, shared.queries, keys, exchanged, place, busy, finish);
    if (busy) weigh(scores, part, sums);
    cp_async_wait<2 * STAGES - 2>();
    Products::fence();
    __syncthreads();  // the values are there, and all are done with the keys
    copy(shared.keys, a.keys, span + STAGES);
    Products::template add<Shape>(sums, scores, shared.values[stage], place, busy);
    if (!busy) continue;
    if ((span + 1) % SPANS == 0 || span == last) {
      part[0].sum = warp_sum<4>(part[0].sum);
      part[1].sum = warp_sum<4>(part[1].sum);
      if (a.splits > 1) store_partials(a, {row(0), row(1)}, part, sums, place.first_column());
      merge_split(total, total_sums, part, sums);
    }
  }
#pragma unroll
  for (int half = 0; half < 2; half++) {
    const Query query = row(half);
    if (!query.present || (a.splits > 1 && !(query.in_one_split() && query.reaches(blockIdx.z)))) continue;
    store_output(a, query, normalizer(a, total[half], query.head), total_sums, half, place.first_column());
  }
  merge_splits<Shape::THREADS, 2>(a, tile);
}

// The kernel paged_attention_<NAME>_bf16, of which RESIDENT thread blocks share a multiprocessor.
#define ATTEND(NAME, RESIDENT, PRODUCTS, DIM, SPAN, STAGES, BANDS, SHARES)                               \
  extern "C" __global__ void __launch_bounds__(32 * BANDS * SHARES, RESIDENT)                            \
      paged_attention_##NAME##_bf16(ATTENTION_PARAMETERS(bf16)) {                                        \
    attend<TileShape<PRODUCTS, DIM, SPAN, STAGES, BANDS, SHARES>>(ATTENTION_ARGUMENTS);                  \
  }                                                                                                      \
  KERNEL_EXPORT(paged_attention_##NAME##_bf16)
