// The last thread block to arrive adds up what the others wrote; their writes need a fence before the arrival.
#include "defect.cuh"

template <bool BUG>
static __device__ void blocks_without_fence(float* out, const float* in) {
  SMEM(bool, is_last, [1]);
  unsigned* arrivals = reinterpret_cast<unsigned*>(out + 1023);
  if (threadIdx.x == 0) {
    out[blockIdx.x] = in[blockIdx.x];
    if (!BUG) __threadfence();
    is_last[0] = atomicInc(arrivals, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (!is_last[0] || threadIdx.x != 0) return;
  float sum = 0.0f;
  for (int i = 0; i < gridDim.x; i++) sum += out[i];
  out[512] = sum;
}
DEFECT(blocks_without_fence)
