// The address of a local variable is handed to another thread.
#include "defect.cuh"

template <bool BUG>
static __device__ void others_local_memory(float* out, const float* in) {
  SMEM(const volatile float*, address, [1]);
  volatile float mine = in[threadIdx.x];
  if (threadIdx.x == 0) address[0] = &mine;
  __syncthreads();
  out[threadIdx.x] = BUG ? *address[0] : mine;
}
DEFECT(others_local_memory)
