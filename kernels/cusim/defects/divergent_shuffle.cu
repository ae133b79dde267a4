// Half of a warp shuffles under the mask of all lanes; the other half is elsewhere.
#include "defect.cuh"

template <bool BUG>
static __device__ void divergent_shuffle(float* out, const float* in) {
  float x = in[threadIdx.x];
  if (!BUG || threadIdx.x < 16) x += __shfl_xor_sync(ALL_LANES, x, 1);
  out[threadIdx.x] = x;
}
DEFECT(divergent_shuffle)
