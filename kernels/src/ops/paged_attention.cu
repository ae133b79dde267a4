// paged_attention on the tensor cores: queries against the keys and values of their sequences, KV block by KV
// block.
//
// One thread block works on a tile of queries of one sequence that share a key/value head: few for decode,
// many for prefill. Rows take the same steps in the same order in all of them (see cuh/attention.cuh).
#include "../cuh/attend.cuh"

// All of a span's scores for every warp of a band, each having worked out its share of them. `exchanged` is
// the band's.
template <class Shape, class ToScores>
DEVICE void share_scores(Fragments<Shape::SPAN / 8>& scores, float* exchanged, const bf16* queries,
                         const bf16* keys, const Place<Shape>& place, ToScores to_scores) {
  // Fragments of 8 keys in a warp.
  constexpr int KEYS = Shape::SPAN <= 8 * Shape::SHARES ? 1 : Shape::SPAN / 8 / Shape::SHARES;
  static_assert(KEYS == 1 || KEYS % 2 == 0);
  const int lane = lane_id(), first = place.share * KEYS * 8;
  float* thread = exchanged + lane / 4 * Shape::SCORE_STRIDE + lane % 4 * 2;
  if (first < Shape::SPAN) {
    Fragments<KEYS> own;
    const bf16* own_keys = keys + first * PANEL<Shape::DIM>;
    multiply_keys<Shape::DIM, Shape::QUERIES, Shape::SPAN>(own, queries, own_keys);
    to_scores(own, first);
#pragma unroll
    for (int j = 0; j < KEYS; j++)
#pragma unroll
      for (int half = 0; half < 2; half++) {
        const Pack<float, 2> pair = {own.at[j][2 * half], own.at[j][2 * half + 1]};
        store_pack(thread + 8 * half * Shape::SCORE_STRIDE + first + 8 * j, pair);
      }
  }
  barrier_sync(1 + place.band, Shape::SHARES * WARP_SIZE);
#pragma unroll
  for (int j = 0; j < Shape::SPAN / 8; j++)
#pragma unroll
    for (int half = 0; half < 2; half++) {
      const Pack<float, 2> pair = load_pack<2>(thread + 8 * half * Shape::SCORE_STRIDE + 8 * j);
      scores.at[j][2 * half] = pair.v[0];
      scores.at[j][2 * half + 1] = pair.v[1];
    }
}

// mma.sync. The warps of a band share the keys of a span for the scores too.
struct Mma {
  template <class Shape, class ToScores>
  static __device__ __forceinline__ void scores(Fragments<Shape::SPAN / 8>& scores, const bf16* queries,
                                                const bf16* keys, float* exchanged, const Place<Shape>& place,
                                                bool busy, ToScores to_scores) {
    if (!busy) return;
    queries += place.band * 16 * PANEL<Shape::DIM>;
    if constexpr (Shape::SHARES == 1) {
      multiply_keys<Shape::DIM, Shape::QUERIES, Shape::SPAN>(scores, queries, keys);
      to_scores(scores, 0);
    } else {
      share_scores<Shape>(scores, exchanged, queries, keys, place, to_scores);
    }
  }
  template <class Shape>
  static __device__ __forceinline__ void add(Fragments<Shape::COLUMNS>& sums,
                                             const Fragments<Shape::SPAN / 8>& weights, const bf16* values,
                                             const Place<Shape>& place, bool busy) {
    if (busy) add_values<Shape::DIM>(sums, weights, values, place.first_column());
  }
  static __device__ __forceinline__ void fence() {}
};

// 16 queries: for decode.
ATTEND(mma32, 2, Mma, 32, 64, 2, 1, 4)
ATTEND(mma64, 2, Mma, 64, 64, 2, 1, 4)
ATTEND(mma96, 2, Mma, 96, 64, 2, 1, 4)
ATTEND(mma128, 2, Mma, 128, 64, 2, 1, 4)
ATTEND(mma192, 2, Mma, 192, 64, 1, 1, 4)
ATTEND(mma256, 2, Mma, 256, 64, 1, 1, 4)
ATTEND(mma512, 1, Mma, 512, 32, 1, 1, 8)
// 64 or 32: for prefill.
ATTEND(mma32_tall, 3, Mma, 32, 64, 2, 4, 1)
ATTEND(mma64_tall, 3, Mma, 64, 64, 2, 4, 1)
ATTEND(mma96_tall, 2, Mma, 96, 64, 1, 4, 1)
ATTEND(mma128_tall, 2, Mma, 128, 64, 1, 4, 1)
ATTEND(mma192_tall, 1, Mma, 192, 64, 1, 2, 4)
ATTEND(mma256_tall, 1, Mma, 256, 64, 1, 2, 4)
