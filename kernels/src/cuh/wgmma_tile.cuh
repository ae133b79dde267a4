// The main loop of mma_tile.cuh with Hopper's wgmma and TMA (sm_90a only): one thread has TMA fill a ring of
// stages in shared memory, the warpgroups before it multiply them. The weight is the A operand here too, the
// tokens are the B operand, and k ascends.
#pragma once
#include "mma_tile.cuh"
#include "wgmma.cuh"

// FEATURES x TOKENS sums by FEATURES / 64 warpgroups, each with 64 features and all tokens, fed through
// STAGES stages. A warp's sums lie as those of mma do.
template <int FEATURES_, int TOKENS_, int STAGES_>
struct WgmmaTile {
  static constexpr int FEATURES = FEATURES_, TOKENS = TOKENS_, STAGES = STAGES_;
  static constexpr int WARPS_M = FEATURES / 16;  // warps that multiply
  static constexpr int CONSUMERS = WARPS_M * WARP_SIZE;
  // The rest fill the ring: a warp, or a warpgroup, which gives its registers away to those with many sums.
  static constexpr bool SHARES_REGISTERS = FEATURES > 64;
  static constexpr int THREADS = CONSUMERS + (SHARES_REGISTERS ? 128 : WARP_SIZE);
  static constexpr int PRODUCER_REGISTERS = 40, CONSUMER_REGISTERS = 232;
  static constexpr int M = 1, N = TOKENS / 8;
  static constexpr int STAGE_ELEMENTS = (FEATURES + TOKENS) * STAGE_K;
  static_assert(FEATURES % 64 == 0 && TOKENS % 8 == 0, "a wgmma has 64 features and a multiple of 8 tokens");
  static_assert(FEATURES <= 128, "at most two warpgroups multiply");
  static_assert(2 * CONSUMER_REGISTERS + PRODUCER_REGISTERS <= 3 * (65536 / 384 / 8 * 8),
                "they may take no more registers than the third gives");

  using Sums = float[N][4];
};

// The stages, and where in the ring the calling thread is. Both sides go through the same stages in the same
// order.
template <class Tile>
struct Ring {
  bf16* stages;     // rows of 128 bytes, swizzled: those of the weight, then those of the tokens
  uint64_t* full;   // [STAGES]: TMA has filled the stage
  uint64_t* empty;  // [STAGES]: every warp that multiplies is done with it
  int slot = 0;
  uint32_t parity = 0;  // of the current round

  // By all threads of the block.
  __device__ __forceinline__ Ring(bf16* stages, uint64_t* barriers)
      : stages(stages), full(barriers), empty(barriers + Tile::STAGES) {
    if (threadIdx.x == 0) {
      for (int i = 0; i < Tile::STAGES; i++) {
        mbarrier_init(&full[i], 1);
        mbarrier_init(&empty[i], Tile::WARPS_M);
      }
      mbarrier_fence_init();
    }
    __syncthreads();
  }

  __device__ __forceinline__ bf16* weight() const { return stages + slot * Tile::STAGE_ELEMENTS; }
  __device__ __forceinline__ bf16* input() const { return weight() + Tile::FEATURES * STAGE_K; }

  __device__ __forceinline__ void advance() {
    if (++slot < Tile::STAGES) return;
    slot = 0;
    parity ^= 1;
  }

  // By one other thread: has TMA fill stages first .. last of K: `load(weight, input, k, barrier)` starts the
  // copies of columns k .. k + 64 of the tile's rows.
  template <class Load>
  __device__ __forceinline__ void fill(int first, int last, Load load) {
    for (int stage = first; stage < last; stage++) {
      mbarrier_wait(&empty[slot], parity ^ 1);
      mbarrier_arrive_expect(&full[slot], Tile::STAGE_ELEMENTS * sizeof(bf16));
      load(weight(), input(), stage * STAGE_K, &full[slot]);
      advance();
    }
  }

  // By all threads that multiply: sums = the products over the next `count` stages, at least one. A stage is
  // given back when the products of the next have been started, so that the tensor cores always have some.
  __device__ __forceinline__ void multiply(typename Tile::Sums& sums, int count) {
#if defined(CUSIM) || defined(__CUDA_ARCH__)
    const int rows = warp_id() / 4 * 64 * STAGE_K;
    clear(sums);
    auto& flat = reinterpret_cast<float(&)[Tile::N * 4]>(sums);
    int before = slot;
    for (int i = 0; i < count; i++) {
      mbarrier_wait(&full[slot], parity);
      wgmma_fence();
#pragma unroll
      for (int k = 0; k < STAGE_K; k += 16)
        wgmma_bf16(flat, wgmma_swizzled(weight() + rows + k), wgmma_swizzled(input() + k));
      wgmma_commit();
      wgmma_wait<1>();
      if (i > 0) release(before);
      before = slot;
      advance();
    }
    wgmma_wait<0>();
    release(before);
#endif
  }

  __device__ __forceinline__ void release(int slot) {
    if (lane_id() == 0) mbarrier_arrive(&empty[slot]);
  }
};
