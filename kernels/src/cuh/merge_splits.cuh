// The splits of a tile's queries, each the work of a thread block of its own, merged by the one that comes
// last.
#pragma once
#include "attention.cuh"
#include "split_sum.cuh"

// To be called by all THREADS threads of a thread block once it has kept its split. N divides value_dim: a
// thread has N elements of a query at a time. The numbers and their order are those of a thread block that
// walks all splits.
template <int THREADS, int N, class T, class Tile>
DEVICE void merge_splits(const Attention<T>& a, const Tile& tile) {
  if (a.semaphores == nullptr) return;
  // The others see nothing of the tile, and have ended.
  const uint32_t parts = (tile.end - 1) / SPLIT - tile.start / SPLIT + 1;
  if (parts == 1 || !arrives_last<THREADS>(a.semaphores, blockIdx.y * gridDim.x + blockIdx.x, parts)) return;
  for (uint32_t at = threadIdx.x * N; at < tile.count * a.value_dim; at += THREADS * N) {
    const Query query(a, tile, blockIdx.y, at / a.value_dim);
    if (query.in_one_split()) continue;
    const uint32_t column = at % a.value_dim;
    Softmax total;
    float sums[N] = {};
#pragma unroll 8
    for (uint32_t split = query.start / SPLIT; split <= query.position / SPLIT; split++) {
      const float* partial = partial_of(a, query, split);
      const Merge both = merge(total, {partial[0], partial[1]});
      float values[N];
      load_f32<N>(values, partial + 2 + column);
#pragma unroll
      for (int i = 0; i < N; i++) sums[i] = both(sums[i], values[i]);
    }
    const float factor = normalizer(a, total, query.head);
#pragma unroll
    for (int i = 0; i < N; i++) sums[i] = normalized(sums[i], factor);
    store_f32<N>(a.out + query.index * a.value_dim + column, sums);
  }
}
