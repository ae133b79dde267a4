// Hopper's asynchronous copies: mbarriers and TMA (sm_90 and newer).
//
// An mbarrier counts arrivals and, while TMA fills a tile, bytes. When both are complete its phase ends and the next
// begins; phases have parity 0, 1, 0, ... . mbarrier_wait(b, p) returns once a phase of parity p has ended, so that
// on a fresh barrier waiting for parity 1 returns at once.
#pragma once
#include "async.cuh"

// A tile of a matrix in global memory as the host described it (CUtensorMap, cuTensorMapEncodeTiled). Kernels take it
// as `const __grid_constant__ TensorMap`.
struct alignas(64) TensorMap {
  uint64_t opaque[16];
};

#if defined(CUSIM) || (defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900)

// By one thread; then mbarrier_fence_init by the same thread and a __syncthreads before anybody uses it.
DEVICE void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
#ifdef CUSIM
  cusim::mbarrier_init(barrier, arrivals);
#else
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals) : "memory");
#endif
}
DEVICE void mbarrier_fence_init() {
#ifdef CUSIM
  cusim::mbarrier_fence_init();
#else
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
#endif
}

DEVICE void mbarrier_arrive(uint64_t* barrier) {
#ifdef CUSIM
  cusim::mbarrier_arrive(barrier, 0);
#else
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}
// Arrives, and makes the phase wait for `bytes` more that TMA copies.
DEVICE void mbarrier_arrive_expect(uint64_t* barrier, uint32_t bytes) {
#ifdef CUSIM
  cusim::mbarrier_arrive(barrier, bytes);
#else
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
#endif
}
DEVICE void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
#ifdef CUSIM
  cusim::mbarrier_wait(barrier, parity);
#else
  asm volatile(
      "{\n.reg .pred done;\n"
      "again_%=: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@!done bra again_%=;\n}" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
#endif
}

// Copies the map's box from (column, row) of its matrix to shared memory and reports its bytes to `barrier`; what
// lies outside of the matrix becomes zeros (and counts). By one thread. `to` is aligned to 128 bytes, or to the 8
// rows after which a swizzle repeats (1024 bytes for rows of 128).
DEVICE void tma_load_2d(void* to, const TensorMap* map, int column, int row, uint64_t* barrier) {
#ifdef CUSIM
  cusim::tma_load_2d(to, map, column, row, barrier);
#else
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.tile.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::
          "r"(shared_address(to)),
      "l"(map), "r"(shared_address(barrier)), "r"(column), "r"(row)
      : "memory");
#endif
}

// Between plain writes to shared memory and their reading by wgmma or TMA: by the writing threads, before the
// barrier that hands the data over.
DEVICE void fence_async_proxy() {
#ifdef CUSIM
  cusim::fence_async_proxy();
#else
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

#endif
