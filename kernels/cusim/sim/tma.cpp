// TMA: copies of 2-D boxes. A transfer is checked when it is issued and done as late as the waiting threads allow.
#include <string.h>

#include <vector>

#include "checks.h"
#include "global.h"
#include "hopper.h"
#include "scheduler.h"

namespace cusim {

namespace {

struct Transfer {
  char* to;
  TensorLayout tensor;
  int64_t column, row;
  uint64_t* barrier;
  Fibre* issuer;

  uint32_t row_bytes() const { return tensor.box_columns * tensor.element; }
  uint32_t bytes() const { return row_bytes() * tensor.box_rows; }
  bool has(int64_t r, int64_t c) const {
    return r >= 0 && c >= 0 && r < static_cast<int64_t>(tensor.rows) && c < static_cast<int64_t>(tensor.columns);
  }
  char* source(int64_t r, int64_t c) const { return tensor.base + r * tensor.stride + c * tensor.element; }
};
std::vector<Transfer> transfers;

void check_source(const Transfer& t) {
  for (uint32_t r = 0; r < t.tensor.box_rows; r++) {
    for (uint32_t c = 0; c < t.tensor.box_columns; c++) {
      if (t.has(t.row + r, t.column + c)) {
        check_access(t.source(t.row + r, t.column + c), t.tensor.element, Access::Read);
      }
    }
  }
}

void copy(const Transfer& t) {
  const uint32_t to = shared_address(t.to), element = t.tensor.element;
  for (uint32_t r = 0; r < t.tensor.box_rows; r++) {
    for (uint32_t c = 0; c < t.tensor.box_columns; c++) {
      const uint32_t address = swizzled(to + r * t.row_bytes() + c * element, t.tensor.swizzle);
      char* at = t.to + (address - to);
      if (t.has(t.row + r, t.column + c)) {
        memcpy(at, t.source(t.row + r, t.column + c), element);
      } else {
        memset(at, 0, element);
      }
    }
  }
}

}  // namespace

void tma_begin_block() { transfers.clear(); }

void tma_load_2d(void* to, const void* map, int column, int row, uint64_t* barrier) {
  access_site = __builtin_return_address(0);
  require_hopper("TMA");
  maybe_yield();
  Transfer t{static_cast<char*>(to), {}, column, row, barrier, current};
  memcpy(&t.tensor, map, sizeof t.tensor);
  if (t.tensor.magic != TensorLayout::MAGIC) fail("INVALID: not a TensorMap made by cuTensorMapEncodeTiled");
  const uint32_t alignment = t.tensor.swizzle ? 8 * t.tensor.swizzle : 128;
  if (shared_address(to) % alignment) fail("MISALIGNED: the target of TMA must be aligned to %u bytes", alignment);
  mbarrier_check_for_tma(barrier);
  if (options.check) {
    shared_access(t.to, t.bytes(), Access::AsyncStart, *current);
    check_source(t);
  }
  memset(t.to, 0xff, t.bytes());
  transfers.push_back(t);
}

bool complete_a_transfer() {
  if (transfers.empty()) return false;
  const size_t chosen = random_bits() % transfers.size();
  const Transfer t = transfers[chosen];
  transfers.erase(transfers.begin() + chosen);
  copy(t);
  if (options.check) shared_tma_end(t.to, t.bytes(), stamp_of(*t.issuer));
  mbarrier_complete(t.barrier, t.bytes(), *t.issuer);
  return true;
}

void fence_async_proxy() { shared_fence_proxy(); }

}  // namespace cusim
