// A shared counter is updated atomically by some and plainly by others.
#include "defect.cuh"

template <bool BUG>
static __device__ void atomic_and_plain(float* out, const float* in) {
  SMEM(int, count, [1]);
  if (threadIdx.x == 0) count[0] = 0;
  __syncthreads();
  if (BUG && threadIdx.x == 40) {
    count[0] += 1;
  } else if (in[threadIdx.x] >= 0.0f) {
    atomicAdd(&count[0], 1);
  }
  __syncthreads();
  if (threadIdx.x == 0) out[0] = count[0];
}
DEFECT(atomic_and_plain)
