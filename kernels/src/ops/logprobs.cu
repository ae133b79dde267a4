// logprobs: how probable tokens were, as ops/logprobs.rs defines it. A thread block per wanted position.
#include "../cuh/logits.cuh"
#include "../cuh/reduce.cuh"
#include "../cuh/select.cuh"

// As in ops/logprobs/cuda.rs.
struct LogprobRow {
  uint32_t row;          // of the logits
  uint32_t target;       // the token whose log-probability is wanted
  uint32_t top;          // how many of the most probable tokens are wanted
  uint32_t first;        // index of the first of them in `tops`
};
struct LogprobReport {
  float logprob;         // of the target
  float log_sum;         // ln Σ e^logit
  uint32_t rank;
};
struct LogprobToken {
  uint32_t id;
  float logit;
};

// reports [rows]; tops: each row's most probable tokens in no order; logits [.., V].
extern "C" __global__ void __launch_bounds__(512, 1)
    logprobs_f32(LogprobReport* reports, LogprobToken* tops, const float* logits, const LogprobRow* rows,
                 uint32_t vocab) {
  SMEM(Histogram, histogram, );
  SMEM(float, partials, [WARP_SIZE]);
  SMEM(uint32_t, found, [1]);
  const LogprobRow row = rows[blockIdx.x];
  logits += (size_t)row.row * vocab;

  float max = -INFINITY;
  for_each_logit(logits, vocab, [&](uint32_t, float logit) { max = fmaxf(max, logit); });
  max = block_max(max, partials);
  const float target = logits[row.target];
  float sum = 0.0f;
  uint32_t before = 0;
  for_each_logit(logits, vocab, [&](uint32_t id, float logit) {
    sum += expf(logit - max);
    before += logit > target || (logit == target && id < row.target);
  });
  sum = block_sum(sum, partials);
  uint64_t rank;
  block_scan(before, histogram.warp_sums, rank);
  if (threadIdx.x == 0) {
    const float log_sum = max + logf(sum);
    reports[blockIdx.x] = {target - log_sum, log_sum, (uint32_t)rank + 1};
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
    if (key_of(id, logit) <= last) tops[row.first + atomicAdd(found, 1u)] = {id, logit};
  });
}
KERNEL_EXPORT(logprobs_f32)
