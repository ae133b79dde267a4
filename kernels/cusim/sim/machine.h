// The state that the parts of the simulator share: options, the running launch, thread block and threads.
// One launch runs at a time (the driver holds a lock), and in it one thread block and one thread.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <string>

#include "cusim/runtime.h"

namespace cusim {

constexpr unsigned WARP = 32;
constexpr unsigned MAX_WARPS = 32;
constexpr unsigned MAX_THREADS = WARP * MAX_WARPS;

struct Options {
  uint64_t seed = 0;
  bool check = true;
  int capability = 80;  // 10 * major + minor
};
extern Options options;

enum class State : uint8_t { Ready, Blocked, Done };

// A CUDA thread: a stack of its own, and where it stands.
struct Fibre {
  void* stack_pointer;
  char* stack_low;
  char* stack_high;
  uint3 index;
  uint32_t number;  // linear index in the thread block
  uint32_t lane, warp;
  State state;
  bool fenced;  // has executed __threadfence
  uint32_t proxy_fence;  // the serial number of its last fence_async_proxy, 0 = none
  struct {
    const char* what;  // while blocked: the operation it waits in
    const char* file;
    int line;
  } waits;
  // Vector clock (clock.h).
  uint32_t clock;
  uint64_t clock_epoch, row_epoch;
};

struct Launch {
  const Kernel* kernel = nullptr;
  void* const* arguments = nullptr;
  dim3 grid, block;
  uint32_t dynamic_shared = 0;  // bytes
  uint32_t shared_limit = 0;    // bytes of static and dynamic shared memory together
  bool overlaps_previous = false;  // launched with programmatic stream serialization
  uint64_t previous = 0;           // the number of the launch before it in its stream
  // Filled by run_launch.
  uint64_t number = 0;
  unsigned threads = 0, warps = 0;
};

extern Launch launch;
extern Fibre fibres[MAX_THREADS];
extern Fibre* current;         // null while no CUDA thread runs
extern uint3 current_block;
extern uint32_t block_in_grid;  // linear
extern uint64_t block_number;   // counts thread blocks over all launches; never 0 while one runs
extern const void* access_site;  // return address of the checked access under way

// Runs every thread block; returns the text of the first error, empty when there is none.
std::string run_launch(const Launch& request);

}  // namespace cusim
