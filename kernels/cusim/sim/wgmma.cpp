// wgmma: products that run between issue and wait. Operands in shared memory are checked at the issue and read at the
// wait; the accumulators hold NaN in between.
#include <string.h>

#include <vector>

#include "checks.h"
#include "hopper.h"
#include "scheduler.h"

namespace cusim {

namespace {

constexpr int THREADS = 128;
constexpr int K = 16;
constexpr uint32_t POISON = 0xff80cafe;  // a signalling NaN: any arithmetic makes it quiet, which shows

struct Product {
  int registers;  // accumulators per thread: 2 * registers columns
  uint64_t a, b;
  bool a_in_registers, b_by_rows, accumulate;
  int group;
  float* d[THREADS];
  uint32_t a_registers[THREADS][4];
};
struct Warpgroup {
  unsigned arrived = 0;
  const char* operation = nullptr;
  const void* arguments[THREADS];
  bool fenced = false;
  int open_group = 0;
  std::vector<Product> products;
  // The values of accumulators under way, by thread 0's pointer to them.
  std::vector<std::pair<float*, std::vector<float>>> values;
};
Warpgroup warpgroups[MAX_THREADS / THREADS];

// The warpgroup's threads meet; true for the last of them, which then calls `go_on`.
bool meet(Warpgroup& group, const char* operation, const void* argument) {
  require_hopper("wgmma");
  if (options.capability != 90) fail("UNSUPPORTED: wgmma exists on compute capability 9.0 only");
  const unsigned first = current->number / THREADS * THREADS;
  if (first + THREADS > launch.threads) fail("INVALID: wgmma by an incomplete warpgroup");
  if (group.arrived && group.operation != operation) {
    fail("DIVERGENCE: threads of one warpgroup wait in %s and %s", group.operation, operation);
  }
  group.operation = operation;
  group.arguments[current->number - first] = argument;
  if (++group.arrived == THREADS) return true;
  block_thread(operation);
  return false;
}

void go_on(Warpgroup& group) {
  group.arrived = 0;
  const unsigned first = current->number / THREADS * THREADS;
  for (unsigned t = first; t < first + THREADS; t++) {
    if (t != current->number) make_ready(fibres[t]);
  }
}

Warpgroup& my_group() { return warpgroups[current->number / THREADS]; }
Fibre& any_warps_first_lane() {
  return fibres[current->number / THREADS * THREADS + random_bits() % 4 * WARP];
}

// ---- operands in shared memory ----------------------------------------------------------------------------------
// The address of elements [8 * chunk, 8 * chunk + 8) of a row, K contiguous.
uint32_t chunk_address(uint64_t descriptor, int row, int chunk) {
  static constexpr uint32_t WIDTHS[] = {0, 128, 64, 32};
  const uint32_t width = WIDTHS[descriptor >> 62];
  const uint32_t start = (descriptor & 0x3fff) << 4, k_step = (descriptor >> 16 & 0x3fff) << 4;
  const uint32_t row_step = (descriptor >> 32 & 0x3fff) << 4;
  if (width == 0) return start + row / 8 * row_step + row % 8 * 16 + chunk * k_step;
  return swizzled(start + row / 8 * row_step + row % 8 * width + chunk * 16, width);
}

template <class Visit>
void for_chunks(uint64_t descriptor, int rows, Visit visit) {
  for (int row = 0; row < rows; row++) {
    for (int chunk = 0; chunk < 2; chunk++) {
      visit(row, chunk, shared_pointer(chunk_address(descriptor, row, chunk), 16));
    }
  }
}

float bf16_value(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float f;
  memcpy(&f, &wide, sizeof f);
  return f;
}

// Likewise for B with N contiguous: elements [8 * chunk, 8 * chunk + 8) of row k, in panels of 64 columns.
template <class Visit>
void for_chunks_by_rows(uint64_t descriptor, int columns, Visit visit) {
  if (descriptor >> 62 != 1) fail("UNSUPPORTED: N contiguous in wgmma's B without the swizzle of 128 bytes");
  const uint32_t start = (descriptor & 0x3fff) << 4, panel_step = (descriptor >> 16 & 0x3fff) << 4;
  const uint32_t row_step = (descriptor >> 32 & 0x3fff) << 4;  // of eight rows
  for (int k = 0; k < K; k++) {
    for (int chunk = 0; chunk < columns / 8; chunk++) {
      const uint32_t row = start + chunk / 8 * panel_step + k / 8 * row_step + k % 8 * 128;
      visit(k, chunk, shared_pointer(swizzled(row + chunk % 8 * 16, 128), 16));
    }
  }
}

void check_operand(uint64_t descriptor, int rows, bool by_rows) {
  if (descriptor >> 49 & 7) fail("UNSUPPORTED: wgmma descriptors with a base offset");
  if (!options.check) return;
  Fibre& f = any_warps_first_lane();
  const auto check = [&](int, int, const char* p) { shared_wgmma_check(p, 16, f); };
  by_rows ? for_chunks_by_rows(descriptor, rows, check) : for_chunks(descriptor, rows, check);
}

void load_operand(uint64_t descriptor, int rows, float (*to)[K]) {
  Fibre& f = any_warps_first_lane();
  for_chunks(descriptor, rows, [&](int row, int chunk, const char* p) {
    if (options.check) shared_wgmma_record(p, 16, f);
    uint16_t bits[8];
    memcpy(bits, p, sizeof bits);
    for (int i = 0; i < 8; i++) to[row][8 * chunk + i] = bf16_value(bits[i]);
  });
}

void load_b_by_rows(uint64_t descriptor, int columns, float (*to)[256]) {
  Fibre& f = any_warps_first_lane();
  for_chunks_by_rows(descriptor, columns, [&](int k, int chunk, const char* p) {
    if (options.check) shared_wgmma_record(p, 16, f);
    uint16_t bits[8];
    memcpy(bits, p, sizeof bits);
    for (int i = 0; i < 8; i++) to[k][8 * chunk + i] = bf16_value(bits[i]);
  });
}

void load_a_registers(const Product& p, float (*to)[K]) {
  for (int t = 0; t < THREADS; t++) {
    const int row = 16 * (t / 32) + t % 32 / 4, pair = t % 4 * 2;
    for (int i = 0; i < 4; i++) {
      float* at = &to[row + i % 2 * 8][pair + i / 2 * 8];
      at[0] = bf16_value(p.a_registers[t][i] & 0xffff);
      at[1] = bf16_value(p.a_registers[t][i] >> 16);
    }
  }
}

// ---- issue ------------------------------------------------------------------------------------------------------
struct Issue {
  float* d;
  int registers;
  uint64_t a, b;
  const uint32_t* a_registers;
  bool b_by_rows, accumulate;
};

// Takes the accumulators' values, unless an earlier product has them, and poisons the registers.
void take_values(Warpgroup& group, const Product& p) {
  for (const auto& [d, values] : group.values) {
    if (d == p.d[0]) return;
  }
  std::vector<float> values(THREADS * p.registers);
  for (int t = 0; t < THREADS; t++) {
    memcpy(&values[t * p.registers], p.d[t], p.registers * sizeof(float));
    for (int i = 0; i < p.registers; i++) memcpy(&p.d[t][i], &POISON, sizeof POISON);
  }
  group.values.emplace_back(p.d[0], std::move(values));
}

void issue(Warpgroup& group) {
  const Issue& first = *static_cast<const Issue*>(group.arguments[0]);
  if (!group.fenced) fail("INVALID: wgmma without a wgmma_fence before it");
  Product p{first.registers,
            first.a,
            first.b,
            first.a_registers != nullptr,
            first.b_by_rows,
            first.accumulate,
            group.open_group,
            {},
            {}};
  for (int t = 0; t < THREADS; t++) {
    const Issue& mine = *static_cast<const Issue*>(group.arguments[t]);
    if (mine.a != first.a || mine.b != first.b || mine.accumulate != first.accumulate) {
      fail("DIVERGENCE: operands of wgmma differ in the warpgroup");
    }
    p.d[t] = mine.d;
    if (mine.a_registers) memcpy(p.a_registers[t], mine.a_registers, sizeof p.a_registers[t]);
  }
  if (!p.a_in_registers) check_operand(p.a, 64, false);
  check_operand(p.b, 2 * p.registers, p.b_by_rows);
  take_values(group, p);
  group.products.push_back(p);
}

// ---- completion -------------------------------------------------------------------------------------------------
__attribute__((target_clones("avx2", "default"))) void multiply(float (*d)[256], const float (*a)[K],
                                                                const float (*b)[256], int columns) {
  for (int i = 0; i < 64; i++) {
    for (int k = 0; k < K; k++) {
      for (int j = 0; j < columns; j++) d[i][j] += a[i][k] * b[k][j];
    }
  }
}

void compute(Product& p, std::vector<float>& values) {
  static float a[64][K], b[256][K], b_by_k[K][256], d[64][256];
  const int columns = 2 * p.registers;
  p.a_in_registers ? load_a_registers(p, a) : load_operand(p.a, 64, a);
  if (p.b_by_rows) {
    load_b_by_rows(p.b, columns, b_by_k);
  } else {
    load_operand(p.b, columns, b);
    for (int j = 0; j < columns; j++) {
      for (int k = 0; k < K; k++) b_by_k[k][j] = b[j][k];
    }
  }
  const auto element = [&](int t, int i) -> float& {
    return d[16 * (t / 32) + t % 32 / 4 + i / 2 % 2 * 8][i / 4 * 8 + t % 4 * 2 + i % 2];
  };
  for (int t = 0; t < THREADS; t++) {
    for (int i = 0; i < p.registers; i++) element(t, i) = p.accumulate ? values[t * p.registers + i] : 0.0f;
  }
  multiply(d, a, b_by_k, columns);
  for (int t = 0; t < THREADS; t++) {
    for (int i = 0; i < p.registers; i++) values[t * p.registers + i] = element(t, i);
  }
}

// Gives the accumulators back when no product under way uses them.
void return_values(Warpgroup& group, size_t index, const Product& p) {
  for (const Product& other : group.products) {
    if (other.d[0] == p.d[0]) return;
  }
  for (int t = 0; t < THREADS; t++) {
    for (int i = 0; i < p.registers; i++) {
      if (memcmp(&p.d[t][i], &POISON, sizeof POISON)) {
        fail("ASYNC: an accumulator of wgmma was written before wgmma_wait");
      }
    }
    memcpy(p.d[t], &group.values[index].second[t * p.registers], p.registers * sizeof(float));
  }
  group.values.erase(group.values.begin() + index);
}

void complete(Warpgroup& group, int pending) {
  while (!group.products.empty() && group.products[0].group < group.open_group - pending) {
    Product p = group.products[0];
    group.products.erase(group.products.begin());
    size_t index = 0;
    while (group.values[index].first != p.d[0]) index++;
    compute(p, group.values[index].second);
    return_values(group, index, p);
  }
  // Each warp has waited as one: what its first lane read, all have.
  const unsigned first_warp = current->number / THREADS * 4;
  for (unsigned warp = first_warp; warp < first_warp + 4; warp++) order_warp(warp);
}

}  // namespace

void wgmma_begin_block() {
  for (Warpgroup& group : warpgroups) group = Warpgroup{};
}

void wgmma_bf16(float* d, int registers, uint64_t a, const uint32_t* a_registers, uint64_t b, bool b_by_rows,
                bool accumulate) {
  const Issue argument{d, registers, a, b, a_registers, b_by_rows, accumulate};
  access_site = __builtin_return_address(0);
  Warpgroup& group = my_group();
  if (!meet(group, "wgmma_bf16", &argument)) return;
  issue(group);
  go_on(group);
}

void wgmma_fence() {
  access_site = __builtin_return_address(0);
  Warpgroup& group = my_group();
  if (!meet(group, "wgmma_fence", nullptr)) return;
  group.fenced = true;
  go_on(group);
}

void wgmma_commit() {
  access_site = __builtin_return_address(0);
  Warpgroup& group = my_group();
  if (!meet(group, "wgmma_commit", nullptr)) return;
  group.open_group++;
  go_on(group);
}

void wgmma_wait(int pending) {
  access_site = __builtin_return_address(0);
  Warpgroup& group = my_group();
  if (!meet(group, "wgmma_wait", nullptr)) return;
  complete(group, pending);
  go_on(group);
}

}  // namespace cusim
