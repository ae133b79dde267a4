// Data of cp.async are used before the wait.
#include "defect.cuh"

template <bool BUG>
static __device__ void copy_not_waited(float* out, const float* in) {
  DYN_SMEM(float, row);
  cp_async_16(row + 4 * threadIdx.x, in + 4 * threadIdx.x);
  cp_async_commit();
  if (!BUG) cp_async_wait<0>();
  __syncthreads();
  out[threadIdx.x] = row[threadIdx.x];
}
DEFECT(copy_not_waited)
