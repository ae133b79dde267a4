// latent_cache: norms a token's latent, rotates the part that carries its position, and writes both to its
// slot.
#include "../cuh/any_floats.cuh"
#include "../cuh/reduce.cuh"
#include "../cuh/rotation.cuh"

constexpr int LATENT_THREADS = 128;

// As in ops/latent_cache/cuda.rs: L of a latent, 2 · half that rotate.
struct LatentShape {
  uint32_t latent, half, interleaved, layer_norm;
  int weight_type, bias_type;
  float eps;
};

// cache [B, bs, L + 2 half]; kv f32 [T, L + 2 half]; weight, bias [L], or null; cos, sin [P, half];
// positions, slots [T]. Grid [T].
template <class T>
DEVICE void latent_cache(T* cache, const float* kv, const void* weight, const void* bias, const float* cos,
                         const float* sin, const uint32_t* positions, const uint32_t* slots,
                         const LatentShape& shape) {
  SMEM(float, partials, [WARP_SIZE]);
  const uint32_t row = blockIdx.x, n = shape.latent, width = n + 2 * shape.half;
  const float* x = kv + (size_t)row * width;
  T* to = cache + (size_t)slots[row] * width;
  float mean = 0.0f, squares = 0.0f;
  if (shape.layer_norm) {
    for (uint32_t i = threadIdx.x; i < n; i += LATENT_THREADS) mean += x[i];
    mean = block_sum(mean, partials) / (float)n;
  }
  for (uint32_t i = threadIdx.x; i < n; i += LATENT_THREADS) {
    squares = fmaf(x[i] - mean, x[i] - mean, squares);
  }
  const float inverse = 1.0f / sqrtf(block_sum(squares, partials) / (float)n + shape.eps);
  const AnyFloats weights = {weight, shape.weight_type}, biases = {bias, shape.bias_type};
  for (uint32_t i = threadIdx.x; i < n; i += LATENT_THREADS) {
    const float normed = (x[i] - mean) * inverse * weights[i];
    to[i] = from_f32<T>(bias == nullptr ? normed : normed + biases[i]);
  }
  const size_t angles = (size_t)positions[row] * shape.half;
  const Rotation rotation = {cos + angles, sin + angles, shape.half, shape.interleaved};
  for (uint32_t pair = threadIdx.x; pair < shape.half; pair += LATENT_THREADS) {
    float a = x[n + rotation.first(pair)], b = x[n + rotation.second(pair)];
    rotation.rotate(a, b, pair);
    to[n + rotation.first(pair)] = from_f32<T>(a);
    to[n + rotation.second(pair)] = from_f32<T>(b);
  }
}

#define LATENT_CACHE(T)                                                                                    \
  extern "C" __global__ void __launch_bounds__(LATENT_THREADS) latent_cache_##T(                           \
      T* cache, const float* kv, const void* weight, const void* bias, const float* cos, const float* sin, \
      const uint32_t* positions, const uint32_t* slots, LatentShape shape) {                               \
    latent_cache(cache, kv, weight, bias, cos, sin, positions, slots, shape);                              \
  }                                                                                                        \
  KERNEL_EXPORT(latent_cache_##T)
using f32 = float;
LATENT_CACHE(f32)
LATENT_CACHE(bf16)
