// What the parts of Hopper's asynchronous machinery say to each other and to the scheduler.
#pragma once
#include "machine.h"

namespace cusim {

void mbarriers_begin_block();
void tma_begin_block();
void wgmma_begin_block();

// Fails where the device has no such instructions.
void require_hopper(const char* instruction);

// `bytes` for the barrier have arrived, on behalf of thread `issuer`.
void mbarrier_complete(uint64_t* barrier, uint32_t bytes, Fibre& issuer);
// Fails if `barrier` is not one that TMA may use.
void mbarrier_check_for_tma(uint64_t* barrier);

// Lets the copy hardware finish one transfer; false if none is under way.
bool complete_a_transfer();

// The matrix that a TensorMap describes: element (row, column) lies at base + row * stride + column * element.
struct TensorLayout {
  uint64_t magic;
  char* base;
  uint64_t columns, rows, stride;
  uint32_t box_columns, box_rows, element;
  uint32_t swizzle;  // width in bytes, 0 = none
  static constexpr uint64_t MAGIC = 0x70616d726f736e74;
};

// Swizzles exchange the 16-byte chunks of a row by the bits of its number in the pattern of 8 rows.
inline uint32_t swizzled(uint32_t address, uint32_t width) {
  return width ? address ^ ((address >> 7 & (width / 16 - 1)) << 4) : address;
}

}  // namespace cusim
