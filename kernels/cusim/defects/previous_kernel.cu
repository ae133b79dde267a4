// Programmatic dependent launch: a kernel that may start early must wait before it reads what the one before writes.
#include "defect.cuh"

extern "C" __global__ void previous_kernel(float* out, const float* in) { out[threadIdx.x] = in[threadIdx.x]; }
KERNEL_EXPORT(previous_kernel)

template <bool BUG>
static __device__ void next_kernel(float* out, const float* in) {
  if (!BUG) wait_for_previous_kernel();
  out[threadIdx.x] = 2.0f * in[threadIdx.x];
}
DEFECT(next_kernel)
