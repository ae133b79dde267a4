// activation: out = act(x), element by element. out f32 or bf16 [n], x f32 [n].
#include "../cuh/activation.cuh"
#include "../cuh/vec.cuh"

template <int V, class Out>
DEVICE void activated(Out* out, const float* x, size_t i, int act) {
  float y[V];
  load_f32<V>(y, x + i);
#pragma unroll
  for (int e = 0; e < V; e++) y[e] = activate(act, y[e]);
  store_f32<V>(out + i, y);
}

// A thread's four elements, or those that are left of n.
template <class Out>
DEVICE void activation(Out* out, const float* x, uint64_t n, int act) {
  const size_t i = ((size_t)blockIdx.x * blockDim.x + threadIdx.x) * 4;
  if (i + 4 <= n) return activated<4>(out, x, i, act);
  for (size_t at = i; at < n; at++) activated<1>(out, x, at, act);
}

#define ACTIVATION(Out, type)                                            \
  extern "C" __global__ void __launch_bounds__(256)                      \
      activation_##type(Out* out, const float* x, uint64_t n, int act) { \
    activation(out, x, n, act);                                          \
  }                                                                      \
  KERNEL_EXPORT(activation_##type)

ACTIVATION(float, f32)
ACTIVATION(bf16, bf16)
