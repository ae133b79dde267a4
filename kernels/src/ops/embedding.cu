// embedding: out[t] = scale * table[ids[t]], and add_embedding: out[t] += table[ids[t]].
//
//   out f32 [T, H], table any float [V, H], ids u32 [T]; one thread block per row
#include "../cuh/common.cuh"

template <class T>
DEVICE const T* row_of(const T* table, const uint32_t* ids, uint32_t hidden) {
  return table + static_cast<size_t>(ids[blockIdx.x]) * hidden;
}

template <class T>
DEVICE void embed(float* out, const T* table, const uint32_t* ids, uint32_t hidden, float scale) {
  const T* row = row_of(table, ids, hidden);
  float* to = out + static_cast<size_t>(blockIdx.x) * hidden;
  for (uint32_t i = threadIdx.x; i < hidden; i += blockDim.x) to[i] = scale * to_f32(row[i]);
}

template <class T>
DEVICE void add_embed(float* out, const T* table, const uint32_t* ids, uint32_t hidden) {
  const T* row = row_of(table, ids, hidden);
  float* to = out + static_cast<size_t>(blockIdx.x) * hidden;
  for (uint32_t i = threadIdx.x; i < hidden; i += blockDim.x) to[i] += to_f32(row[i]);
}

#define EMBEDDING(type)                                                                                       \
  extern "C" __global__ void __launch_bounds__(256)                                                           \
      embedding_##type(float* out, const type* table, const uint32_t* ids, uint32_t hidden, float scale) {    \
    embed(out, table, ids, hidden, scale);                                                                    \
  }                                                                                                           \
  extern "C" __global__ void __launch_bounds__(256)                                                           \
      add_embedding_##type(float* out, const type* table, const uint32_t* ids, uint32_t hidden) {             \
    add_embed(out, table, ids, hidden);                                                                       \
  }

using f32 = float;
EMBEDDING(f32)
EMBEDDING(f16)
EMBEDDING(bf16)

KERNEL_EXPORT(embedding_f32)
KERNEL_EXPORT(embedding_f16)
KERNEL_EXPORT(embedding_bf16)
KERNEL_EXPORT(add_embedding_f32)
KERNEL_EXPORT(add_embedding_f16)
KERNEL_EXPORT(add_embedding_bf16)
