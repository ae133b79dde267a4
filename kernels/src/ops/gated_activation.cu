// gated_activation: out = glu(gate, up), element by element.
//
//   out f32 or bf16 [T, I], gate_up f32 [T, 2I], each row gate, then up. blockIdx.x is the row.
#include "../cuh/activation.cuh"
#include "../cuh/vec.cuh"

template <int V, class Out>
DEVICE void gated(Out* out, const float* gate_up, int width, const Glu& glu) {
  const int i = (blockIdx.y * blockDim.x + threadIdx.x) * V;
  if (i >= width) return;
  const float* row = gate_up + (size_t)blockIdx.x * 2 * width;
  float gate[V], up[V];
  load_f32<V>(gate, row + i);
  load_f32<V>(up, row + width + i);
#pragma unroll
  for (int e = 0; e < V; e++) gate[e] = apply_glu(glu, gate[e], up[e]);
  store_f32<V>(out + (size_t)blockIdx.x * width + i, gate);
}

#define GATED_ACTIVATION(Out, type)                                                             \
  extern "C" __global__ void __launch_bounds__(256) gated_activation_##type(                    \
      Out* out, const float* gate_up, int width, int kind, int act, float alpha, float limit) { \
    const Glu glu = {kind, act, alpha, limit};                                                  \
    if (width % 4 == 0) gated<4>(out, gate_up, width, glu);                                     \
    else gated<1>(out, gate_up, width, glu);                                                    \
  }                                                                                             \
  KERNEL_EXPORT(gated_activation_##type)

GATED_ACTIVATION(float, f32)
GATED_ACTIVATION(bf16, bf16)
