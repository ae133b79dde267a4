// The wrappers that every supported GPU has.
#include "../../src/cuh/mma.cuh"
#include "../../src/cuh/reduce.cuh"
#include "../../src/cuh/vec.cuh"
#include "conformance.cuh"

// in [128 x 4] -> out [128 x 4]: chunk i goes to 5 i mod 128; every third is not valid.
CONFORMANCE(conformance_cp_async_16) {
  DYN_SMEM(uint32_t, words);
  const int i = threadIdx.x, to = 5 * i % THREADS;
  cp_async_16(words + 4 * to, in + 4 * i, i % 3 != 0);
  cp_async_commit();
  cp_async_wait<0>();
  for (int k = 0; k < 4; k++) out[4 * to + k] = words[4 * to + k];
}

// in [128] -> out [128], as above.
CONFORMANCE(conformance_cp_async_4) {
  DYN_SMEM(uint32_t, words);
  const int i = threadIdx.x, to = 5 * i % THREADS;
  cp_async_4(words + to, in + i, i % 3 != 0);
  cp_async_commit();
  cp_async_wait<0>();
  out[to] = words[to];
}

// in: four 8x8 matrices of 16 bits -> out [128 x MATRICES]; warps take the matrices in turned order.
template <int MATRICES, bool TRANSPOSED>
static __device__ void load_matrices(uint32_t* out, const uint32_t* in) {
  DYN_SMEM(uint32_t, words);
  words[threadIdx.x] = in[threadIdx.x];
  __syncthreads();
  const uint32_t* row = words + (lane_id() + 8 * warp_id()) % 32 * 4;
  uint32_t to[MATRICES];
  if constexpr (MATRICES == 4) {
    TRANSPOSED ? ldmatrix_x4_trans(to, row) : ldmatrix_x4(to, row);
  } else {
    TRANSPOSED ? ldmatrix_x2_trans(to, row) : ldmatrix_x2(to, row);
  }
  for (int m = 0; m < MATRICES; m++) out[threadIdx.x * MATRICES + m] = to[m];
}
CONFORMANCE(conformance_ldmatrix_x4) { load_matrices<4, false>(out, in); }
CONFORMANCE(conformance_ldmatrix_x4_trans) { load_matrices<4, true>(out, in); }
CONFORMANCE(conformance_ldmatrix_x2) { load_matrices<2, false>(out, in); }
CONFORMANCE(conformance_ldmatrix_x2_trans) { load_matrices<2, true>(out, in); }

// in: per thread 4 words of A, 2 of B (bf16 pairs), 4 f32 of D -> out: 4 f32.
static __device__ __forceinline__ void multiply(uint32_t* out, const uint32_t* in) {
  const uint32_t* mine = in + 10 * threadIdx.x;
  const uint32_t a[4] = {mine[0], mine[1], mine[2], mine[3]}, b[2] = {mine[4], mine[5]};
  float d[4];
  for (int i = 0; i < 4; i++) d[i] = __uint_as_float(mine[6 + i]);
  mma_bf16(d, a, b);
  for (int i = 0; i < 4; i++) out[4 * threadIdx.x + i] = __float_as_uint(d[i]);
}
CONFORMANCE(conformance_mma_bf16) { multiply(out, in); }
CONFORMANCE(conformance_mma_bf16_rounding) { multiply(out, in); }

// in [128] f32 -> out [128] f32.
CONFORMANCE(conformance_fast_exp2) {
  out[threadIdx.x] = __float_as_uint(fast_exp2(__uint_as_float(in[threadIdx.x])));
}
CONFORMANCE(conformance_warp_sum) {
  out[threadIdx.x] = __float_as_uint(warp_sum(__uint_as_float(in[threadIdx.x])));
}
CONFORMANCE(conformance_block_sum) {
  SMEM(float, partials, [32]);
  out[threadIdx.x] = __float_as_uint(block_sum(__uint_as_float(in[threadIdx.x]), partials));
}

// in [128 x 4] -> out [128 x 4].
CONFORMANCE(conformance_load_streaming) {
  store_pack(out + 4 * threadIdx.x, load_streaming(in + 4 * threadIdx.x));
}

// in [128 x 2] f32 -> out [128] pairs of bf16.
CONFORMANCE(conformance_pack_bf16) {
  const uint32_t* pair = in + 2 * threadIdx.x;
  out[threadIdx.x] = pack_bf16(__uint_as_float(pair[0]), __uint_as_float(pair[1]));
}
