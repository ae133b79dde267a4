// sample: one token per row of logits, as ops/sample.rs defines it. A thread block works on one row at a time; nothing
// is sorted. Weights and times are worked out as on the CPU, so that equal logits draw equal tokens; only where top-p
// cuts between two tokens may the rounding of the sum of weights decide differently.
#include "../cuh/logits.cuh"
#include "../cuh/select.cuh"

constexpr uint32_t NO_TOKEN = 0xffffffffu;
constexpr uint32_t NO_SLOT = 0xffffffffu;
// The weight 1 in fixed point: 2^44, so that 2^20 of them do not overflow.
constexpr float FIXED_POINT = 17592186044416.0f;
// Keys of all tokens that can be sampled: those with finite logits.
constexpr uint64_t ALL_KEYS = 0x7f7fffffffffffffull;

// As in ops/sample/cuda.rs. Lists are in words: pairs of (id, times in the output), pairs of (id, bias), ids.
struct SampleRow {
  uint64_t key;                                      // of the draw
  uint32_t row;                                      // of the logits
  uint32_t top_k;                                    // 0: all
  uint32_t slot;                                     // of the counts of tokens seen, or NO_SLOT
  uint32_t loads;                                    // whether the slot is to hold the tokens listed next
  uint32_t seen, seen_count, bias, bias_count, banned, banned_count;
  float temperature, top_p;
  float least;                                       // the smallest logit that min-p leaves, relative to the largest
  float repetition_penalty, presence_penalty, frequency_penalty;
};

// Penalises a token that was seen, and so many times in the output.
DEVICE void penalize(float& to, uint32_t output_count, const SampleRow& row) {
  const float logit = to > 0.0f ? to / row.repetition_penalty : __fmul_rn(to, row.repetition_penalty);
  const float penalty = __fadd_rn(__fmul_rn(row.frequency_penalty, (float)output_count), row.presence_penalty);
  to = output_count > 0 ? __fsub_rn(logit, penalty) : logit;
}

// Lets the counts of a slot [V] be those of the tokens listed: 0 for tokens that were not seen, else 1 more than listed.
DEVICE void load_counts(uint32_t* counts, uint32_t vocab, const uint32_t* seen, uint32_t seen_count) {
  for (uint32_t id = threadIdx.x; id < vocab; id += blockDim.x) counts[id] = 0;
  __syncthreads();
  for (uint32_t i = threadIdx.x; i < seen_count; i += blockDim.x) counts[seen[2 * i]] = seen[2 * i + 1] + 1;
  __syncthreads();
}

// Copies a row and applies penalties, bias and banned tokens. counts [V] are those of its slot, if it has one.
DEVICE void adjust(float* to, const float* from, uint32_t vocab, const SampleRow& row, const uint32_t* lists,
                   const uint32_t* counts) {
  for_each_logit(from, vocab, [&](uint32_t id, float logit) {
    const uint32_t count = counts ? counts[id] : 0;
    if (count > 0) penalize(logit, count - 1, row);
    to[id] = logit;
  });
  __syncthreads();
  // A token's first entry adds all of its entries, in order.
  const uint32_t* bias = lists + row.bias;
  for (uint32_t i = threadIdx.x; i < row.bias_count; i += blockDim.x) {
    bool again = false;
    for (uint32_t j = 0; j < i; j++) again |= bias[2 * j] == bias[2 * i];
    for (uint32_t j = i; j < row.bias_count && !again; j++) {
      if (bias[2 * j] == bias[2 * i]) to[bias[2 * i]] += __uint_as_float(bias[2 * j + 1]);
    }
  }
  __syncthreads();
  const uint32_t* banned = lists + row.banned;
  for (uint32_t i = threadIdx.x; i < row.banned_count; i += blockDim.x) to[banned[i]] = -INFINITY;
  __syncthreads();
}

// e^x as the CPU computes it (cpu/math.rs): 2^n e^r, by the Taylor series of e^r.
DEVICE float exp_as_on_cpu(float x) {
  x = fminf(88.8f, fmaxf(-88.0f, x));
  const float n = rintf(__fmul_rn(x, 1.44269504088896340736f));
  const float r = fmaf(n, 2.1219444e-4f, fmaf(n, -0.6933594f, x));
  float series = 1.0f / 5040.0f;
  const float factorials[7] = {1.0f / 720.0f, 1.0f / 120.0f, 1.0f / 24.0f, 1.0f / 6.0f, 0.5f, 1.0f, 1.0f};
#pragma unroll
  for (int i = 0; i < 7; i++) series = fmaf(series, r, factorials[i]);
  return __fmul_rn(series, __uint_as_float((uint32_t)((int)n + 127) << 23));
}

