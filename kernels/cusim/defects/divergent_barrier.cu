// Two branches, a barrier in each: the threads do not meet at the same one.
#include "defect.cuh"

template <bool BUG>
static __device__ void divergent_barrier(float* out, const float* in) {
  SMEM(float, value, [2]);
  if (BUG && threadIdx.x >= 32) {
    if (threadIdx.x == 32) value[1] = in[1];
    __syncthreads();
  } else {
    if (threadIdx.x == 0) value[0] = in[0];
    __syncthreads();
  }
  if (threadIdx.x == 0) out[0] = value[0];
}
DEFECT(divergent_barrier)
