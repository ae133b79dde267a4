// Sums of thread blocks that share a tile of the output, each with a part of K: added in the order of the
// parts by the thread block that comes last, so that the bits do not depend on timing.
#pragma once
#include "vec.cuh"

// Counts the thread blocks of tile `tile`; true in the last of `parts`, which sees what the others have
// written. The counters are 0 between launches. By the first THREADS threads of each.
template <int THREADS>
DEVICE bool arrives_last(uint32_t* semaphores, unsigned tile, unsigned parts) {
  constexpr int BARRIER = 1;
  SMEM(int, last, [1]);
  __threadfence();
  barrier_sync(BARRIER, THREADS);
  if (threadIdx.x == 0) {
    last[0] = atomicAdd(&semaphores[tile], 1u) == parts - 1;
    if (last[0]) atomicExch(&semaphores[tile], 0u);
  }
  barrier_sync(BARRIER, THREADS);
  __threadfence();
  return last[0];
}

// In the last thread block of a tile to arrive, replaces `sums` by the total of all parts; false in the
// others. `partials`: f32 [tiles, parts, COUNT, THREADS, 4], the sums of each block's first THREADS threads
// as they lie in their registers.
template <int THREADS, int COUNT>
DEVICE bool add_parts(float (&sums)[COUNT][4], float* partials, uint32_t* semaphores, unsigned tile,
                      unsigned part, unsigned parts) {
  if (parts == 1) return true;
  const size_t stride = (size_t)COUNT * THREADS * 4;
  float* own = partials + (size_t)tile * parts * stride + threadIdx.x * 4;
#pragma unroll
  for (int i = 0; i < COUNT; i++) store_f32<4>(own + part * stride + (size_t)i * THREADS * 4, sums[i]);
  if (!arrives_last<THREADS>(semaphores, tile, parts)) return false;
#pragma unroll
  for (int i = 0; i < COUNT; i++) {
    float total[4] = {};
    for (unsigned p = 0; p < parts; p++) {
      float added[4];
      load_f32<4>(added, own + p * stride + (size_t)i * THREADS * 4);
#pragma unroll
      for (int e = 0; e < 4; e++) total[e] += added[e];
    }
#pragma unroll
    for (int e = 0; e < 4; e++) sums[i][e] = total[e];
  }
  return true;
}
