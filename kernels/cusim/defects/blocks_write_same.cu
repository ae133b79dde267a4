// Thread blocks overlap by one element of the output.
#include "defect.cuh"

template <bool BUG>
static __device__ void blocks_write_same(float* out, const float* in) {
  const int stride = BUG ? blockDim.x - 1 : blockDim.x;
  const int i = blockIdx.x * stride + threadIdx.x;
  out[i] = in[i];
}
DEFECT(blocks_write_same)
