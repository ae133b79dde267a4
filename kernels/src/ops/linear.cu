// linear and gated_linear with bf16 weights on the tensor cores:
//
//   linear:        out[t, n] = y[t, n] = Σ_k x[t, k] · weight[n, k] (+ bias[n])
//                  out f32 [T, N], x bf16 [T, K], weight bf16 [N, K], bias f32 [N] or null
//   gated_linear:  out[t, i] = glu(y[t, i], y[t, I + i]), with N = 2I
//                  out bf16 [T, I]
//
// K is a multiple of 8. It is cut into parts of `part` stages of 64, a constant of the weight's shape. An
// output is the sum of its parts in ascending order, whether thread blocks compute one part each (gridDim.y
// parts) or one computes all.
#include "../cuh/linear_mma.cuh"

// The kernels linear_<variant>_bf16 and gated_linear_<variant>_bf16; after BLOCKS, the thread blocks that a
// multiprocessor is to hold, what makes the MmaTile.
#define LINEAR(variant, ALL_PARTS, BLOCKS, ...)                                                         \
  extern "C" __global__ void __launch_bounds__(MmaTile<__VA_ARGS__>::THREADS, BLOCKS)                   \
      linear_##variant##_bf16(float* out, const bf16* x, const bf16* weight, const float* bias,         \
                              float* partials, uint32_t* semaphores, int T, int N, int K, int part) {     \
    const Plain outputs = {out, bias, N};                                                               \
    linear_tile<MmaTile<__VA_ARGS__>, ALL_PARTS>(outputs, x, Bf16Weight{weight, K}, partials, semaphores, T, part); \
  }                                                                                                     \
  KERNEL_EXPORT(linear_##variant##_bf16)                                                                \
  extern "C" __global__ void __launch_bounds__(MmaTile<__VA_ARGS__>::THREADS, BLOCKS)                   \
      gated_linear_##variant##_bf16(bf16* out, const bf16* x, const bf16* weight, const float* bias,    \
                                    float* partials, uint32_t* semaphores, int T, int I, int K, int part, \
                                    int kind, int act, float alpha, float limit) {                      \
    const Gated outputs = {out, bias, I, {kind, act, alpha, limit}};                                    \
    linear_tile<MmaTile<__VA_ARGS__>, ALL_PARTS>(outputs, x, Bf16Weight{weight, K}, partials, semaphores, T, part); \
  }                                                                                                     \
  KERNEL_EXPORT(gated_linear_##variant##_bf16)

// Features, tokens, warps along each, stages.
LINEAR(t8, false, 3, 64, 8, 4, 1, 6)
LINEAR(t16, false, 3, 64, 16, 4, 1, 6)
LINEAR(t32, false, 3, 64, 32, 4, 1, 5)
LINEAR(t64, false, 3, 64, 64, 2, 2, 4)
LINEAR(t128, false, 2, 128, 128, 2, 4, 3)
LINEAR(t128_serial_split_k, true, 1, 128, 128, 2, 4, 3)
