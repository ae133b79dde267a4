// Tensor cores of Hopper (sm_90a only): wgmma, asynchronous products by a warpgroup, which is four warps from
// a multiple of four. All of its 128 threads take part in every function here.
//
//   wgmma_fence();                        // registers written before are seen
//   wgmma_bf16(d, a, b); ...              // any number
//   wgmma_commit();
//   wgmma_wait<0>();                      // before d is read, and before a tile in shared memory is written
//
// d [64, N] += a [64, 16] * b [N, 16]^T in bf16 with f32 sums; N = 2 * the length of d, a multiple of 8 up to
// 256. Thread t holds in d[4 * j + 2 * h + e] the element of row 16 * (t / 32) + t % 32 / 4 + 8 * h and
// column 8 * j + t % 4 * 2 + e. From registers, a has the layout of mma_bf16 for the warp's 16 rows.
// wgmma_bf16_by_rows takes b [16, N] instead, with N contiguous.
#pragma once
#include "hopper.cuh"

// A tile in shared memory with K contiguous, rows of WIDTH bytes (128, 64 or 32) swizzled as TMA does it, 8
// rows after 8 rows; `tile` may be advanced by 32 bytes for each 16 elements of K within a row.
template <int WIDTH = 128>
DEVICE uint64_t wgmma_swizzled(const void* tile) {
  static_assert(WIDTH == 128 || WIDTH == 64 || WIDTH == 32, "wgmma knows three swizzles");
  const uint64_t mode = WIDTH == 128 ? 1 : WIDTH == 64 ? 2 : 3;
  const uint64_t row_step = 8 * WIDTH >> 4;
  return (shared_address(tile) & 0x3ffff) >> 4 | uint64_t{1} << 16 | row_step << 32 | mode << 62;
}
// For wgmma_bf16_by_rows: 16 rows, from a multiple of 8 on, of a tile made of panels of 64 columns: rows of 128 bytes,
// swizzled. `tile` is the first row's start in the first panel; `panel_step` bytes lie from a panel to the next.
DEVICE uint64_t wgmma_panels(const void* tile, uint32_t panel_step) {
  return (shared_address(tile) & 0x3ffff) >> 4 | uint64_t{panel_step >> 4} << 16 | uint64_t{1024 >> 4} << 32 |
         uint64_t{1} << 62;
}
// A tile without swizzle, made of blocks of 8 rows x 16 bytes (128 bytes in a row): `k_step` bytes from a
// block to the next along K, `row_step` to the next 8 rows.
DEVICE uint64_t wgmma_plain(const void* tile, uint32_t k_step, uint32_t row_step) {
  return (shared_address(tile) & 0x3ffff) >> 4 | uint64_t{k_step >> 4} << 16 | uint64_t{row_step >> 4} << 32;
}

#ifdef CUSIM

template <int R>
DEVICE void wgmma_bf16(float (&d)[R], uint64_t a, uint64_t b, bool accumulate = true) {
  static_assert(R % 4 == 0 && R <= 128, "N is a multiple of 8 up to 256");
  cusim::wgmma_bf16(d, R, a, nullptr, b, false, accumulate);
}
template <int R>
DEVICE void wgmma_bf16(float (&d)[R], const uint32_t (&a)[4], uint64_t b, bool accumulate = true) {
  static_assert(R % 4 == 0 && R <= 128, "N is a multiple of 8 up to 256");
  cusim::wgmma_bf16(d, R, 0, a, b, false, accumulate);
}
template <int R>
DEVICE void wgmma_bf16_by_rows(float (&d)[R], const uint32_t (&a)[4], uint64_t b) {
  static_assert(R % 4 == 0 && R <= 128, "N is a multiple of 8 up to 256");
  cusim::wgmma_bf16(d, R, 0, a, b, true, true);
}
DEVICE void wgmma_fence() { cusim::wgmma_fence(); }
DEVICE void wgmma_commit() { cusim::wgmma_commit(); }
template <int PENDING>
DEVICE void wgmma_wait() { cusim::wgmma_wait(PENDING); }

#elif defined(__CUDA_ARCH_FEAT_SM90_ALL)

#include "wgmma_shapes.cuh"

DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Until at most PENDING of the newest groups are under way.
template <int PENDING>
DEVICE void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(PENDING) : "memory"); }

#endif

// From here on each thread of the calling warpgroup has REGISTERS registers: fewer than before (`give`), or
// more (`take`), for which it waits until others have given as many. Between them a thread block's threads
// may not have more than it started with, which is what __launch_bounds__(threads, 1) leaves to each.
template <int REGISTERS>
DEVICE void setmaxnreg_dec() {
  static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256, "a count that setmaxnreg knows");
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#endif
}
template <int REGISTERS>
DEVICE void setmaxnreg_inc() {
  static_assert(REGISTERS % 8 == 0 && REGISTERS >= 24 && REGISTERS <= 256, "a count that setmaxnreg knows");
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(REGISTERS));
#endif
}
