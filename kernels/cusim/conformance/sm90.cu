// mbarriers and TMA, which every GPU since Hopper has.
#include "../../src/cuh/hopper.cuh"
#include "conformance.cuh"

// in [128] -> out [128]: three phases of a barrier, in each of which a thread takes its neighbour's word.
CONFORMANCE(conformance_mbarrier) {
  SMEM(uint64_t, barrier, [1]);
  SMEM(uint32_t, words, [2 * THREADS]);  // of even and of odd phases
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, THREADS);
    mbarrier_fence_init();
  }
  __syncthreads();
  uint32_t mine = in[threadIdx.x];
  for (int phase = 0; phase < 3; phase++) {
    uint32_t* shared = words + phase % 2 * THREADS;
    shared[threadIdx.x] = mine;
    mbarrier_arrive(barrier);
    mbarrier_wait(barrier, phase % 2);
    mine = mine * 31 + shared[(threadIdx.x + 1) % THREADS];
  }
  out[threadIdx.x] = mine;
}

// A map of in, bf16 [20, 80], in boxes of [16, 64] -> out [2 x 16 x 32]: shared memory as TMA leaves it. One
// box reaches over the matrix's first row and column, one over its last.
static __device__ __forceinline__ void load_boxes(uint32_t* out, const TensorMap& map) {
  constexpr int WORDS = 16 * 32;
  DYN_SMEM(uint32_t, boxes);
  SMEM(uint64_t, barrier, [1]);
  if (threadIdx.x == 0) {
    mbarrier_init(barrier, 1);
    mbarrier_fence_init();
    mbarrier_arrive_expect(barrier, 2 * WORDS * sizeof(uint32_t));
    tma_load_2d(boxes, &map, -8, -3, barrier);
    tma_load_2d(boxes + WORDS, &map, 40, 12, barrier);
  }
  __syncthreads();
  mbarrier_wait(barrier, 0);
  for (int i = threadIdx.x; i < 2 * WORDS; i += THREADS) out[i] = boxes[i];
}
CONFORMANCE_OF(conformance_tma_swizzled, const __grid_constant__ TensorMap map) { load_boxes(out, map); }
CONFORMANCE_OF(conformance_tma_plain, const __grid_constant__ TensorMap map) { load_boxes(out, map); }
