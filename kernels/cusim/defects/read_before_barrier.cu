// Threads read what others wrote to shared memory without a barrier between.
#include "defect.cuh"

template <bool BUG>
static __device__ void read_before_barrier(float* out, const float* in) {
  SMEM(float, row, [256]);
  row[threadIdx.x] = 0.0f;
  __syncthreads();
  row[threadIdx.x] = in[threadIdx.x];
  if (!BUG) __syncthreads();
  out[threadIdx.x] = row[255 - threadIdx.x];
}
DEFECT(read_before_barrier)
