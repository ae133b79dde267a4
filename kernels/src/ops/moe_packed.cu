// The products of moe.cu with packed weights, decoded to bf16 on their way to the tensor cores.
#include "../cuh/moe.cuh"
#include "../cuh/packed.cuh"

#define MOE_KERNELS(tile, format, Tile, Weight, Scale)                                                                \
  extern "C" __global__ void __launch_bounds__(Tile::THREADS)                                                         \
      moe_gate_up_##tile##_##format(bf16* activated, const bf16* x, const uint8_t* values, const Scale* scales,       \
                                    int scale_columns_log2, const float* bias, const float* weights,                  \
                                    const uint32_t* pair_ids, const ExpertTile* tiles, MoeShape shape, int kind,         \
                                    int act, float alpha, float limit) {                                              \
    const Weight weight(values, scales, scale_columns_log2, shape.hidden);                                            \
    gate_up_mma<Tile>({activated, bias, weights, pair_ids, {kind, act, alpha, limit}}, x, weight, tiles, shape);         \
  }                                                                                                                   \
  KERNEL_EXPORT(moe_gate_up_##tile##_##format)                                                                        \
  extern "C" __global__ void __launch_bounds__(Tile::THREADS)                                                         \
      moe_down_##tile##_##format(float* out, const bf16* activated, const uint8_t* values, const Scale* scales,       \
                                 int scale_columns_log2, const float* bias, const ExpertTile* tiles,                  \
                                 MoeShape shape) {                                                                    \
    const Weight weight(values, scales, scale_columns_log2, shape.intermediate);                                      \
    down_mma<Tile>({out, bias}, activated, weight, tiles, shape);                                                     \
  }                                                                                                                   \
  KERNEL_EXPORT(moe_down_##tile##_##format)

#define MOE_FORMAT(format, Weight, Scale)              \
  MOE_KERNELS(t8, format, Tile8, Weight, Scale)        \
  MOE_KERNELS(t32, format, Tile32, Weight, Scale)      \
  MOE_KERNELS(t128, format, Tile128, Weight, Scale)

MOE_FORMAT(mxfp4, Mxfp4Weight, uint8_t)
MOE_FORMAT(fp8, Fp8Weight, float)
