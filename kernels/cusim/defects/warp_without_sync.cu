// Lanes of one warp exchange through shared memory and trust that they run in step.
#include "defect.cuh"

template <bool BUG>
static __device__ void warp_without_sync(float* out, const float* in) {
  SMEM(float, lanes, [32]);
  lanes[threadIdx.x] = in[threadIdx.x];
  __syncwarp();
  const float neighbour = lanes[(threadIdx.x + 1) % 32];
  if (!BUG) __syncwarp();
  lanes[threadIdx.x] = neighbour * 2.0f;
  __syncwarp();
  out[threadIdx.x] = lanes[31 - threadIdx.x];
}
DEFECT(warp_without_sync)
