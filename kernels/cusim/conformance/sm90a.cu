// wgmma, with operands laid out by plain stores: what TMA would write is what wgmma must read.
#include "../../src/cuh/wgmma.cuh"
#include "conformance.cuh"

#if defined(CUSIM) || defined(__CUDA_ARCH_FEAT_SM90_ALL) || !defined(__CUDA_ARCH__)

// in: a [64, 16], b [N, 16] in bf16 pairs -> out [64, N] f32.
enum class Layout { Swizzled, Plain, Registers };
template <int N, Layout LAYOUT>
static __device__ __forceinline__ void product(uint32_t* out, const uint32_t* in) {
#if defined(CUSIM) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  constexpr bool SWIZZLED = LAYOUT == Layout::Swizzled;
  DYN_SMEM(uint32_t, tiles);  // rows of 128 bytes (the first 32 used) swizzled, or 8x8 blocks
  uint32_t* b_tile = tiles + 64 * 32;
  const auto place = [](int row, int word) {
    if (SWIZZLED) return row * 32 + ((word / 4 ^ row % 8) * 4 + word % 4);
    return row / 8 * 64 + word / 4 * 32 + row % 8 * 4 + word % 4;
  };
  for (int i = threadIdx.x; i < 64 * 8; i += THREADS) tiles[place(i / 8, i % 8)] = in[i];
  for (int i = threadIdx.x; i < N * 8; i += THREADS) b_tile[place(i / 8, i % 8)] = in[64 * 8 + i];
  fence_async_proxy();
  __syncthreads();
  const int row = 16 * warp_id() + lane_id() / 4, pair = lane_id() % 4;
  uint32_t fragment[4];
  for (int i = 0; i < 4; i++) fragment[i] = in[(row + i % 2 * 8) * 8 + pair + i / 2 * 4];
  float d[N / 2];
  for (int i = 0; i < N / 2; i++) d[i] = 0.0f;
  wgmma_fence();
  if (LAYOUT == Layout::Swizzled) wgmma_bf16(d, wgmma_swizzled(tiles), wgmma_swizzled(b_tile));
  if (LAYOUT == Layout::Plain) wgmma_bf16(d, wgmma_plain(tiles, 128, 256), wgmma_plain(b_tile, 128, 256));
  if (LAYOUT == Layout::Registers) wgmma_bf16(d, fragment, wgmma_plain(b_tile, 128, 256));
  wgmma_commit();
  wgmma_wait<0>();
  for (int i = 0; i < N / 2; i++) {
    out[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + pair * 2 + i % 2] = __float_as_uint(d[i]);
  }
#endif
}

// in: a [64, 16], b [16, N] -> out [64, N]; b in panels of 64 columns.
template <int N>
static __device__ __forceinline__ void product_by_rows(uint32_t* out, const uint32_t* in) {
#if defined(CUSIM) || defined(__CUDA_ARCH_FEAT_SM90_ALL)
  DYN_SMEM(uint32_t, tile);
  for (int i = threadIdx.x; i < 16 * N / 2; i += THREADS) {
    const int row = i / (N / 2), word = i % (N / 2);
    tile[word / 32 * 16 * 32 + row * 32 + ((word % 32 / 4 ^ row % 8) * 4 + word % 4)] = in[64 * 8 + i];
  }
  fence_async_proxy();
  __syncthreads();
  const int row = 16 * warp_id() + lane_id() / 4, pair = lane_id() % 4;
  uint32_t fragment[4];
  for (int i = 0; i < 4; i++) fragment[i] = in[(row + i % 2 * 8) * 8 + pair + i / 2 * 4];
  float d[N / 2];
  for (int i = 0; i < N / 2; i++) d[i] = 0.0f;
  wgmma_fence();
  wgmma_bf16_by_rows(d, fragment, wgmma_panels(tile, 16 * 128));
  wgmma_commit();
  wgmma_wait<0>();
  for (int i = 0; i < N / 2; i++) {
    out[(row + i / 2 % 2 * 8) * N + i / 4 * 8 + pair * 2 + i % 2] = __float_as_uint(d[i]);
  }
#endif
}
CONFORMANCE(conformance_wgmma_n64_by_rows) { product_by_rows<64>(out, in); }
CONFORMANCE(conformance_wgmma_n256_by_rows) { product_by_rows<256>(out, in); }
CONFORMANCE(conformance_wgmma_n8_swizzled) { product<8, Layout::Swizzled>(out, in); }
CONFORMANCE(conformance_wgmma_n64_swizzled) { product<64, Layout::Swizzled>(out, in); }
CONFORMANCE(conformance_wgmma_n64_rounding) { product<64, Layout::Swizzled>(out, in); }
CONFORMANCE(conformance_wgmma_n200_swizzled) { product<200, Layout::Swizzled>(out, in); }
CONFORMANCE(conformance_wgmma_n256_swizzled) { product<256, Layout::Swizzled>(out, in); }
CONFORMANCE(conformance_wgmma_n128_plain) { product<128, Layout::Plain>(out, in); }
CONFORMANCE(conformance_wgmma_n16_registers) { product<16, Layout::Registers>(out, in); }
CONFORMANCE(conformance_wgmma_n256_registers) { product<256, Layout::Registers>(out, in); }
#endif
