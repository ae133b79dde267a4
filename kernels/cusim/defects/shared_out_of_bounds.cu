// One element past a static array of shared memory.
#include "defect.cuh"

template <bool BUG>
static __device__ void shared_out_of_bounds(float* out, const float* in) {
  SMEM(float, row, [64]);
  row[threadIdx.x + (BUG ? 1 : 0)] = in[threadIdx.x];
  __syncthreads();
  out[threadIdx.x] = BUG ? 0.0f : row[threadIdx.x];
}
DEFECT(shared_out_of_bounds)
