// The last partial sums of a short block are read but were never written.
#include "defect.cuh"

template <bool BUG>
static __device__ void uninitialised_shared(float* out, const float* in) {
  SMEM(float, partials, [8]);
  if (threadIdx.x < 4) partials[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const int n = BUG ? 8 : 4;
  if (threadIdx.x < n) out[threadIdx.x] = partials[threadIdx.x];
}
DEFECT(uninitialised_shared)
