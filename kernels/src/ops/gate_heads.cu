// gate_heads: x *= sigmoid(gate), head by head, in place. x f32 or bf16 [T, Hq·D], gate f32 [T, Hq].
// blockIdx.x is the row.
#include "../cuh/activation.cuh"
#include "../cuh/vec.cuh"

template <int V, class X>
DEVICE void gate_heads(X* x, const float* gate, int heads, int head_dim) {
  const int i = (blockIdx.y * blockDim.x + threadIdx.x) * V, width = heads * head_dim;
  if (i >= width) return;
  X* own = x + (size_t)blockIdx.x * width + i;
  const float* gates = gate + (size_t)blockIdx.x * heads;
  float gated[V];
  load_f32<V>(gated, own);
#pragma unroll
  for (int e = 0; e < V; e++) gated[e] *= mul_sigmoid(1.0f, gates[(i + e) / head_dim]);
  store_f32<V>(own, gated);
}

#define GATE_HEADS(X, type)                                                 \
  extern "C" __global__ void __launch_bounds__(256)                         \
      gate_heads_##type(X* x, const float* gate, int heads, int head_dim) { \
    if (heads * head_dim % 4 == 0) gate_heads<4>(x, gate, heads, head_dim); \
    else gate_heads<1>(x, gate, heads, head_dim);                           \
  }                                                                         \
  KERNEL_EXPORT(gate_heads_##type)

GATE_HEADS(float, f32)
GATE_HEADS(bf16, bf16)
