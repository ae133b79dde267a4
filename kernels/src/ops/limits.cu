// What a GPU does at most, for limits/cuda.rs, which takes the time: reading memory, and bf16 products by mma.sync.
#include "../cuh/mma.cuh"
#include "../cuh/vec.cuh"

// sums u32 [threads]: each thread's exclusive or of the words that it reads; together they read data u32 [count], a
// multiple of four.
extern "C" __global__ void __launch_bounds__(512)
    limits_read_u32(uint32_t* sums, const uint32_t* data, uint64_t count) {
  const uint64_t thread = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x, threads = (uint64_t)gridDim.x * blockDim.x;
  uint32_t sum = 0;
#pragma unroll 4
  for (uint64_t i = 4 * thread; i < count; i += 4 * threads) {
    const Pack<uint32_t, 4> four = load_streaming(data + i);
    sum ^= four.v[0] ^ four.v[1] ^ four.v[2] ^ four.v[3];
  }
  sums[thread] = sum;
}
KERNEL_EXPORT(limits_read_u32)

// sums f32 [threads]: each thread's sum of its elements of 8 independent products per round.
extern "C" __global__ void __launch_bounds__(256) limits_mma_bf16(float* sums, uint32_t rounds) {
  // Two numbers from 0.5 to 2 of either sign: equal ones would cost less power than a model's.
  const auto words = [](uint32_t i) { return 0x3f003f00u | ((i * 32 + threadIdx.x % 32) * 2654435761u & 0x80ff80ffu); };
  const uint32_t a[4] = {words(0), words(1), words(2), words(3)};
  float d[8][4] = {};
  for (uint32_t round = 0; round < rounds; round++) {
#pragma unroll
    for (int i = 0; i < 8; i++) {
      const uint32_t b[2] = {words(4 + i), words(12 + i)};
      mma_bf16(d[i], a, b);
    }
  }
  float sum = 0.0f;
#pragma unroll
  for (int i = 0; i < 8; i++) sum += d[i][0] + d[i][1] + d[i][2] + d[i][3];
  sums[blockIdx.x * blockDim.x + threadIdx.x] = sum;
}
KERNEL_EXPORT(limits_mma_bf16)
