// linear without tensor cores: f32 and f16 weights with f32 activations, and bf16 weights whose rows are not
// 16-byte aligned. out[t, n] = Σ_k x[t, k] · weight[n, k] (+ bias[n]).
//
//   out f32 [T, N], x [T, K], weight [N, K], bias f32 [N] or null
//
// A sum is a chain of fused multiply-adds with k ascending within each part of `part` stages of 32; the parts
// are added in ascending order, whether gridDim.y thread blocks compute one each or, where gridDim.y is 1,
// one computes all. So its bits depend on its two rows alone.
#include "../cuh/async.cuh"
#include "../cuh/split_sum.cuh"

constexpr int SIMT_K = 32;  // elements of K in a stage
constexpr int SIMT_STAGES = 3;
constexpr int SIMT_TOKENS = 4;  // tokens of a thread

// Where element k of a row lies in a stage of T. Chunks of 16 bytes are exchanged so that the same chunk of
// the rows that eight lanes read lies in different banks.
template <class T>
DEVICE int simt_place(int row, int k) {
  constexpr int CHUNK = PER_16_BYTES<T>, CHUNKS = SIMT_K / CHUNK;
  return row * SIMT_K + (k / CHUNK ^ row * CHUNKS / 8 % CHUNKS) * CHUNK + k % CHUNK;
}

// Starts to copy columns k .. k + 32 of rows first .. first + ROWS of `matrix` [rows, K] into `stage`; zeros
// stand for what is outside. `aligned`: all rows are 16-byte aligned.
template <int ROWS, class T>
DEVICE void simt_copy(T* stage, const T* matrix, int first, int rows, int k, int K, bool aligned) {
  constexpr int CHUNK = PER_16_BYTES<T>, CHUNKS = SIMT_K / CHUNK;
  for (int i = threadIdx.x; i < ROWS * CHUNKS; i += blockDim.x) {
    const int row = i / CHUNKS, column = k + i % CHUNKS * CHUNK;
    T* to = stage + simt_place<T>(row, i % CHUNKS * CHUNK);
    const int inside = first + row < rows ? K - column : 0;  // elements of the row that are left
    const T* from = inside > 0 ? matrix + (size_t)(first + row) * K + column : matrix;
    if (aligned) {
      cp_async_16(to, from, inside > 0);
    } else {
      for (int e = 0; e < CHUNK; e++) to[e] = e < inside ? from[e] : from_f32<T>(0.0f);
    }
  }
}

// A tile of FEATURES x TOKENS sums; each thread has FEATURES_EACH x 4 of them, so that neighbours differ in
// their features and share their tokens.
template <class X, class W, int FEATURES, int TOKENS, int FEATURES_EACH>
DEVICE void linear_simt(float* out, const X* x, const W* weight, const float* bias, float* partials,
                        uint32_t* semaphores, int T, int N, int K, int part, int aligned) {
  constexpr int ACROSS = FEATURES / FEATURES_EACH, DOWN = TOKENS / SIMT_TOKENS;
  SMEM(W, weights, [SIMT_STAGES][FEATURES * SIMT_K]);
  SMEM(X, inputs, [SIMT_STAGES][TOKENS * SIMT_K]);
  const int tiles = (N + FEATURES - 1) / FEATURES;
  const int first_feature = blockIdx.x % tiles * FEATURES, first_token = blockIdx.x / tiles * TOKENS;
  const int own_feature = threadIdx.x % ACROSS, own_token = threadIdx.x / ACROSS;
  const int stages = (K + SIMT_K - 1) / SIMT_K;
  const int first = gridDim.y == 1 ? 0 : blockIdx.y * part,
            last = gridDim.y == 1 ? stages : min(first + part, stages);

  const auto start = [&](int stage) {
    if (stage < last) {
      const int slot = stage % SIMT_STAGES, k = stage * SIMT_K;
      simt_copy<FEATURES>(weights[slot], weight, first_feature, N, k, K, aligned);
      simt_copy<TOKENS>(inputs[slot], x, first_token, T, k, K, aligned);
    }
    cp_async_commit();  // of nothing at the end, so that groups keep step with stages
  };
#pragma unroll
  for (int i = 0; i < SIMT_STAGES - 1; i++) start(first + i);

  float sums[FEATURES_EACH][SIMT_TOKENS] = {}, total[FEATURES_EACH][SIMT_TOKENS] = {};
  for (int stage = first; stage < last; stage++) {
    cp_async_wait<SIMT_STAGES - 2>();
    __syncthreads();  // every thread's copies are there, and no one reads the stage that is filled next
    start(stage + SIMT_STAGES - 1);
    const int slot = stage % SIMT_STAGES;
#pragma unroll
    for (int k = 0; k < SIMT_K; k += 4) {
      float w[FEATURES_EACH][4], a[SIMT_TOKENS][4];
#pragma unroll
      for (int f = 0; f < FEATURES_EACH; f++)
        load_f32<4>(w[f], weights[slot] + simt_place<W>(own_feature + f * ACROSS, k));
#pragma unroll
      for (int t = 0; t < SIMT_TOKENS; t++)
        load_f32<4>(a[t], inputs[slot] + simt_place<X>(own_token + t * DOWN, k));
#pragma unroll
      for (int e = 0; e < 4; e++)
#pragma unroll
        for (int f = 0; f < FEATURES_EACH; f++)
#pragma unroll
          for (int t = 0; t < SIMT_TOKENS; t++) sums[f][t] = fmaf(w[f][e], a[t][e], sums[f][t]);
    }
    if ((stage + 1 - first) % part == 0 || stage + 1 == last) {
#pragma unroll
      for (int f = 0; f < FEATURES_EACH; f++)
#pragma unroll
        for (int t = 0; t < SIMT_TOKENS; t++) total[f][t] += sums[f][t], sums[f][t] = 0.0f;
    }
  }
  if (!add_parts<ACROSS * DOWN>(total, partials, semaphores, blockIdx.x, blockIdx.y, gridDim.y)) return;
#pragma unroll
  for (int f = 0; f < FEATURES_EACH; f++) {
    const int feature = first_feature + own_feature + f * ACROSS;
    if (feature >= N) break;
    const float added = bias != nullptr ? bias[feature] : 0.0f;
#pragma unroll
    for (int t = 0; t < SIMT_TOKENS; t++) {
      const int token = first_token + own_token + t * DOWN;
      if (token < T) out[(size_t)token * N + feature] = total[f][t] + added;
    }
  }
}

#define LINEAR_SIMT(name, X, W, TOKENS, FEATURES_EACH)                                                      \
  extern "C" __global__ void __launch_bounds__(64 / FEATURES_EACH * TOKENS / SIMT_TOKENS)                   \
      name(float* out, const X* x, const W* weight, const float* bias, float* partials, uint32_t* semaphores, \
           int T, int N, int K, int part, int aligned) {                                                    \
    linear_simt<X, W, 64, TOKENS, FEATURES_EACH>(out, x, weight, bias, partials, semaphores, T, N, K, part,   \
                                                 aligned);                                                  \
  }                                                                                                         \
  KERNEL_EXPORT(name)

LINEAR_SIMT(linear_simt_t8_f32, float, float, 8, 1)
LINEAR_SIMT(linear_simt_t32_f32, float, float, 32, 4)
LINEAR_SIMT(linear_simt_t8_f16, float, f16, 8, 1)
LINEAR_SIMT(linear_simt_t32_f16, float, f16, 32, 4)
LINEAR_SIMT(linear_simt_t8_bf16, bf16, bf16, 8, 1)
LINEAR_SIMT(linear_simt_t32_bf16, bf16, bf16, 32, 4)
