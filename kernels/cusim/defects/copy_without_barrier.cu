// A wait covers the thread's own copies: others need a barrier.
#include "defect.cuh"

template <bool BUG>
static __device__ void copy_without_barrier(float* out, const float* in) {
  DYN_SMEM(float, row);
  row[threadIdx.x] = 0.0f;
  __syncthreads();
  cp_async_4(row + threadIdx.x, in + threadIdx.x);
  cp_async_commit();
  cp_async_wait<0>();
  if (!BUG) __syncthreads();
  out[threadIdx.x] = row[blockDim.x - 1 - threadIdx.x];
}
DEFECT(copy_without_barrier)
