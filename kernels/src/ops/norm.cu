// norm and add_norm, one row [H] per thread block:
//
//   norm:      out = norm(x)
//   add_norm:  residual += post(delta), then out = norm(residual); post may be absent
//
// out f32 or bf16 [T, H], x, residual and delta f32 [T, H], weights and biases any float [H]. The row stays
// in shared memory: H floats of it. Each thread reads only what it wrote there, so that no barrier is needed.
#include "../cuh/any_floats.cuh"
#include "../cuh/reduce.cuh"

struct Norm {
  AnyFloats weight, bias;
  int layer;  // 1: LayerNorm, 0: RMSNorm
  float eps;
};

// What a row's elements are shifted and scaled by.
struct Statistics {
  float mean, scale;
};

// Calls `body(i)` for the calling thread's elements i .. i + V of a row.
template <int V, class Body>
DEVICE void for_own(int hidden, Body body) {
  for (int i = threadIdx.x * V; i < hidden; i += blockDim.x * V) body(i);
}

template <int V>
DEVICE Statistics statistics_of(const float* row, int hidden, const Norm& norm, float* partials) {
  float mean = 0.0f, squares = 0.0f;
  if (norm.layer) {
    for_own<V>(hidden, [&](int i) {
#pragma unroll
      for (int e = 0; e < V; e++) mean += row[i + e];
    });
    mean = block_sum(mean, partials) / hidden;
  }
  for_own<V>(hidden, [&](int i) {
    float x[V];
    load_f32<V>(x, row + i);
#pragma unroll
    for (int e = 0; e < V; e++) squares = fmaf(x[e] - mean, x[e] - mean, squares);
  });
  return {mean, 1.0f / sqrtf(block_sum(squares, partials) / hidden + norm.eps)};
}

// Elements i .. i + V of the normed row.
template <int V>
DEVICE void normed(float (&y)[V], const float* row, int i, Statistics statistics, const Norm& norm) {
  float weight[V], bias[V] = {};
  load_f32<V>(y, row + i);
  load_any<V>(weight, norm.weight, i);
  if (norm.bias.data != nullptr) load_any<V>(bias, norm.bias, i);
#pragma unroll
  for (int e = 0; e < V; e++) {
    y[e] = (y[e] - statistics.mean) * statistics.scale * weight[e];
    if (norm.bias.data != nullptr) y[e] += bias[e];
  }
}

template <int V, class Out>
DEVICE void store_normed(Out* out, const float* row, int hidden, const Norm& norm, float* partials) {
  const Statistics statistics = statistics_of<V>(row, hidden, norm, partials);
  for_own<V>(hidden, [&](int i) {
    float y[V];
    normed<V>(y, row, i, statistics, norm);
    store_f32<V>(out + i, y);
  });
}

template <int V, class Out>
DEVICE void norm_row(Out* out, const float* x, int hidden, const Norm& norm) {
  DYN_SMEM(float, row);
  SMEM(float, partials, [WARP_SIZE]);
  for_own<V>(hidden, [&](int i) { store_pack(row + i, load_pack<V>(x + i)); });
  store_normed<V>(out, row, hidden, norm, partials);
}

template <int V, class Out>
DEVICE void add_norm_row(Out* out, float* residual, const float* delta, int hidden, const Norm& post,
                         const Norm& norm) {
  DYN_SMEM(float, row);
  SMEM(float, partials, [WARP_SIZE]);
  const bool sandwich = post.weight.data != nullptr;
  Statistics statistics = {};
  if (sandwich) {
    for_own<V>(hidden, [&](int i) { store_pack(row + i, load_pack<V>(delta + i)); });
    statistics = statistics_of<V>(row, hidden, post, partials);
  }
  for_own<V>(hidden, [&](int i) {
    float sum[V], added[V];
    load_f32<V>(sum, residual + i);
    if (sandwich) normed<V>(added, row, i, statistics, post);
    else load_f32<V>(added, delta + i);
#pragma unroll
    for (int e = 0; e < V; e++) sum[e] += added[e];
    store_f32<V>(residual + i, sum);
    store_f32<V>(row + i, sum);
  });
  store_normed<V>(out, row, hidden, norm, partials);
}

// Rows whose length is a multiple of 4 are handled in vectors of 4; which, depends on H alone.
#define NORM(Out, type)                                                                                     \
  extern "C" __global__ void __launch_bounds__(1024)                                                        \
      norm_##type(Out* out, const float* x, int hidden, const void* weight, int weight_type,                \
                  const void* bias, int bias_type, int layer, float eps) {                                  \
    const size_t start = (size_t)blockIdx.x * hidden;                                                       \
    const Norm norm = {{weight, weight_type}, {bias, bias_type}, layer, eps};                               \
    if (hidden % 4 == 0) norm_row<4>(out + start, x + start, hidden, norm);                                 \
    else norm_row<1>(out + start, x + start, hidden, norm);                                                 \
  }                                                                                                         \
  KERNEL_EXPORT(norm_##type)                                                                                \
  extern "C" __global__ void __launch_bounds__(1024) add_norm_##type(                                       \
      Out* out, float* residual, const float* delta, int hidden, const void* post_weight,                   \
      int post_weight_type, const void* post_bias, int post_bias_type, int post_layer, float post_eps,      \
      const void* weight, int weight_type, const void* bias, int bias_type, int layer, float eps) {         \
    const size_t start = (size_t)blockIdx.x * hidden;                                                       \
    const Norm post = {{post_weight, post_weight_type}, {post_bias, post_bias_type}, post_layer, post_eps}; \
    const Norm norm = {{weight, weight_type}, {bias, bias_type}, layer, eps};                               \
    if (hidden % 4 == 0) add_norm_row<4>(out + start, residual + start, delta + start, hidden, post, norm); \
    else add_norm_row<1>(out + start, residual + start, delta + start, hidden, post, norm);                 \
  }                                                                                                         \
  KERNEL_EXPORT(add_norm_##type)

NORM(float, f32)
NORM(bf16, bf16)
