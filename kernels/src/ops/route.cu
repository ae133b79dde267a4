// route: which experts a token is routed to, and with what weights, as ops/route.rs defines it. A warp takes one row.
#include "../cuh/any_floats.cuh"
#include "../cuh/logits.cuh"
#include "../cuh/reduce.cuh"

// The numbers of ops::RouterLogits, RouterScore, ExpertGroups and Renormalize.
enum Logits : uint32_t { LOGITS_PLAIN, LOGITS_SOFTCAP, LOGITS_STANDARDIZED };
enum Score : uint32_t { SCORE_SOFTMAX, SCORE_SIGMOID, SCORE_SOFTMAX_OF_CHOSEN, SCORE_SPARSE_MIXER };
enum Groups : uint32_t { GROUPS_ALL, GROUPS_BEST_BY_MAX, GROUPS_BEST_BY_TOP_TWO, GROUPS_EACH };
enum Divide : uint32_t { DIVIDE_NOT, DIVIDE_BY_SUM, DIVIDE_BY_SUM_PLUS, DIVIDE_BY_SUM_AT_LEAST };

// As in ops/route/cuda.rs.
struct RouterShape {
  uint32_t experts, chosen;
  uint32_t logits, score, groups, divide;  // see above
  uint32_t group_count, kept;
  float logits_value, jitter, divide_value, scale;
  int bias_type, scale_type;
};

// Calls action(i) for every 32nd i below n.
template <class Action>
DEVICE void each_lane(uint32_t n, Action action) {
  for (uint32_t i = lane_id(); i < n; i += WARP_SIZE) action(i);
  __syncwarp();
}

template <class Term>
DEVICE float sum_over(uint32_t n, Term term) {
  float sum = 0.0f;
  each_lane(n, [&](uint32_t i) { sum += term(i); });
  return warp_sum(sum);
}

DEVICE void softmax(float* x, uint32_t n) {
  float max = -INFINITY;
  each_lane(n, [&](uint32_t i) { max = fmaxf(max, x[i]); });
  max = warp_max(max);
  each_lane(n, [&](uint32_t i) { x[i] = expf(x[i] - max); });
  const float sum = sum_over(n, [&](uint32_t i) { return x[i]; });
  each_lane(n, [&](uint32_t i) { x[i] /= sum; });
}

// z of the router's logits.
DEVICE void prepare(float* z, const float* logits, const RouterShape& shape) {
  const uint32_t n = shape.experts;
  float factor = 1.0f;
  if (shape.logits == LOGITS_STANDARDIZED) {
    const float mean = sum_over(n, [&](uint32_t e) { return logits[e]; }) / (float)n;
    const float squares = sum_over(n, [&](uint32_t e) { return (logits[e] - mean) * (logits[e] - mean); });
    factor = shape.logits_value / sqrtf(squares / ((float)n - 1.0f));
  }
  const float cap = shape.logits_value;
  each_lane(n, [&](uint32_t e) {
    z[e] = shape.logits == LOGITS_SOFTCAP ? cap * tanhf(logits[e] / cap) : logits[e] * factor;
  });
}

// Stands in the place of a value that was taken: a NaN. Other NaN come last, but before what was taken.
constexpr uint32_t TAKEN = 0xffffffffu;

// The place of the largest of `values`, ties to the first, in every lane. It is marked as taken.
DEVICE uint32_t take_largest(float* values, uint32_t n) {
  unsigned long long best = 0;
  each_lane(n, [&](uint32_t i) {
    const bool is_taken = __float_as_uint(values[i]) == TAKEN, is_nan = values[i] != values[i];
    const unsigned long long order = is_taken ? 0 : is_nan ? 1 : ordered(values[i]);
    best = max(best, order << 32 | ~i);
  });
#pragma unroll
  for (int offset = WARP_SIZE / 2; offset > 0; offset /= 2) best = max(best, __shfl_xor_sync(ALL_LANES, best, offset));
  const uint32_t place = ~(uint32_t)best;
  if (lane_id() == 0) values[place] = __uint_as_float(TAKEN);
  __syncwarp();
  return place;
}

