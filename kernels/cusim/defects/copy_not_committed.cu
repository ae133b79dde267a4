// The wait covers closed groups only, and this group was never closed.
#include "defect.cuh"

template <bool BUG>
static __device__ void copy_not_committed(float* out, const float* in) {
  DYN_SMEM(float, row);
  cp_async_4(row + threadIdx.x, in + threadIdx.x);
  if (!BUG) cp_async_commit();
  cp_async_wait<0>();
  out[threadIdx.x] = row[threadIdx.x];
}
DEFECT(copy_not_committed)
