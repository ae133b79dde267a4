// Tensor maps: matrices as TMA reads them. Two dimensions, no interleaving.
#include <string.h>

#include "device.h"
#include "hopper.h"

using namespace driver;

namespace {

// Bytes of an element by the number of CUtensorMapDataType; 0 = none.
uint32_t element_bytes(int type) {
  static constexpr uint32_t BYTES[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
  return type >= 0 && type < 13 ? BYTES[type] : 0;
}

// What the driver's documentation demands of a map.
bool is_valid(const cusim::TensorLayout& t) {
  const uint32_t row_bytes = t.box_columns * t.element;
  return reinterpret_cast<uintptr_t>(t.base) % 16 == 0 && t.stride % 16 == 0 && t.stride >= t.columns * t.element &&
         t.columns && t.rows && t.columns <= UINT32_MAX && t.rows <= UINT32_MAX && t.box_columns && t.box_rows &&
         t.box_columns <= 256 && t.box_rows <= 256 && row_bytes % 16 == 0 &&
         (t.swizzle == 0 || row_bytes <= t.swizzle);
}

}  // namespace

API cuTensorMapEncodeTiled(void* map, int type, unsigned rank, void* base, const uint64_t* dimensions,
                           const uint64_t* strides, const unsigned* box, const unsigned* element_strides,
                           int interleave, int swizzle, int l2_promotion, int fill) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  if (capability() < 90) return NOT_SUPPORTED;
  if (!map || !element_bytes(type) || swizzle < 0 || swizzle > 3 || l2_promotion < 0 || l2_promotion > 3) {
    return INVALID_VALUE;
  }
  if (rank != 2 || interleave || fill || element_strides[0] != 1 || element_strides[1] != 1) return NOT_SUPPORTED;
  cusim::TensorLayout t{cusim::TensorLayout::MAGIC, static_cast<char*>(base), dimensions[0], dimensions[1],
                        strides[0], box[0], box[1], element_bytes(type), swizzle ? 16u << swizzle : 0};
  if (!is_valid(t)) return INVALID_VALUE;
  // The simulated copy knows rows as wide as their swizzle.
  if (t.swizzle && t.box_columns * t.element != t.swizzle) return NOT_SUPPORTED;
  memset(map, 0, 128);
  memcpy(map, &t, sizeof t);
  return SUCCESS;
}
