// take_tokens: ids[t] = drawn[d] for each pair (t, d), and 0 where nothing was drawn.
//
//   ids u32 [T], drawn u32 [D], pairs [count]; a thread per pair
#include "../cuh/common.cuh"

constexpr uint32_t NO_TOKEN = 0xffffffffu;

struct alignas(8) TokenPair {
  uint32_t row, drawn;
};

extern "C" __global__ void __launch_bounds__(128)
    take_tokens_u32(uint32_t* ids, const uint32_t* drawn, const TokenPair* pairs, uint32_t count) {
  const uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= count) return;
  const uint32_t token = drawn[pairs[i].drawn];
  ids[pairs[i].row] = token == NO_TOKEN ? 0 : token;
}
KERNEL_EXPORT(take_tokens_u32)
