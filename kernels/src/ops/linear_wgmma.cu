// linear and gated_linear as in linear.cu, with Hopper's wgmma: the family of kernels for compute capability 9.0, from
// one row up.
#include "../cuh/linear_tile.cuh"
#include "../cuh/wgmma_tile.cuh"

// Features, tokens, warps along each, stages.
LINEAR(Wgmma, wgmma_t8, false, 3, 64, 8, 4, 1, 7)
LINEAR(Wgmma, wgmma_t16, false, 3, 64, 16, 4, 1, 7)
LINEAR(Wgmma, wgmma_t32, false, 3, 64, 32, 4, 1, 6)
LINEAR(Wgmma, wgmma_t64, false, 3, 64, 64, 4, 1, 4)
LINEAR(Wgmma, wgmma_t128, false, 1, 128, 128, 8, 1, 5)
LINEAR(Wgmma, wgmma_t128_all_parts, true, 1, 128, 128, 8, 1, 5)
