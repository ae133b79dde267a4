// A vector load from an address that is only aligned for its elements.
#include "defect.cuh"

template <bool BUG>
static __device__ void misaligned_vector(float* out, const float* in) {
  const float4 v = *reinterpret_cast<const float4*>(in + (BUG ? 1 : 4) + 4 * threadIdx.x);
  out[threadIdx.x] = v.x + v.y + v.z + v.w;
}
DEFECT(misaligned_vector)
