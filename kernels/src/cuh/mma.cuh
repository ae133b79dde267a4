// Tensor cores of sm_80 and newer: ldmatrix and mma.sync. All are warp-wide: every lane of the warp takes part.
//
// mma m16n8k16, with group = lane / 4 and pair = lane % 4 * 2 (PTX ISA, "Matrix fragments for mma.m16n8k16"):
//   a[0] = A[group][pair..+2]      a[1] = A[group + 8][pair..+2]      a[2], a[3] = the same at column + 8
//   b[0] = B[pair..+2][group]      b[1] = B[pair + 8..+2][group]
//   d[0..2] = D[group][pair..+2]   d[2..4] = D[group + 8][pair..+2]
#pragma once
#include "async.cuh"

// 8x8 matrices of 16-bit elements from shared memory. Lane 8 * i + r gives the address of row r of matrix i (16
// bytes, aligned); register i of lane l becomes elements [l / 4][l % 4 * 2..+2] of matrix i, or of its transpose.
DEVICE void ldmatrix_x4(uint32_t (&to)[4], const void* row) {
#ifdef CUSIM
  cusim::ldmatrix(to, row, 4, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}
DEVICE void ldmatrix_x4_trans(uint32_t (&to)[4], const void* row) {
#ifdef CUSIM
  cusim::ldmatrix(to, row, 4, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
               : "r"(shared_address(row))
               : "memory");
#endif
}
// Lanes 0..16 give the rows; the addresses of the others are not used, but must be valid.
DEVICE void ldmatrix_x2(uint32_t (&to)[2], const void* row) {
#ifdef CUSIM
  cusim::ldmatrix(to, row, 2, false);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(shared_address(row))
               : "memory");
#endif
}
DEVICE void ldmatrix_x2_trans(uint32_t (&to)[2], const void* row) {
#ifdef CUSIM
  cusim::ldmatrix(to, row, 2, true);
#else
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(to[0]), "=r"(to[1])
               : "r"(shared_address(row))
               : "memory");
#endif
}

// d [16, 8] += a [16, 16] * b [16, 8], bf16 with f32 sums.
DEVICE void mma_bf16(float (&d)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
#ifdef CUSIM
  cusim::mma_bf16(d, a, b);
#else
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
#endif
}