// The random bits of a token in a draw (ops/sample/race.rs): SplitMix64.
DEVICE uint64_t random_bits(uint64_t key, uint32_t id) {
  uint64_t x = key + 0x9e3779b97f4a7c15ull * ((uint64_t)id + 1);
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

// The fastest token of a thread so far.
struct Winner {
  double time;
  float limit;  // the time, rounded up
  uint32_t id;

  // Lets a token run whose weight is e^logit. Its time is at least the share of the bits over the weight, which saves
  // most tokens the logarithm.
  __device__ __forceinline__ void race(uint64_t bits, uint32_t token, float logit) {
    const float least = (float)(uint32_t)(bits >> 40) / (float)(1 << 24);
    // The quick weight is within a few millionths.
    if (!(least <= fast_exp2(logit * 1.44269504f) * 1.00002f * limit)) return;
    const double rest = ((double)(bits >> 12) + 0.5) / (double)(1ull << 52);
    const double mine = -log1p(-rest) / (double)exp_as_on_cpu(logit);
    if (mine < time) *this = {mine, (float)mine * 1.000001f, token};
  }
};

// The winner over the thread block; ties to the lowest id.
DEVICE uint32_t block_winner(const Winner& winner, unsigned long long* partials) {
  const uint64_t time = __double_as_longlong(winner.time), best = ~block_max_key(~time, partials);
  const bool wins = time == best && winner.id != NO_TOKEN;
  return ~(uint32_t)block_max_key(wins ? (uint64_t)~winner.id : 0, partials);
}

// The token of one row, in every thread.
DEVICE uint32_t draw(const float* logits, uint32_t vocab, const SampleRow& row, Histogram& shared) {
  // NaN and infinity are told by the largest key of all; ids count down, so that the lowest wins a tie.
  uint64_t best = 0;
  for_each_logit(logits, vocab, [&](uint32_t id, float logit) {
    const bool possible = logit < INFINITY;
    const uint64_t key = possible ? (uint64_t)ordered(logit) << 32 | ~id : ~0ull;
    best = best > key ? best : key;
  });
  best = block_max_key(best, shared.warp_sums);
  const float largest = from_ordered((uint32_t)(best >> 32));
  if (best == ~0ull || largest == -INFINITY) return NO_TOKEN;
  if (row.temperature == 0.0f) return ~(uint32_t)best;

  const auto relative = [&](float logit) { return (logit - largest) / row.temperature; };
  const auto key_of = [&](uint32_t id, float logit) {
    return (uint64_t)__float_as_uint(fabsf(relative(logit))) << 32 | id;
  };
  const auto each_key = [&](auto visit) {
    for_each_logit(logits, vocab, [&](uint32_t id, float logit) { visit(key_of(id, logit), 1); });
  };
  const auto each_weight = [&](auto visit) {
    for_each_logit(logits, vocab, [&](uint32_t id, float logit) {
      const float weight = fast_exp2(relative(logit) * 1.44269504f);
      visit(key_of(id, logit), (uint64_t)(weight * FIXED_POINT));
    });
  };
  uint64_t last = ALL_KEYS;
  if (row.top_k > 0 && row.top_k < vocab) last = select(shared, last, true, {row.top_k, 0.0}, each_key);
  if (row.top_p < 1.0f) {
    __syncthreads();
    last = select(shared, last, true, {0, (double)row.top_p}, each_weight);
  }
  if (row.least > 0.0f) return NO_TOKEN;
  last = min_key(last, (uint64_t)__float_as_uint(fabsf(row.least)) << 32 | 0xffffffffu);

  Winner winner = {INFINITY, INFINITY, NO_TOKEN};
  for_each_logit(logits, vocab, [&](uint32_t id, float logit) {
    if (key_of(id, logit) <= last) winner.race(random_bits(row.key, id), id, relative(logit));
  });
  __syncthreads();
  return block_winner(winner, shared.warp_sums);
}

// ids [rows]; logits [.., V]; counts [slots, V]: see load_counts; rows, lists: see SampleRow; adjusted [thread blocks, V], or null when no row needs it.
extern "C" __global__ void __launch_bounds__(512, 1)
    sample_f32(uint32_t* ids, const float* logits, uint32_t* counts, const SampleRow* rows, const uint32_t* lists,
               float* adjusted, uint32_t vocab, uint32_t count) {
  SMEM(Histogram, shared, );
  for (uint32_t i = blockIdx.x; i < count; i += gridDim.x) {
    const SampleRow row = rows[i];
    const float* from = logits + (size_t)row.row * vocab;
    uint32_t* seen = row.slot != NO_SLOT ? counts + (size_t)row.slot * vocab : nullptr;
    if (seen && row.loads) load_counts(seen, vocab, lists + row.seen, row.seen_count);
    if (row.bias_count + row.banned_count > 0 || seen) {
      float* to = adjusted + (size_t)blockIdx.x * vocab;
      adjust(to, from, vocab, row, lists, seen);
      from = to;
    }
    const uint32_t id = draw(from, vocab, row, shared);
    if (threadIdx.x == 0) {
      ids[i] = id;
      if (seen && id != NO_TOKEN) seen[id] = max(seen[id], 1u) + 1;
    }
    __syncthreads();
  }
}
KERNEL_EXPORT(sample_f32)
