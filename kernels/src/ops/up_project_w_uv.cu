// up_project_w_uv: out[t, h] = w_uv[h] · x[t, h].
//
//   out [T, Hq, D]; x [T, Hq, L], of the same type; w_uv [Hq, D, L]
#include "../cuh/head_product.cuh"

template <class Tile>
DEVICE void expand_mma(bf16* out, const bf16* x, const bf16* w_uv, const HeadProduct& p) {
  const auto row_of_x = [&](int row) {
    const uint32_t t = blockIdx.z * Tile::TOKENS + row;
    return t < p.rows ? (int)(t * p.heads + blockIdx.y) : -1;
  };
  const RowCopies<Tile::TOKENS, Tile::THREADS> input(x, p.k, row_of_x);
  multiply_heads_mma<Tile>(out, w_uv, input, p);
}

#define EXPAND_MMA(name, Tile, BLOCKS)                                                \
  extern "C" __global__ void __launch_bounds__(Tile::THREADS, BLOCKS)                 \
      up_project_w_uv_##name(bf16* out, const bf16* x, const bf16* w_uv, HeadProduct p) { \
    expand_mma<Tile>(out, x, w_uv, p);                                                \
  }                                                                                   \
  KERNEL_EXPORT(up_project_w_uv_##name)
EXPAND_MMA(t8_bf16, FewRows, 4)
EXPAND_MMA(t64_bf16, ManyRows, 2)

#define EXPAND_SIMT(name, X, W)                                                 \
  extern "C" __global__ void __launch_bounds__(SIMT_THREADS)                    \
      up_project_w_uv_##name(X* out, const X* x, const W* w_uv, HeadProduct p) {  \
    multiply_heads_simt<X, W>(out, w_uv, x, p);                                 \
  }                                                                             \
  KERNEL_EXPORT(up_project_w_uv_##name)
EXPAND_SIMT(simt_f32, float, float)
EXPAND_SIMT(simt_f16, float, f16)
EXPAND_SIMT(simt_bf16, bf16, bf16)
