// A shuffle reads from a lane that does not take part.
#include "defect.cuh"

template <bool BUG>
static __device__ void shuffle_outside_mask(float* out, const float* in) {
  if (threadIdx.x >= 16) return;
  const float x = in[threadIdx.x];
  out[threadIdx.x] = __shfl_sync(0xffffu, x, BUG ? 20 : 3);
}
DEFECT(shuffle_outside_mask)