// Puts the experts of all but the best groups, ties to the first, out of reach.
DEVICE void mask_groups(float* choice, float* worth, const RouterShape& shape) {
  const uint32_t count = shape.group_count, size = shape.experts / count;
  each_lane(count, [&](uint32_t g) {
    float first = -INFINITY, second = -INFINITY;
    for (uint32_t e = g * size; e < (g + 1) * size; e++) {
      second = fmaxf(second, fminf(first, choice[e]));
      first = fmaxf(first, choice[e]);
    }
    worth[g] = shape.groups == GROUPS_BEST_BY_MAX ? first : first + second;
  });
  each_lane(shape.experts, [&](uint32_t e) {
    const uint32_t g = e / size;
    uint32_t better = 0;
    for (uint32_t h = 0; h < count; h++) better += worth[h] > worth[g] || (worth[h] == worth[g] && h < g);
    if (better >= shape.kept) choice[e] = -INFINITY;
  });
}

// The experts of the largest `choice`, best first.
DEVICE void choose(uint32_t* ids, float* choice, const RouterShape& shape) {
  const uint32_t parts = shape.groups == GROUPS_EACH ? shape.group_count : 1;
  const uint32_t size = shape.experts / parts, each = shape.chosen / parts;
  for (uint32_t i = 0; i < shape.chosen; i++) {
    const uint32_t first = i / each * size, id = first + take_largest(choice + first, size);
    if (lane_id() == 0) ids[i] = id;
  }
}

// One expert after the other, each weighted among those near it that are left.
DEVICE void sparse_mixer(uint32_t* ids, float* weights, const float* z, float* left, const RouterShape& shape) {
  each_lane(shape.experts, [&](uint32_t e) { left[e] = z[e]; });
  for (uint32_t i = 0; i < shape.chosen; i++) {
    const uint32_t id = take_largest(left, shape.experts);
    const float max = z[id];
    const float sum = sum_over(shape.experts, [&](uint32_t e) {
      const bool is_left = e == id || __float_as_uint(left[e]) != TAKEN;
      const bool is_far = (max - z[e]) / fmaxf(fabsf(z[e]), max) > 2.0f * shape.jitter;
      return is_left && !is_far ? expf(z[e] - max) : 0.0f;
    });
    if (lane_id() == 0) ids[i] = id, weights[i] = 1.0f / sum;
  }
  __syncwarp();
}

// ids, weights [T, k]; logits [T, E]; e_score_correction_bias, expert_scale [E] or null. Grid [T], 32 threads.
extern "C" __global__ void __launch_bounds__(WARP_SIZE)
    route_f32(uint32_t* ids, float* weights, const float* logits, const void* e_score_correction_bias,
              const void* expert_scale, RouterShape shape) {
  DYN_SMEM(float, shared);  // [4, E]
  const uint32_t n = shape.experts, k = shape.chosen;
  float *scores = shared, *choice = shared + n, *chosen = shared + 2 * n, *worth = shared + 3 * n;
  ids += (size_t)blockIdx.x * k;
  weights += (size_t)blockIdx.x * k;
  prepare(scores, logits + (size_t)blockIdx.x * n, shape);
  if (shape.score == SCORE_SPARSE_MIXER) {
    sparse_mixer(ids, chosen, scores, choice, shape);
  } else {
    if (shape.score == SCORE_SOFTMAX) softmax(scores, n);
    if (shape.score == SCORE_SIGMOID) each_lane(n, [&](uint32_t e) { scores[e] = 1.0f / (1.0f + expf(-scores[e])); });
    const AnyFloats bias = {e_score_correction_bias, shape.bias_type};
    each_lane(n, [&](uint32_t e) { choice[e] = bias.data == nullptr ? scores[e] : scores[e] + bias[e]; });
    if (shape.groups == GROUPS_BEST_BY_MAX || shape.groups == GROUPS_BEST_BY_TOP_TWO) mask_groups(choice, worth, shape);
    choose(ids, choice, shape);
    __syncwarp();
    each_lane(k, [&](uint32_t i) { chosen[i] = scores[ids[i]]; });
    if (shape.score == SCORE_SOFTMAX_OF_CHOSEN) softmax(chosen, k);
  }
  float divisor = 1.0f;
  if (shape.divide != DIVIDE_NOT) divisor = sum_over(k, [&](uint32_t i) { return chosen[i]; });
  if (shape.divide == DIVIDE_BY_SUM_PLUS) divisor += shape.divide_value;
  if (shape.divide == DIVIDE_BY_SUM_AT_LEAST) divisor = fmaxf(divisor, shape.divide_value);
  const AnyFloats scale = {expert_scale, shape.scale_type};
  each_lane(k, [&](uint32_t i) {
    const float weight = chosen[i] / divisor * shape.scale;
    weights[i] = scale.data == nullptr ? weight : weight * scale[ids[i]];
  });
}
KERNEL_EXPORT(route_f32)
