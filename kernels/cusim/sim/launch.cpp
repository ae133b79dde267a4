// The registry of kernels, and running a launch block by block.
#include <string.h>

#include "async.h"
#include "barrier.h"
#include "collective.h"
#include "failure.h"
#include "fibre.h"
#include "global.h"
#include "hopper.h"
#include "machine.h"
#include "scheduler.h"
#include "shared.h"

namespace cusim {

namespace {

const Kernel*& kernels() {
  static const Kernel* first;
  return first;
}
uint64_t launches;

bool run_one_block(uint32_t index) {
  const dim3& grid = launch.grid;
  block_number++;
  block_in_grid = index;
  current_block = {index % grid.x, index / grid.x % grid.y, index / (grid.x * grid.y)};
  clocks_begin_block();
  barriers_begin_block();
  collectives_begin_block();
  shared_begin_block();
  global_begin_block();
  async_begin_block();
  mbarriers_begin_block();
  tma_begin_block();
  wgmma_begin_block();
  return run_block();
}

}  // namespace

void Kernel::enter() {
  next = kernels();
  kernels() = this;
}

const Kernel* first_kernel() { return kernels(); }

const Kernel* find_kernel(const char* name) {
  for (const Kernel* k = kernels(); k; k = k->next) {
    if (!strcmp(k->name, name)) return k;
  }
  return nullptr;
}

std::string run_launch(const Launch& request) {
  launch = request;
  launch.number = ++launches;
  launch.threads = launch.block.x * launch.block.y * launch.block.z;
  launch.warps = (launch.threads + WARP - 1) / WARP;
  clear_failure();
  prepare_stacks();
  seed_scheduler(options.seed * 1000003 + launch.number);
  global_begin_launch();
  // Thread blocks in a random rotation, forwards or backwards: their order means nothing.
  const uint32_t blocks = launch.grid.x * launch.grid.y * launch.grid.z;
  const uint32_t start = random_bits() % blocks;
  const bool backwards = random_bits() % 2;
  for (uint32_t i = 0; i < blocks; i++) {
    const uint32_t index = (i + start) % blocks;
    if (!run_one_block(backwards ? blocks - 1 - index : index)) return failure_text();
  }
  return "";
}

uint3 thread_index() { return current->index; }
uint3 block_index() { return current_block; }
uint3 block_dim() { return {launch.block.x, launch.block.y, launch.block.z}; }
uint3 grid_dim() { return {launch.grid.x, launch.grid.y, launch.grid.z}; }
int lane() { return static_cast<int>(current->lane); }

void wait_for_previous_kernel() { global_previous_ended(); }

}  // namespace cusim
