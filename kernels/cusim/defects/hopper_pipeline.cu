// Bugs in a pipeline of TMA and wgmma: out [64, 64] = a [64, k] * b [64, k]^T. A warp fills two stages of shared
// memory, a warpgroup empties them. One body; the template's argument says what is wrong.
#include "../../src/cuh/wgmma.cuh"

enum Bug {
  NONE,
  FULL_NOT_WAITED,         // the warpgroup starts before the tiles are there
  EMPTY_NOT_WAITED,        // the producer fills a stage that may still be read
  RELEASED_BEFORE_WAIT,    // the stage is given back while wgmma still reads it
  PRODUCT_NOT_WAITED,      // the sums are changed before wgmma is done
  NO_WGMMA_FENCE,
  NO_INIT_FENCE,           // TMA may not see the mbarrier's initialization
  NO_BARRIER_AFTER_INIT,
  TOO_MANY_BYTES,          // more expected than TMA brings
  TOO_MANY_ARRIVALS,
  TILE_MISALIGNED,         // not on the 1024 bytes of the swizzle
};

template <Bug BUG>
static __device__ __forceinline__ void pipeline(float* out, const TensorMap& a, const TensorMap& b, int k) {
  constexpr int STAGES = 2, TILE = 64 * 64;
  DYN_SMEM(bf16, tiles);
  SMEM(uint64_t, full, [STAGES]);
  SMEM(uint64_t, empty, [STAGES]);
  const int steps = (k + 63) / 64;
  if (threadIdx.x == 0) {
    for (int s = 0; s < STAGES; s++) {
      mbarrier_init(&full[s], 1);
      mbarrier_init(&empty[s], 128);
    }
    if (BUG != NO_INIT_FENCE) mbarrier_fence_init();
  }
  if (BUG != NO_BARRIER_AFTER_INIT) __syncthreads();

  if (warp_id() == 4) {
    if (lane_id() != 0) return;
    for (int step = 0; step < steps; step++) {
      const int s = step % STAGES;
      bf16* tile = tiles + 2 * s * TILE + (BUG == TILE_MISALIGNED ? 64 : 0);
      if (BUG != EMPTY_NOT_WAITED) mbarrier_wait(&empty[s], step / STAGES % 2 ^ 1);
      mbarrier_arrive_expect(&full[s], 4 * TILE + (BUG == TOO_MANY_BYTES ? 16 : 0));
      if (BUG == TOO_MANY_ARRIVALS) mbarrier_arrive(&full[s]);
      tma_load_2d(tile, &a, 64 * step, 0, &full[s]);
      tma_load_2d(tile + TILE, &b, 64 * step, 0, &full[s]);
    }
    return;
  }
  float d[32] = {};
  for (int step = 0; step < steps; step++) {
    const int s = step % STAGES;
    if (BUG != FULL_NOT_WAITED) mbarrier_wait(&full[s], step / STAGES % 2);
    if (BUG != NO_WGMMA_FENCE) wgmma_fence();
    for (int part = 0; part < 4; part++) {
      const bf16* tile = tiles + 2 * s * TILE + 16 * part;
      wgmma_bf16(d, wgmma_swizzled(tile), wgmma_swizzled(tile + TILE));
    }
    wgmma_commit();
    if (BUG == RELEASED_BEFORE_WAIT) mbarrier_arrive(&empty[s]);
    if (BUG == PRODUCT_NOT_WAITED) d[0] += 1.0f;
    wgmma_wait<0>();
    if (BUG != RELEASED_BEFORE_WAIT) mbarrier_arrive(&empty[s]);
  }
  for (int i = 0; i < 32; i++) {
    const int row = 16 * warp_id() + lane_id() / 4 + i / 2 % 2 * 8, column = i / 4 * 8 + lane_id() % 4 * 2 + i % 2;
    out[row * 64 + column] = d[i];
  }
}

#define PIPELINE(name, bug)                                                                            \
  extern "C" __global__ void name(float* out, const __grid_constant__ TensorMap a,                     \
                                  const __grid_constant__ TensorMap b, int k) {                        \
    pipeline<bug>(out, a, b, k);                                                                       \
  }                                                                                                    \
  KERNEL_EXPORT(name)
PIPELINE(pipeline_fixed, NONE)
PIPELINE(pipeline_full_not_waited, FULL_NOT_WAITED)
PIPELINE(pipeline_empty_not_waited, EMPTY_NOT_WAITED)
PIPELINE(pipeline_released_before_wait, RELEASED_BEFORE_WAIT)
PIPELINE(pipeline_product_not_waited, PRODUCT_NOT_WAITED)
PIPELINE(pipeline_no_wgmma_fence, NO_WGMMA_FENCE)
PIPELINE(pipeline_no_init_fence, NO_INIT_FENCE)
PIPELINE(pipeline_no_barrier_after_init, NO_BARRIER_AFTER_INIT)
PIPELINE(pipeline_too_many_bytes, TOO_MANY_BYTES)
PIPELINE(pipeline_too_many_arrivals, TOO_MANY_ARRIVALS)
PIPELINE(pipeline_tile_misaligned, TILE_MISALIGNED)

// Plain writes that wgmma reads: out [64, 8] = a [64, 16] * b [8, 16]^T, a from registers, b plain in shared memory.
template <bool BUG>
static __device__ __forceinline__ void plain_operand(float* out, const bf16* a, const bf16* b) {
  DYN_SMEM(bf16, tile);
  // Block (k / 8) of 8 rows x 8 elements.
  if (threadIdx.x < 128) tile[threadIdx.x / 8 % 2 * 64 + threadIdx.x / 16 * 8 + threadIdx.x % 8] = b[threadIdx.x];
  if (!BUG) fence_async_proxy();
  __syncthreads();
  const int row = 16 * warp_id() + lane_id() / 4, pair = lane_id() % 4 * 2;
  uint32_t fragment[4];
  for (int i = 0; i < 4; i++) {
    fragment[i] = *reinterpret_cast<const uint32_t*>(a + (row + i % 2 * 8) * 16 + pair + i / 2 * 8);
  }
  float d[4] = {};
  wgmma_fence();
  wgmma_bf16(d, fragment, wgmma_plain(tile, 128, 256), false);
  wgmma_commit();
  wgmma_wait<0>();
  for (int i = 0; i < 4; i++) out[(row + i / 2 * 8) * 8 + pair + i % 2] = d[i];
}
extern "C" __global__ void plain_operand_fixed(float* out, const bf16* a, const bf16* b) {
  plain_operand<false>(out, a, b);
}
KERNEL_EXPORT(plain_operand_fixed)
extern "C" __global__ void plain_operand_bug(float* out, const bf16* a, const bf16* b) {
  plain_operand<true>(out, a, b);
}
KERNEL_EXPORT(plain_operand_bug)
