// absorb_w_uk: out[t, h] = [w_uk[h] · q_nope, rotated q_rope].
//
//   out [T, Hq, L + 2 half]; q f32 [T, Hq, N + 2 half]; w_uk [Hq, L, N]; cos, sin f32 [P, half];
//   positions u32 [T]
#include "../cuh/head_product.cuh"
#include "../cuh/rotation.cuh"

struct Rotations {
  const float *cos, *sin;  // [P, half]
  const uint32_t* positions;
  uint32_t half, interleaved;
};

// As RowCopies, of f32 rows that become bf16 on the way: through registers, so that a stage's rows are there
// when the call returns. A row is a multiple of 8 elements in the product, and 16-byte aligned.
template <class Tile>
struct RoundedRows {
  const float* x;
  const HeadProduct& p;

  __device__ __forceinline__ void start(bf16* stage, int k) const {
    const int chunk = threadIdx.x % 8, column = k + chunk * CHUNK;
#pragma unroll
    for (int row = threadIdx.x / 8; row < Tile::TOKENS; row += Tile::THREADS / 8) {
      const uint32_t t = blockIdx.z * Tile::TOKENS + row;
      Pack<bf16, CHUNK> rounded = {};
      if (t < p.rows && column < (int)p.k) {
        const float* from = p.x_row(x, t) + column;
        const Pack<float, 4> low = load_pack<4>(from), high = load_pack<4>(from + 4);
#pragma unroll
        for (int e = 0; e < 4; e++) {
          rounded.v[e] = from_f32<bf16>(low.v[e]);
          rounded.v[4 + e] = from_f32<bf16>(high.v[e]);
        }
      }
      store_pack(stage + swizzled(row, chunk), rounded);
    }
  }
};

// The rotated elements of `tokens` rows, beside what the product makes; done by the head's first thread block
// of these rows.
template <class X>
DEVICE void rotate_queries(X* out, const float* q, const Rotations& r, const HeadProduct& p, int tokens) {
  if (blockIdx.x != 0) return;
  for (uint32_t i = threadIdx.x; i < tokens * r.half; i += blockDim.x) {
    const uint32_t row = blockIdx.z * tokens + i / r.half, pair = i % r.half;
    if (row >= p.rows) return;
    const size_t angles = (size_t)r.positions[row] * r.half;
    const Rotation rotation = {r.cos + angles, r.sin + angles, r.half, r.interleaved};
    const float* from = p.x_row(q, row) + p.k;
    X* to = p.out_row(out, row) + p.features;
    float a = from[rotation.first(pair)], b = from[rotation.second(pair)];
    rotation.rotate(a, b, pair);
    to[rotation.first(pair)] = from_f32<X>(a);
    to[rotation.second(pair)] = from_f32<X>(b);
  }
}

#define ABSORB_PARAMETERS(X, W)                                                                             \
  X *out, const float *q, const W *w_uk, const float *cos, const float *sin, const uint32_t *positions,     \
      uint32_t half, uint32_t interleaved, HeadProduct p

#define ABSORB_MMA(name, Tile, BLOCKS)                                                                      \
  extern "C" __global__ void __launch_bounds__(Tile::THREADS, BLOCKS)                                       \
      absorb_w_uk_##name(ABSORB_PARAMETERS(bf16, bf16)) {                                                \
    multiply_heads_mma<Tile>(out, w_uk, RoundedRows<Tile>{q, p}, p);                                        \
    rotate_queries(out, q, {cos, sin, positions, half, interleaved}, p, Tile::TOKENS);                      \
  }                                                                                                         \
  KERNEL_EXPORT(absorb_w_uk_##name)
ABSORB_MMA(t8_bf16, FewRows, 4)
ABSORB_MMA(t64_bf16, ManyRows, 2)

#define ABSORB_SIMT(name, X, W)                                                                             \
  extern "C" __global__ void __launch_bounds__(SIMT_THREADS)                                                \
      absorb_w_uk_##name(ABSORB_PARAMETERS(X, W)) {                                                      \
    multiply_heads_simt<X, W>(out, w_uk, q, p);                                                             \
    rotate_queries(out, q, {cos, sin, positions, half, interleaved}, p, SIMT_TOKENS);                       \
  }                                                                                                         \
  KERNEL_EXPORT(absorb_w_uk_##name)
ABSORB_SIMT(simt_f32, float, float)
ABSORB_SIMT(simt_f16, float, f16)
ABSORB_SIMT(simt_bf16, bf16, bf16)
