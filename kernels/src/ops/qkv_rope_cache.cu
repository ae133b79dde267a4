// qkv_rope_cache: between the q, k, v projections and attention. A warp takes one head of one row: norm and
// rotation, all in registers; keys and values go to their slots.
#include "../cuh/any_floats.cuh"
#include "../cuh/reduce.cuh"
#include "../cuh/rotation.cuh"

constexpr int HEADS = 4;                    // of a thread block, one per warp
constexpr int PAIRS = 512 / 2 / WARP_SIZE;  // of a lane, at most

constexpr uint32_t NORM_HEAD = 1, NORM_ALL_HEADS = 2;

// As in ops/qkv_rope_cache/cuda.rs.
struct HeadsShape {
  uint32_t heads, kv_heads, head_dim;
  uint32_t block_shift;                    // slots of a KV block: 1 << block_shift
  uint32_t q_stride, kv_stride, kv_first;  // elements from row to row, and before a row's first key
  uint32_t half;                           // pairs that rotate
  uint32_t interleaved;                    // pair i is elements 2 i and 2 i + 1; else i and i + half
  uint32_t norm, norm_after_rope;          // norm: 0, NORM_HEAD or NORM_ALL_HEADS
  int q_weight_type, k_weight_type;
  float eps;
};

// The sum of squares over all heads of q or k, for a norm that spans them; the whole thread block takes part.
DEVICE float squares_of_heads(const float* x, uint32_t elements, float* partials) {
  float squares = 0.0f;
  for (uint32_t i = threadIdx.x; i < elements; i += HEADS * WARP_SIZE) squares = fmaf(x[i], x[i], squares);
  return block_sum(squares, partials);
}

// Norms and rotates one head of q or k. `weight` begins with the head's first; `squares` is the sum over all heads
// where the norm spans them.
template <class T>
DEVICE void transform_head(T* to, const float* x, const HeadsShape& shape, const Rotation& rotation, AnyFloats weight,
                           uint32_t first_weight, uint32_t heads, float squares) {
  float a[PAIRS], b[PAIRS];
  const uint32_t pairs = shape.head_dim / 2;
  const auto each_pair = [&](auto action) {
#pragma unroll
    for (int i = 0; i < PAIRS; i++) {
      const uint32_t pair = lane_id() + i * WARP_SIZE;
      if (pair < pairs) action(i, pair);
    }
  };
  const auto rotate = [&] { each_pair([&](int i, uint32_t pair) { rotation.rotate(a[i], b[i], pair); }); };
  each_pair([&](int i, uint32_t pair) { a[i] = x[rotation.first(pair)], b[i] = x[rotation.second(pair)]; });
  if (shape.norm_after_rope) rotate();
  if (shape.norm != 0) {
    if (shape.norm == NORM_HEAD) {
      squares = 0.0f;
      each_pair([&](int i, uint32_t) { squares = fmaf(a[i], a[i], fmaf(b[i], b[i], squares)); });
      squares = warp_sum(squares);
      heads = 1;
    }
    const float inverse = 1.0f / sqrtf(squares / (float)(heads * shape.head_dim) + shape.eps);
    each_pair([&](int i, uint32_t pair) {
      a[i] *= inverse, b[i] *= inverse;
      if (weight.data == nullptr) return;
      a[i] *= weight[first_weight + rotation.first(pair)];
      b[i] *= weight[first_weight + rotation.second(pair)];
    });
  }
  if (!shape.norm_after_rope) rotate();
  each_pair([&](int i, uint32_t pair) {
    to[rotation.first(pair)] = from_f32<T>(a[i]);
    to[rotation.second(pair)] = from_f32<T>(b[i]);
  });
}

// q_out [T, Hq, D]; keys, values [B, Hkv, bs, D]; q_in, kv_in f32 rows of heads; weights [D] or [heads · D], or null;
// cos, sin [P, half], or null; positions, slots [T]. Grid [T, heads of a row / HEADS].
template <class T>
DEVICE void qkv_rope_cache(T* q_out, T* keys, T* values, const float* q_in, const float* kv_in, const void* q_weight,
                           const void* k_weight, const float* cos, const float* sin, const uint32_t* positions,
                           const uint32_t* slots, const HeadsShape& shape) {
  SMEM(float, partials, [WARP_SIZE]);
  const uint32_t row = blockIdx.x, position = positions[row], d = shape.head_dim;
  const float* q = q_in + (size_t)row * shape.q_stride;
  const float* k = kv_in + (size_t)row * shape.kv_stride + shape.kv_first;
  const Rotation rotation = {cos + (size_t)position * shape.half, sin + (size_t)position * shape.half, shape.half,
                             shape.interleaved};
  float q_squares = 0.0f, k_squares = 0.0f;
  if (shape.norm == NORM_ALL_HEADS) {
    q_squares = squares_of_heads(q, shape.heads * d, partials);
    k_squares = squares_of_heads(k, shape.kv_heads * d, partials);
  }
  uint32_t head = blockIdx.y * HEADS + warp_id();
  const bool per_head = shape.norm != NORM_ALL_HEADS;
  if (head < shape.heads) {
    transform_head(q_out + ((size_t)row * shape.heads + head) * d, q + head * d, shape, rotation,
                   {q_weight, shape.q_weight_type}, per_head ? 0 : head * d, shape.heads, q_squares);
    return;
  }
  head -= shape.heads;
  if (head >= 2 * shape.kv_heads) return;
  const uint32_t kv_head = head % shape.kv_heads, slot = slots[row], block = slot >> shape.block_shift;
  const uint32_t offset = slot & ((1u << shape.block_shift) - 1);
  const size_t at = ((((size_t)block * shape.kv_heads + kv_head) << shape.block_shift) + offset) * d;
  if (head < shape.kv_heads) {
    transform_head(keys + at, k + head * d, shape, rotation, {k_weight, shape.k_weight_type}, per_head ? 0 : head * d,
                   shape.kv_heads, k_squares);
  } else {
    for (uint32_t e = lane_id(); e < d; e += WARP_SIZE) values[at + e] = from_f32<T>(k[head * d + e]);
  }
}

#define QKV_ROPE_CACHE(T)                                                                                       \
  extern "C" __global__ void __launch_bounds__(HEADS* WARP_SIZE) qkv_rope_cache_##T(                            \
      T* q_out, T* keys, T* values, const float* q_in, const float* kv_in, const void* q_weight,                \
      const void* k_weight, const float* cos, const float* sin, const uint32_t* positions,                      \
      const uint32_t* slots, HeadsShape shape) {                                                                \
    qkv_rope_cache(q_out, keys, values, q_in, kv_in, q_weight, k_weight, cos, sin, positions, slots, shape);    \
  }                                                                                                             \
  KERNEL_EXPORT(qkv_rope_cache_##T)
using f32 = float;
QKV_ROPE_CACHE(f32)
QKV_ROPE_CACHE(bf16)
