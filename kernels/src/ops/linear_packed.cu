// linear with packed weights, decoded to bf16 on their way to the tensor cores: the same numbers as linear.cu with the
// decoded weight.
//
//   out f32 [T, N], x bf16 [T, K], values and scales as in cuh/packed.cuh, bias f32 [N] or null
#include "../cuh/linear_mma.cuh"
#include "../cuh/packed.cuh"

#define LINEAR(variant, format, Weight, Scale, ALL_PARTS, BLOCKS, ...)                                                \
  extern "C" __global__ void __launch_bounds__(MmaTile<__VA_ARGS__>::THREADS, BLOCKS)                                 \
      linear_##variant##_##format(float* out, const bf16* x, const uint8_t* values, const Scale* scales,              \
                                  const float* bias, float* partials, uint32_t* semaphores, int T, int N, int K,        \
                                  int part, int scale_columns_log2) {                                                 \
    const Plain outputs = {out, bias, N};                                                                             \
    const Weight weight(values, scales, scale_columns_log2, K);                                                       \
    linear_tile<MmaTile<__VA_ARGS__>, ALL_PARTS>(outputs, x, weight, partials, semaphores, T, part);                    \
  }                                                                                                                   \
  KERNEL_EXPORT(linear_##variant##_##format)

// Features, tokens, warps along each, stages: those of linear.cu. Large tiles have a multiprocessor to themselves: what is
// on its way to be decoded takes registers.
#define LINEARS(format, Weight, Scale)                                        \
  LINEAR(t8, format, Weight, Scale, false, 3, 64, 8, 4, 1, 6)                 \
  LINEAR(t32, format, Weight, Scale, false, 3, 64, 32, 4, 1, 5)               \
  LINEAR(t128, format, Weight, Scale, false, 1, 128, 128, 2, 4, 3)            \
  LINEAR(t128_serial_split_k, format, Weight, Scale, true, 1, 128, 128, 2, 4, 3)

LINEARS(mxfp4, Mxfp4Weight, uint8_t)
LINEARS(fp8, Fp8Weight, float)
