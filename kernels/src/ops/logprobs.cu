// logprobs: how probable tokens were, as ops/logprobs.rs defines it. A thread block per wanted position.
#include "../cuh/logits.cuh"
#include "../cuh/reduce.cuh"
#include "../cuh/select.cuh"

// As in ops/logprobs/cuda.rs.
struct LogprobRow {
  uint32_t row;               // of the logits
  uint32_t target, is_drawn;  // the token whose log-probability is wanted, or its number among those sampled
  uint32_t top;               // how many of the most probable tokens are wanted
  uint32_t place;             // of the row's words
};

// words: for each row the target's log-probability, ln Σ e^logit, the target's rank, then (id, logit) of the most
// probable tokens in no order. logits [.., V]; sampled: tokens.
extern "C" __global__ void __launch_bounds__(512, 1)
    logprobs_f32(uint32_t* words, const float* logits, const uint32_t* sampled, const LogprobRow* rows,
                 uint32_t vocab) {
  SMEM(Histogram, histogram, );
  SMEM(float, partials, [WARP_SIZE]);
  SMEM(uint32_t, found, [1]);
  const LogprobRow row = rows[blockIdx.x];
  const uint32_t target_id = row.is_drawn ? sampled[row.target] : row.target;
  logits += (size_t)row.row * vocab;
  words += row.place;

  float max = -INFINITY;
  for_each_logit(logits, vocab, [&](uint32_t, float logit) { max = fmaxf(max, logit); });
  max = block_max(max, partials);
  const float target = target_id < vocab ? logits[target_id] : NAN;  // where nothing was sampled
  float sum = 0.0f;
  uint32_t before = 0;
  for_each_logit(logits, vocab, [&](uint32_t id, float logit) {
    sum += expf(logit - max);
    before += logit > target || (logit == target && id < target_id);
  });
  sum = block_sum(sum, partials);
  uint64_t rank;
  block_scan(before, histogram.warp_sums, rank);
  if (threadIdx.x == 0) {
    const float log_sum = max + logf(sum);
    words[0] = __float_as_uint(target - log_sum);
    words[1] = __float_as_uint(log_sum);
    words[2] = (uint32_t)rank + 1;
    found[0] = 0;
  }
  if (row.top == 0) return;

  const auto key_of = [](uint32_t id, float logit) { return (uint64_t)~ordered(logit) << 32 | id; };
  const auto each_key = [&](auto visit) {
    for_each_logit(logits, vocab, [&](uint32_t id, float logit) { visit(key_of(id, logit), 1); });
  };
  __syncthreads();
  const uint64_t last = select(histogram, ~0ull, false, {row.top, 0.0}, each_key);
  for_each_logit(logits, vocab, [&](uint32_t id, float logit) {
    if (key_of(id, logit) > last) return;
    uint32_t* pair = words + 3 + 2 * atomicAdd(found, 1u);
    pair[0] = id;
    pair[1] = __float_as_uint(logit);
  });
}
KERNEL_EXPORT(logprobs_f32)
