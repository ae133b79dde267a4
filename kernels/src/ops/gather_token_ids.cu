// gather_token_ids: ids[t] = sampled[d] for each pair (t, d), and 0 where nothing was sampled.
//
//   ids u32 [T], sampled u32 [D], pairs [count]; a thread per pair
#include "../cuh/common.cuh"

constexpr uint32_t NO_TOKEN = 0xffffffffu;

struct alignas(8) TokenPair {
  uint32_t row, sampled;
};

extern "C" __global__ void __launch_bounds__(128)
    gather_token_ids_u32(uint32_t* ids, const uint32_t* sampled, const TokenPair* pairs, uint32_t count) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const uint32_t token = sampled[pairs[i].sampled];
  ids[pairs[i].row] = token == NO_TOKEN ? 0 : token;
}
KERNEL_EXPORT(gather_token_ids_u32)
