// cp.async: copies from global to shared memory that run while the thread goes on (sm_80 and newer).
// Copies belong to the group closed by the next commit; a wait covers the calling thread's own copies only, so a
// __syncthreads must follow before other threads read them.
#pragma once
#include "common.cuh"

// The shared-memory address of PTX.
DEVICE uint32_t shared_address(const void* shared) {
#ifdef CUSIM
  return cusim::shared_address(shared);
#else
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
#endif
}

// 16 bytes, both sides aligned to 16, past the L1 cache. Where not `valid`, zeros are written and `from` is not read
// (but must be an aligned address all the same: pass the start of the buffer).
DEVICE void cp_async_16(void* to, const void* from, bool valid = true) {
#ifdef CUSIM
  cusim::cp_async(to, from, 16, valid);
#else
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
#endif
}

// 4 bytes, both sides aligned to 4, through the L1 cache.
DEVICE void cp_async_4(void* to, const void* from, bool valid = true) {
#ifdef CUSIM
  cusim::cp_async(to, from, 4, valid);
#else
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(to)), "l"(from),
               "r"(valid ? 4 : 0)
               : "memory");
#endif
}

DEVICE void cp_async_commit() {
#ifdef CUSIM
  cusim::cp_async_commit();
#else
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most PENDING of the thread's newest groups are still on their way.
template <int PENDING>
DEVICE void cp_async_wait() {
#ifdef CUSIM
  cusim::cp_async_wait(PENDING);
#else
  asm volatile("cp.async.wait_group %0;" ::"n"(PENDING) : "memory");
#endif
}
