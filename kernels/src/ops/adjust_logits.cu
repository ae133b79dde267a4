// adjust_logits: l = scale · logits; with a softcap c > 0, c · tanh(l / c). logits f32 [n], in place.
#include "../cuh/vec.cuh"

DEVICE float adjusted(float logit, float scale, float softcap) {
  const float l = logit * scale;
  return softcap > 0.0f ? softcap * tanhf(l / softcap) : l;
}

extern "C" __global__ void __launch_bounds__(256)
    adjust_logits_f32(float* logits, uint64_t n, float scale, float softcap) {
  const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i + 4 <= n) {
    float l[4];
    load_f32<4>(l, logits + i);
#pragma unroll
    for (int e = 0; e < 4; e++) l[e] = adjusted(l[e], scale, softcap);
    store_f32<4>(logits + i, l);
  } else {
    for (size_t at = i; at < n; at++) logits[at] = adjusted(logits[at], scale, softcap);
  }
}
KERNEL_EXPORT(adjust_logits_f32)
