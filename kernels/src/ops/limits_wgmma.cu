// As limits.cu: bf16 products by Hopper's wgmma, from shared memory as linear_wgmma.cu has them.
#include "../cuh/wgmma.cuh"

constexpr int THREADS = 256, ROWS = THREADS / 128 * 64, COLUMNS = 256, K = 64;

// sums f32 [threads]: each thread's sum of its elements of a product [ROWS, K] x [K, COLUMNS] per round.
extern "C" __global__ void __launch_bounds__(THREADS, 1) limits_wgmma_bf16(float* sums, uint32_t rounds) {
#if defined(CUSIM) || defined(__CUDA_ARCH__)
  DYN_SMEM(uint16_t, tiles);
  // Numbers from 0.5 to 2 of either sign: equal ones would cost less power than a model's.
  for (int i = threadIdx.x; i < (ROWS + COLUMNS) * K; i += THREADS)
    tiles[i] = 0x3f00 | (i * 2654435761u >> 16 & 0x80ff);
  fence_async_proxy();
  __syncthreads();
  const uint16_t *a = tiles + threadIdx.x / 128 * 64 * K, *b = tiles + ROWS * K;
  float d[COLUMNS / 2] = {};
  for (uint32_t round = 0; round < rounds; round++) {
    wgmma_fence();
#pragma unroll
    for (int k = 0; k < K; k += 16) wgmma_bf16(d, wgmma_swizzled(a + k), wgmma_swizzled(b + k));
    wgmma_commit();
    wgmma_wait<1>();
  }
  wgmma_wait<0>();
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < COLUMNS / 2; i++) sum += d[i];
  sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
#endif
}
KERNEL_EXPORT(limits_wgmma_bf16)
