// What device code calls in the simulator. Everything here is called from a running CUDA thread.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <utility>

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace cusim {

// Constant during the life of a thread, so that the compiler may keep the results.
uint3 thread_index() __attribute__((const));
uint3 block_index() __attribute__((const));
uint3 block_dim() __attribute__((const));
uint3 grid_dim() __attribute__((const));
int lane() __attribute__((const));

// Ends the launch with an error; the text names the kernel, thread block, thread and source line by itself.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// ---- shared memory ----------------------------------------------------------------------------------------------
struct SharedArray {
  size_t size;
  const char* name;
  uint64_t placed_in;  // the thread block (counted over all launches) in which `place` is valid
  char* place;
};
void* shared_array(SharedArray& array);
void* dynamic_shared();
uint32_t shared_address(const void* shared);

// ---- barriers ---------------------------------------------------------------------------------------------------
void block_barrier(const char* file, int line);
void named_barrier(int number, int threads);
void warp_barrier(uint32_t mask);

// ---- warp-wide operations ---------------------------------------------------------------------------------------
// All lanes of `mask` meet; the last to arrive runs `operation` once over the lanes' arguments.
using WarpOperation = void (*)(void* const* arguments, uint32_t mask);
void collective(uint32_t mask, WarpOperation operation, void* argument);
uint32_t active_mask();
uint32_t ballot(uint32_t mask, bool vote);
uint32_t reduce_add(uint32_t mask, uint32_t value);
uint32_t reduce_max(uint32_t mask, uint32_t value);

template <class T>
struct Shuffle {
  T value, result;
  int source;
};
template <class T>
__attribute__((no_sanitize("thread"))) void shuffle_all(void* const* arguments, uint32_t mask) {
  for (int lane = 0; lane < 32; lane++) {
    if (!(mask >> lane & 1)) continue;
    auto* mine = static_cast<Shuffle<T>*>(arguments[lane]);
    if (!(mask >> mine->source & 1)) {
      fail("DIVERGENCE: a shuffle reads lane %d, which is not in its mask %08x", mine->source, mask);
    }
    mine->result = static_cast<Shuffle<T>*>(arguments[mine->source])->value;
  }
}
template <class T>
inline T shuffle(uint32_t mask, T value, int source) {
  Shuffle<T> argument{value, value, source};
  collective(mask, &shuffle_all<T>, &argument);
  return argument.result;
}

// ---- atomics, fences, dependent launches ------------------------------------------------------------------------
template <class T>
struct Same {
  using type = T;
};
template <class T>
using same = typename Same<T>::type;  // keeps a parameter out of deduction
void before_atomic(const void* at, size_t size);
void device_fence();
void wait_for_previous_kernel();

// ---- asynchronous copies and tensor cores -----------------------------------------------------------------------
void cp_async(void* to, const void* from, int bytes, bool valid);
void cp_async_commit();
void cp_async_wait(int pending);
void ldmatrix(uint32_t* to, const void* row, int matrices, bool transposed);
void mma_bf16(float* d, const uint32_t* a, const uint32_t* b);

// ---- Hopper -----------------------------------------------------------------------------------------------------
void mbarrier_init(uint64_t* barrier, uint32_t arrivals);
void mbarrier_fence_init();
void mbarrier_arrive(uint64_t* barrier, uint32_t expected_bytes);
void mbarrier_wait(uint64_t* barrier, uint32_t parity);
void tma_load_2d(void* to, const void* map, int column, int row, uint64_t* barrier);
void fence_async_proxy();
// d is 64 x 2 * `registers`; A in registers where `a_registers` is not null; `b_by_rows`: N is contiguous in B.
void wgmma_bf16(float* d, int registers, uint64_t a, const uint32_t* a_registers, uint64_t b, bool b_by_rows,
                bool accumulate);
void wgmma_fence();
void wgmma_commit();
void wgmma_wait(int pending);

// ---- the registry of kernels ------------------------------------------------------------------------------------
// One static object per kernel, made by KERNEL_EXPORT.
struct Kernel {
  const char* name;
  const char* file;  // as the compiler was given it
  void* function;
  void (*call)(void* function, void* const* arguments);
  size_t parameters;
  const size_t* sizes;       // bytes of each parameter
  const size_t* alignments;
  const Kernel* next;

  template <class... A>
  Kernel(const char* name, const char* file, void (*function)(A...))
      : name(name), file(file), function(reinterpret_cast<void*>(function)), parameters(sizeof...(A)) {
    static const size_t parameter_sizes[] = {sizeof(A)..., 0};
    static const size_t parameter_alignments[] = {alignof(A)..., 1};
    sizes = parameter_sizes;
    alignments = parameter_alignments;
    call = &call_with<A...>;
    enter();
  }

 private:
  void enter();
  template <class... A>
  static void call_with(void* function, void* const* arguments) {
    call_indexed<A...>(function, arguments, std::index_sequence_for<A...>{});
  }
  template <class... A, size_t... I>
  __attribute__((no_sanitize("thread"))) static void call_indexed(void* function, void* const* arguments,
                                                                  std::index_sequence<I...>) {
    reinterpret_cast<void (*)(A...)>(function)(*static_cast<A*>(arguments[I])...);
  }
};
const Kernel* first_kernel();
const Kernel* find_kernel(const char* name);
template <class Visit>
void for_each_kernel(Visit visit) {
  for (const Kernel* k = first_kernel(); k; k = k->next) visit(*k);
}

}  // namespace cusim
