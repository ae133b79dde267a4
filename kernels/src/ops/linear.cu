// linear and gated_linear with bf16 weights on the tensor cores:
//
//   linear:        out[t, n] = y[t, n] = Σ_k x[t, k] · weight[n, k] (+ bias[n])
//                  out f32 [T, N], x bf16 [T, K], weight bf16 [N, K], bias f32 [N] or null
//   gated_linear:  out[t, i] = glu(y[t, i], y[t, I + i]), with N = 2I
//                  out bf16 [T, I]
//
// K is a multiple of 8. It is cut into parts of `part` stages of 64, a constant of the weight's shape. An
// output is the sum of its parts in ascending order, whether thread blocks compute one part each (gridDim.y
// parts) or one computes all.
#include "../cuh/linear_tile.cuh"

struct MmaSync {
  template <class Tile, class... Args>
  static __device__ __forceinline__ void run(Args&&... args) {
    multiply<Tile>(args...);
  }
};

// Features, tokens, warps along each, stages.
LINEAR(MmaSync, t8, false, 3, 64, 8, 4, 1, 6)
LINEAR(MmaSync, t16, false, 3, 64, 16, 4, 1, 6)
LINEAR(MmaSync, t32, false, 3, 64, 32, 4, 1, 5)
LINEAR(MmaSync, t64, false, 3, 64, 64, 2, 2, 4)
LINEAR(MmaSync, t128, false, 2, 128, 128, 2, 4, 3)
LINEAR(MmaSync, t128_all_parts, true, 1, 128, 128, 2, 4, 3)
