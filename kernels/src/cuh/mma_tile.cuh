// One thread block's share of a matrix product on the tensor cores, for every GPU since sm_80:
// sums[feature, token] = Σ_k weight[feature, k] · input[token, k], bf16 with f32 sums.
//
// The weight is always the A operand of mma.m16n8k16, the tokens are the B operand, and k ascends, so the
// bits of a sum depend on its two rows alone: not on the shape of the tile, nor on the rows beside them.
#pragma once
#include "mma.cuh"

// Elements of K in one pipeline stage: a row of a stage is 128 bytes, eight chunks of 16.
constexpr int STAGE_K = 64;
constexpr int CHUNK = 8;

// Where chunk `chunk` of row `row` lies in a stage. The exclusive or spreads the same chunk of eight rows
// over all banks.
DEVICE int swizzled(int row, int chunk) { return row * STAGE_K + (chunk ^ row % 8) * CHUNK; }

// FEATURES x TOKENS sums, shared out to WARPS_M x WARPS_N warps and fed through STAGES stages of shared
// memory.
template <int FEATURES_, int TOKENS_, int WARPS_M_, int WARPS_N, int STAGES_>
struct MmaTile {
  static constexpr int FEATURES = FEATURES_, TOKENS = TOKENS_, WARPS_M = WARPS_M_, STAGES = STAGES_;
  static constexpr int THREADS = WARP_SIZE * WARPS_M * WARPS_N;
  static constexpr int M = FEATURES / WARPS_M / 16;  // fragments of 16 features in a warp
  static constexpr int N = TOKENS / WARPS_N / 8;     // fragments of 8 tokens in a warp
  static constexpr int STAGE_ELEMENTS = (FEATURES + TOKENS) * STAGE_K;
  static constexpr int SHARED_BYTES = STAGES * STAGE_ELEMENTS * sizeof(bf16);
  static_assert(N == 1 || N % 2 == 0, "tokens are loaded in pairs of fragments");

  // One thread's sums. [i * N + j][e]: feature 16 i + lane / 4 (+ 8 where e >= 2) and token 8 j + lane % 4 *
  // 2 (+ 1 where e is odd) of its warp.
  using Sums = float[M * N][4];
};

// The first feature and the first token of the calling warp, counted from the tile's.
template <class Tile>
DEVICE int warp_feature() {
  return warp_id() % Tile::WARPS_M * (16 * Tile::M);
}
template <class Tile>
DEVICE int warp_token() {
  return warp_id() / Tile::WARPS_M * (8 * Tile::N);
}

template <int COUNT>
DEVICE void clear(float (&sums)[COUNT][4]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) sums[i][e] = 0.0f;
}

template <int COUNT>
DEVICE void add(float (&to)[COUNT][4], const float (&sums)[COUNT][4]) {
#pragma unroll
  for (int i = 0; i < COUNT; i++)
#pragma unroll
    for (int e = 0; e < 4; e++) to[i][e] += sums[i][e];
}

// One operand's copies from global memory: ROWS rows of `matrix` [., K], picked by the caller. Eight threads
// copy a row's eight chunks; a thread copies every THREADS / 8th row.
template <int ROWS, int THREADS>
struct RowCopies {
  static constexpr int STRIDE = THREADS / 8;
  static constexpr int COUNT = (ROWS + STRIDE - 1) / STRIDE;
  const bf16* matrix;
  int K;
  int rows[COUNT];  // -1: zeros in place of a row

  // `pick(row)`: the row of the matrix that stands at `row`, or -1. K is a multiple of 8, `matrix` 16-byte
  // aligned.
  template <class Pick>
  __device__ __forceinline__ RowCopies(const bf16* matrix, int K, Pick pick) : matrix(matrix), K(K) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int row = threadIdx.x / 8 + i * STRIDE;
      rows[i] = row < ROWS ? pick(row) : -1;
    }
  }

  // Starts to copy columns k .. k + 64 into `stage`; columns beyond K become zeros.
  __device__ __forceinline__ void start(bf16* stage, int k) const {
    const int chunk = threadIdx.x % 8, column = k + chunk * CHUNK;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int row = threadIdx.x / 8 + i * STRIDE;
      if (ROWS % STRIDE != 0 && row >= ROWS) break;
      const bool inside = rows[i] >= 0 && column < K;
      cp_async_16(stage + swizzled(row, chunk), inside ? matrix + (size_t)rows[i] * K + column : matrix,
                  inside);
    }
  }

  // For weights whose copies take a second step.
  __device__ __forceinline__ void finish() const {}
};

