// ldmatrix and mma.sync: operations of a whole warp. The layouts are those of kernels/src/cuh/mma.cuh.
#include <string.h>

#include "checks.h"

namespace cusim {

namespace {

struct LoadMatrix {
  uint32_t* to;
  const void* row;
  int matrices;
  bool transposed;
};

void check_row(const void* row, unsigned lane) {
  if (reinterpret_cast<uintptr_t>(row) % 16) fail("MISALIGNED: row of ldmatrix at %p", row);
  if (!in_shared(static_cast<const char*>(row))) fail("OUT OF BOUNDS: row of ldmatrix at %p, not in shared memory", row);
  if (options.check) {
    shared_access(static_cast<const char*>(row), 16, Access::Read, fibres[current->warp * WARP + lane]);
  }
}

void load_matrices(void* const* arguments, uint32_t) {
  const auto* first = static_cast<LoadMatrix*>(arguments[0]);
  for (int matrix = 0; matrix < first->matrices; matrix++) {
    uint16_t elements[8][8];
    for (int r = 0; r < 8; r++) {
      const unsigned lane = matrix * 8 + r;
      const void* row = static_cast<LoadMatrix*>(arguments[lane])->row;
      check_row(row, lane);
      memcpy(elements[r], row, sizeof elements[r]);
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
      const int r = lane / 4, c = lane % 4 * 2;
      const uint32_t low = first->transposed ? elements[c][r] : elements[r][c];
      const uint32_t high = first->transposed ? elements[c + 1][r] : elements[r][c + 1];
      static_cast<LoadMatrix*>(arguments[lane])->to[matrix] = low | high << 16;
    }
  }
}

struct Mma {
  float* d;
  const uint32_t *a, *b;
};

float bf16_low(uint32_t pair) {
  const uint32_t bits = pair << 16;
  float f;
  memcpy(&f, &bits, sizeof f);
  return f;
}
float bf16_high(uint32_t pair) { return bf16_low(pair >> 16); }

// d [16, 8] += a [16, 16] * b [16, 8], k ascending.
__attribute__((target_clones("avx2", "default"))) void multiply(float (*d)[8], const float (*a)[16],
                                                                const float (*b)[8]) {
  for (int i = 0; i < 16; i++) {
    float row[8];
    memcpy(row, d[i], sizeof row);
    for (int k = 0; k < 16; k++) {
      for (int j = 0; j < 8; j++) row[j] += a[i][k] * b[k][j];
    }
    memcpy(d[i], row, sizeof row);
  }
}

void mma_bf16_all(void* const* arguments, uint32_t) {
  float a[16][16], b[16][8], d[16][8];
  for (unsigned lane = 0; lane < WARP; lane++) {
    const auto& m = *static_cast<Mma*>(arguments[lane]);
    const int group = lane / 4, pair = lane % 4 * 2;
    for (int i = 0; i < 4; i++) {
      float* at = &a[group + i % 2 * 8][pair + i / 2 * 8];
      at[0] = bf16_low(m.a[i]);
      at[1] = bf16_high(m.a[i]);
      d[group + i / 2 * 8][pair + i % 2] = m.d[i];
    }
    for (int i = 0; i < 2; i++) {
      b[pair + i * 8][group] = bf16_low(m.b[i]);
      b[pair + i * 8 + 1][group] = bf16_high(m.b[i]);
    }
  }
  multiply(d, a, b);
  for (unsigned lane = 0; lane < WARP; lane++) {
    float* to = static_cast<Mma*>(arguments[lane])->d;
    for (int i = 0; i < 4; i++) to[i] = d[lane / 4 + i / 2 * 8][lane % 4 * 2 + i % 2];
  }
}

}  // namespace

void ldmatrix(uint32_t* to, const void* row, int matrices, bool transposed) {
  LoadMatrix argument{to, row, matrices, transposed};
  collective(~0u, load_matrices, &argument);
}

void mma_bf16(float* d, const uint32_t* a, const uint32_t* b) {
  Mma argument{d, a, b};
  collective(~0u, mma_bf16_all, &argument);
}

}  // namespace cusim
