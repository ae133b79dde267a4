// A loop fills its one buffer again while slower threads still read the last round.
#include "defect.cuh"

template <bool BUG>
static __device__ void write_after_read(float* out, const float* in) {
  SMEM(float, tile, [128]);
  float sum = 0.0f;
  for (int step = 0; step < 4; step++) {
    tile[threadIdx.x] = in[step * 128 + threadIdx.x];
    __syncthreads();
    sum += tile[(threadIdx.x + 64) % 128];
    if (!BUG) __syncthreads();
  }
  out[threadIdx.x] = sum;
}
DEFECT(write_after_read)
