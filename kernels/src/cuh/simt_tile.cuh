// A tile of a matrix product without tensor cores, for every type and size: 32 features and 16 tokens; a
// thread has one feature and four tokens. A sum is a chain of fused multiply-adds, k ascending: its bits
// depend on its two rows alone.
#pragma once
#include "common.cuh"

constexpr int SIMT_FEATURES = 32, SIMT_TOKENS = 16, SIMT_EACH = 4, SIMT_K = 32;
constexpr int SIMT_THREADS = SIMT_FEATURES * SIMT_TOKENS / SIMT_EACH;

// The feature and the first token of the calling thread, within the tile.
DEVICE int simt_feature() { return threadIdx.x % SIMT_FEATURES; }
DEVICE int simt_token() { return threadIdx.x / SIMT_FEATURES * SIMT_EACH; }

// An element as f32, rounded to X on the way if it is wider.
template <class X>
DEVICE float rounded(float x) { return to_f32(from_f32<X>(x)); }
template <class X>
DEVICE float rounded(f16 x) { return to_f32(x); }
template <class X>
DEVICE float rounded(bf16 x) { return to_f32(x); }

// Columns k .. k + 32 of ROWS rows. `row_at(row)` points to a row, or is null: zeros.
template <class X, int ROWS, class RowAt>
DEVICE void simt_copy_rows(float (&to)[ROWS][SIMT_K + 1], int k, int K, RowAt row_at) {
  for (int i = threadIdx.x; i < ROWS * SIMT_K; i += SIMT_THREADS) {
    const auto* row = row_at(i / SIMT_K);
    const int column = k + i % SIMT_K;
    to[i / SIMT_K][i % SIMT_K] = row != nullptr && column < K ? rounded<X>(row[column]) : 0.0f;
  }
}

// sums[m][t] += the products of a row of each of MATRICES weights W with four tokens, which are rounded to X.
// `weight_at(m, row)` and `input_at(row)` point to the tile's rows, or are null.
template <int MATRICES, class X, class W, class WeightAt, class InputAt>
DEVICE void multiply_simt(float (&sums)[MATRICES][SIMT_EACH], int K, WeightAt weight_at, InputAt input_at) {
  SMEM(float, weights, [MATRICES][SIMT_FEATURES][SIMT_K + 1]);
  SMEM(float, inputs, [SIMT_TOKENS][SIMT_K + 1]);
  const int feature = simt_feature(), token = simt_token();
  for (int k = 0; k < K; k += SIMT_K) {
#pragma unroll
    for (int m = 0; m < MATRICES; m++) {
      simt_copy_rows<W>(weights[m], k, K, [&](int row) { return weight_at(m, row); });
    }
    simt_copy_rows<X>(inputs, k, K, input_at);
    __syncthreads();
#pragma unroll
    for (int i = 0; i < SIMT_K; i++)
#pragma unroll
      for (int m = 0; m < MATRICES; m++)
#pragma unroll
        for (int t = 0; t < SIMT_EACH; t++) {
          sums[m][t] = fmaf(weights[m][feature][i], inputs[token + t][i], sums[m][t]);
        }
    __syncthreads();
  }
}
