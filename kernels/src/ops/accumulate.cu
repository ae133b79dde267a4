// accumulate: out = (out + sigmoid(gate) · x) · scale. out and x f32 [T, H]; gate f32 [T, 1], or null: a
// factor of 1. blockIdx.x is the row.
#include "../cuh/activation.cuh"
#include "../cuh/vec.cuh"

template <int V>
DEVICE void accumulate(float* out, const float* x, float factor, int hidden, float scale) {
  const int i = (blockIdx.y * blockDim.x + threadIdx.x) * V;
  if (i >= hidden) return;
  float sum[V], added[V];
  load_f32<V>(sum, out + i);
  load_f32<V>(added, x + i);
#pragma unroll
  for (int e = 0; e < V; e++) sum[e] = fmaf(factor, added[e], sum[e]) * scale;
  store_f32<V>(out + i, sum);
}

extern "C" __global__ void __launch_bounds__(256)
    accumulate_f32(float* out, const float* x, const float* gate, int hidden, float scale) {
  const size_t start = (size_t)blockIdx.x * hidden;
  const float factor = gate != nullptr ? mul_sigmoid(1.0f, gate[blockIdx.x]) : 1.0f;
  if (hidden % 4 == 0) accumulate<4>(out + start, x + start, factor, hidden, scale);
  else accumulate<1>(out + start, x + start, factor, hidden, scale);
}
KERNEL_EXPORT(accumulate_f32)
