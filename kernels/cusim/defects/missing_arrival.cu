// A named barrier expects more threads than ever come.
#include "defect.cuh"

template <bool BUG>
static __device__ void missing_arrival(float* out, const float* in) {
  if (threadIdx.x < 64) barrier_sync(1, BUG ? 96 : 64);
  out[threadIdx.x] = in[threadIdx.x];
}
DEFECT(missing_arrival)
