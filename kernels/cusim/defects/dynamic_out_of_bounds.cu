// The launch gives less dynamic shared memory than the kernel uses.
#include "defect.cuh"

template <bool BUG>
static __device__ void dynamic_out_of_bounds(float* out, const float* in) {
  DYN_SMEM(float, row);
  const int stride = BUG ? 2 : 1;
  row[threadIdx.x * stride] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = row[threadIdx.x * stride];
}
DEFECT(dynamic_out_of_bounds)