// Weights [., K] of bf16: rows are copied as they are.
struct Bf16Weight {
  const bf16* values;
  int K;

  template <int ROWS, int THREADS>
  struct Copies : RowCopies<ROWS, THREADS> {
    template <class Pick>
    __device__ __forceinline__ Copies(const Bf16Weight& weight, Pick pick)
        : RowCopies<ROWS, THREADS>(weight.values, weight.K, pick) {}
  };
  // The same from row `row` on.
  __device__ __forceinline__ Bf16Weight from_row(size_t row) const { return {values + row * K, K}; }
};

// sums += the products over one stage: `weight` [FEATURES, 64] and `input` [TOKENS, 64] in shared memory.
template <class Tile>
DEVICE void multiply_stage(typename Tile::Sums& sums, const bf16* weight, const bf16* input) {
  const int lane = lane_id();
#pragma unroll
  for (int chunk = 0; chunk < STAGE_K / CHUNK; chunk += 2) {
    uint32_t a[Tile::M][4], b[Tile::N][2];
#pragma unroll
    for (int i = 0; i < Tile::M; i++)
      ldmatrix_x4(a[i], weight + swizzled(warp_feature<Tile>() + 16 * i + lane % 16, chunk + lane / 16));
    if constexpr (Tile::N == 1) {
      ldmatrix_x2(b[0], input + swizzled(warp_token<Tile>() + lane % 8, chunk + lane / 8 % 2));
    } else {
#pragma unroll
      for (int j = 0; j < Tile::N; j += 2) {
        uint32_t two[4];
        const int row = warp_token<Tile>() + 8 * j + lane / 16 * 8 + lane % 8;
        ldmatrix_x4(two, input + swizzled(row, chunk + lane / 8 % 2));
        b[j][0] = two[0], b[j][1] = two[1], b[j + 1][0] = two[2], b[j + 1][1] = two[3];
      }
    }
#pragma unroll
    for (int i = 0; i < Tile::M; i++)
#pragma unroll
      for (int j = 0; j < Tile::N; j++) mma_bf16(sums[i * Tile::N + j], a[i], b[j]);
  }
}

// The sums over stages first .. last of K, with STAGES - 1 stages on their way. After every `part` stages,
// except at the end, `finish_part(sums)` takes the sums away; after the call `sums` are those since then.
// `weight` and `input` copy as RowCopies does; a weight's copy into a stage may be finished as late as at the
// start of the next one, which with three stages or more is a stage before it is read.
template <class Tile, class Weight, class Input, class FinishPart>
DEVICE void multiply(typename Tile::Sums& sums, bf16* shared, Weight& weight, const Input& input, int first,
                     int last, int part, FinishPart finish_part) {
  static_assert(Tile::STAGES >= 3, "copies of weights are finished a stage later");
  const auto stage_at = [&](int stage) { return shared + stage % Tile::STAGES * Tile::STAGE_ELEMENTS; };
  const auto start = [&](int stage) {
    if (stage < last) {
      weight.start(stage_at(stage), stage * STAGE_K);
      input.start(stage_at(stage) + Tile::FEATURES * STAGE_K, stage * STAGE_K);
    } else {
      weight.finish();
    }
    cp_async_commit();  // of nothing at the end, so that groups keep step with stages
  };
#pragma unroll
  for (int i = 0; i < Tile::STAGES - 1; i++) start(first + i);
  clear(sums);
  int boundary = first + part;
  for (int stage = first; stage < last; stage++) {
    cp_async_wait<Tile::STAGES - 2>();
    __syncthreads();  // every thread's copies are there, and no one reads the stage that is filled next
    start(stage + Tile::STAGES - 1);
    if (stage == boundary) {
      finish_part(sums);
      clear(sums);
      boundary += part;
    }
    multiply_stage<Tile>(sums, stage_at(stage), stage_at(stage) + Tile::FEATURES * STAGE_K);
  }
}
