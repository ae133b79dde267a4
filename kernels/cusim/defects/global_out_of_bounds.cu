// The grid covers more elements than there are, and nobody asks.
#include "defect.cuh"

template <bool BUG>
static __device__ void global_out_of_bounds(float* out, const float* in) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (BUG || i < 1024) out[i] = in[i];
}
DEFECT(global_out_of_bounds)
