// Packed weights, decoded to bf16 on their way into the stages of mma_tile.cuh: formats as in src/matrix.rs.
#pragma once
#include "mma_tile.cuh"
#include "vec.cuh"

// 2^exponent as a float.
DEVICE float power_of_two(uint32_t exponent_and_bias) { return __uint_as_float(exponent_and_bias << 23); }

// A sign, two bits of exponent, one of mantissa. They stand where a float's do, 126 exponents too low.
DEVICE float e2m1(uint32_t code) {
  return __uint_as_float((code & 8) << 28 | (code & 7) << 22) * power_of_two(126 + 127);
}

// 2^(code - 127); 255 is NaN.
DEVICE float e8m0(uint32_t code) {
  return __uint_as_float(code == 0 ? 1u << 22 : code == 255 ? 0x7fc00000u : code << 23);
}

// A sign, four bits of exponent, three of mantissa. They stand where a float's do, 120 exponents too low.
DEVICE float e4m3(uint32_t code) {
  const float value = __uint_as_float((code & 0x80) << 24 | (code & 0x7f) << 20) * power_of_two(120 + 127);
  return (code & 0x7f) == 0x7f ? __uint_as_float(0x7fc00000u) : value;
}

template <class Weight, int ROWS, int THREADS>
struct PackedCopies;

// A piece of a row: what 16 bytes of values hold, which share a scale.
struct Piece {
  Pack<uint32_t, 4> values;
  float scale;
};

// MXFP4: values [., K / 2], two in a byte, the lower half first; scales [., K / 32]. K is a multiple of 32.
struct Mxfp4Weight {
  const uint8_t* values;
  const uint8_t* scales;
  int K;
  static constexpr int PIECE = 32;

  template <int ROWS, int THREADS>
  using Copies = PackedCopies<Mxfp4Weight, ROWS, THREADS>;

  __device__ __forceinline__ Mxfp4Weight(const uint8_t* values, const uint8_t* scales, int, int K)
      : values(values), scales(scales), K(K) {}
  __device__ __forceinline__ Mxfp4Weight from_row(size_t row) const {
    return {values + row * (K / 2), scales + row * (K / PIECE), 0, K};
  }
  __device__ __forceinline__ Piece load(size_t row, int column) const {
    const uint8_t* from = values + row * (K / 2) + column / 2;
    return {load_streaming(reinterpret_cast<const uint32_t*>(from)), e8m0(scales[row * (K / PIECE) + column / PIECE])};
  }
  // Elements 8 chunk .. 8 chunk + 8 of a piece.
  static __device__ __forceinline__ Pack<bf16, CHUNK> decode(const Piece& piece, int chunk) {
    Pack<bf16, CHUNK> out;
#pragma unroll
    for (int e = 0; e < CHUNK; e++) out.v[e] = from_f32<bf16>(e2m1(piece.values.v[chunk] >> 4 * e) * piece.scale);
    return out;
  }
};

// FP8: values [., K]; f32 scales [. / 16, K / columns, rounded up], columns a power of two. K is a multiple of 16.
struct Fp8Weight {
  const uint8_t* values;
  const float* scales;
  int columns_log2, K;
  static constexpr int PIECE = 16, SCALE_ROWS = 16;

  template <int ROWS, int THREADS>
  using Copies = PackedCopies<Fp8Weight, ROWS, THREADS>;

  __device__ __forceinline__ Fp8Weight(const uint8_t* values, const float* scales, int columns_log2, int K)
      : values(values), scales(scales), columns_log2(columns_log2), K(K) {}
  // Scales of a row.
  __device__ __forceinline__ int per_row() const { return ((K - 1) >> columns_log2) + 1; }
  __device__ __forceinline__ Fp8Weight from_row(size_t row) const {
    return {values + row * K, scales + row / SCALE_ROWS * per_row(), columns_log2, K};
  }
  __device__ __forceinline__ Piece load(size_t row, int column) const {
    const float scale = scales[row / SCALE_ROWS * per_row() + (column >> columns_log2)];
    return {load_streaming(reinterpret_cast<const uint32_t*>(values + row * K + column)), scale};
  }
  static __device__ __forceinline__ Pack<bf16, CHUNK> decode(const Piece& piece, int chunk) {
    Pack<bf16, CHUNK> out;
#pragma unroll
    for (int e = 0; e < CHUNK; e++) {
      const uint32_t code = piece.values.v[2 * chunk + e / 4] >> 8 * (e % 4) & 0xff;
      out.v[e] = from_f32<bf16>(e4m3(code) * piece.scale);
    }
    return out;
  }
};

// ROWS rows of a packed weight, picked as by RowCopies. A copy starts by loading pieces into registers, and is
// finished, decoded into the stage, when the next one starts: meanwhile memory has answered.
template <class Weight, int ROWS, int THREADS>
struct PackedCopies {
  static constexpr int PER_ROW = STAGE_K / Weight::PIECE, CHUNKS = Weight::PIECE / CHUNK;
  static constexpr int COUNT = (ROWS * PER_ROW + THREADS - 1) / THREADS;
  const Weight weight;
  int rows[COUNT];  // -1: zeros in place of a row
  Piece pieces[COUNT];
  bf16* stage;  // where they go; null: there are none

  template <class Pick>
  __device__ __forceinline__ PackedCopies(const Weight& weight, Pick pick) : weight(weight), stage(nullptr) {
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int row = (threadIdx.x + i * THREADS) / PER_ROW;
      rows[i] = row < ROWS ? pick(row) : -1;
    }
  }

  // Starts to copy columns k .. k + 64 into `to`; columns beyond K become zeros.
  __device__ __forceinline__ void start(bf16* to, int k) {
    finish();
    stage = to;
    const int column = k + threadIdx.x % PER_ROW * Weight::PIECE;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const bool inside = rows[i] >= 0 && column < weight.K;
      pieces[i] = inside ? weight.load(rows[i], column) : Piece{};
    }
  }

  __device__ __forceinline__ void finish() {
    if (stage == nullptr) return;
#pragma unroll
    for (int i = 0; i < COUNT; i++) {
      const int row = (threadIdx.x + i * THREADS) / PER_ROW, first = threadIdx.x % PER_ROW * CHUNKS;
      if (ROWS * PER_ROW % THREADS != 0 && row >= ROWS) break;
#pragma unroll
      for (int chunk = 0; chunk < CHUNKS; chunk++)
        store_pack(stage + swizzled(row, first + chunk), Weight::decode(pieces[i], chunk));
    }
    stage = nullptr;
  }
};
