// Launching kernels.
#include <stdio.h>
#include <string.h>

#include <memory>

#include "device.h"
#include "failure.h"
#include "function.h"
#include "launch_count.h"
#include "machine.h"
#include "stream.h"

namespace driver {

namespace {

uint64_t launches_run;

// A launch with its own copy of the parameters.
struct Prepared {
  cusim::Launch launch;
  std::vector<std::string> parameters;
};

Result refuse_launch(const Function& f, const dim3& grid, const dim3& block, uint32_t shared) {
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (!grid.x || !grid.y || !grid.z || grid.x > 2147483647u || grid.y > 65535 || grid.z > 65535) return INVALID_VALUE;
  if (threads == 0 || threads > cusim::MAX_THREADS || block.z > 64) return INVALID_VALUE;
  if (uint64_t{grid.x} * grid.y * grid.z > UINT32_MAX) return NOT_SUPPORTED;
  return shared > f.max_dynamic_shared ? INVALID_VALUE : SUCCESS;
}

// The code that the hardware would give for what the checker found.
Result code_of(const std::string& text) {
  if (text.find("OUT OF BOUNDS") != std::string::npos) return ILLEGAL_ADDRESS;
  if (text.find("MISALIGNED") != std::string::npos) return MISALIGNED_ADDRESS;
  return LAUNCH_FAILED;
}

Result run(const Prepared& prepared, Stream& stream) {
  std::vector<void*> arguments;
  for (const std::string& p : prepared.parameters) arguments.push_back(const_cast<char*>(p.data()));
  cusim::Launch launch = prepared.launch;
  launch.arguments = arguments.data();
  launch.previous = stream.last_launch;
  std::string error;
  if (++launches_run == settings.fail_launch) {
    error = std::string(launch.kernel->name) + ": INJECTED: this launch fails by CUSIM_FAIL_LAUNCH";
  } else {
    error = cusim::run_launch(launch);
  }
  stream.last_launch = cusim::launch.number;
  if (error.empty()) {
    count_launch(launch.kernel->name);
    return SUCCESS;
  }
  last_error = error;
  fprintf(stderr, "cusim: %s\n", error.c_str());
  return code_of(error);
}

Result launch_kernel(Function* f, dim3 grid, dim3 block, uint32_t shared, void* stream_handle, void** parameters,
                     bool overlaps_previous) {
  if (Result error = refuse_launch(*f, grid, block, shared)) return error;
  auto prepared = std::make_shared<Prepared>();
  prepared->launch.kernel = f->kernel;
  prepared->launch.grid = grid;
  prepared->launch.block = block;
  prepared->launch.dynamic_shared = shared;
  prepared->launch.shared_limit = max_shared_per_block();
  prepared->launch.overlaps_previous = overlaps_previous;
  for (size_t i = 0; i < f->kernel->parameters; i++) {
    prepared->parameters.emplace_back(static_cast<const char*>(parameters[i]), f->kernel->sizes[i]);
  }
  return enqueue(stream_of(stream_handle), [=](Stream& stream) { return run(*prepared, stream); });
}

// As in the driver's header.
struct LaunchAttribute {
  int id;
  char padding[4];
  union {
    int on;
    struct {
      unsigned x, y, z;
    } cluster;
    char size[64];
  };
};
struct LaunchConfig {
  unsigned grid_x, grid_y, grid_z, block_x, block_y, block_z, shared_bytes;
  void* stream;
  const LaunchAttribute* attributes;
  unsigned attribute_count;
};
enum : int { IGNORE = 0, CLUSTER_DIMENSION = 4, PROGRAMMATIC_STREAM_SERIALIZATION = 6, PRIORITY = 8 };

}  // namespace
}  // namespace driver

using namespace driver;

API cuLaunchKernel(void* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                   unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** parameters,
                   void** extra) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  if (!function) return INVALID_HANDLE;
  if (extra) return NOT_SUPPORTED;  // packed parameters
  return launch_kernel(static_cast<Function*>(function), dim3(grid_x, grid_y, grid_z),
                       dim3(block_x, block_y, block_z), shared, stream, parameters, false);
}

API cuLaunchKernelEx(const LaunchConfig* config, void* function, void** parameters, void** extra) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  if (!function) return INVALID_HANDLE;
  if (extra) return NOT_SUPPORTED;
  bool overlaps = false;
  for (unsigned i = 0; i < config->attribute_count; i++) {
    const LaunchAttribute& a = config->attributes[i];
    if (a.id == IGNORE || a.id == PRIORITY) continue;
    if (a.id == CLUSTER_DIMENSION && a.cluster.x == 1 && a.cluster.y == 1 && a.cluster.z == 1) continue;
    if (a.id != PROGRAMMATIC_STREAM_SERIALIZATION || (a.on && capability() < 90)) return NOT_SUPPORTED;
    overlaps |= a.on != 0;
  }
  return launch_kernel(static_cast<Function*>(function), dim3(config->grid_x, config->grid_y, config->grid_z),
                       dim3(config->block_x, config->block_y, config->block_z), config->shared_bytes,
                       config->stream, parameters, overlaps);
}
