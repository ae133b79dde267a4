// Initialization, the device's properties, the primary context.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>

#include "device.h"
#include "machine.h"

namespace driver {

Settings settings;

namespace {

thread_local void* current_context;
int primary_context;  // only its address means something

uint64_t number_from(const char* variable, uint64_t otherwise) {
  const char* text = getenv(variable);
  if (!text || !*text) return otherwise;
  char* end;
  const uint64_t value = strtoull(text, &end, 0);
  if (!*end) return value;
  fprintf(stderr, "cusim: %s=%s is not a number; taken as %llu\n", variable, text,
          static_cast<unsigned long long>(otherwise));
  return otherwise;
}

// "8.0" as 80.
int capability_from(const char* variable, int otherwise) {
  const char* text = getenv(variable);
  if (!text || !*text) return otherwise;
  int major, minor;
  if (sscanf(text, "%d.%d", &major, &minor) == 2) return 10 * major + minor;
  fprintf(stderr, "cusim: %s=%s is not major.minor; taken as %d.%d\n", variable, text, otherwise / 10, otherwise % 10);
  return otherwise;
}

struct Attribute {
  int id, value;
};
// By the numbers of CUdevice_attribute; the figures are those of a small device, where they mean anything here.
const Attribute ATTRIBUTES[] = {
    {1, 1024},         // max threads per block
    {2, 1024},         // max block dim x, y, z
    {3, 1024},
    {4, 64},
    {5, 2147483647},   // max grid dim x, y, z
    {6, 65535},
    {7, 65535},
    {8, 48 << 10},     // max shared memory per block
    {9, 64 << 10},     // total constant memory
    {10, 32},          // warp size
    {12, 65536},       // max registers per block
    {13, 1000000},     // clock rate, kHz
    {16, 4},           // multiprocessors
    {18, 0},           // integrated
    {19, 1},           // can map host memory
    {20, 0},           // compute mode: default
    {31, 1},           // concurrent kernels
    {32, 0},           // ECC
    {33, 0},           // PCI bus, device
    {34, 0},
    {36, 1000000},     // memory clock rate, kHz
    {37, 256},         // memory bus width, bits
    {38, 4 << 20},     // L2 cache, bytes
    {39, 2048},        // max threads per multiprocessor
    {40, 1},           // asynchronous engines
    {41, 1},           // unified addressing
    {50, 0},           // PCI domain
    {82, 65536},       // max registers per multiprocessor
    {83, 0},           // managed memory
    {95, 0},           // cooperative launch
    {115, 1},          // memory pools
};

}  // namespace

int capability() { return cusim::options.capability; }

uint32_t max_shared_per_block() {
  switch (capability()) {
    case 75: return 64 << 10;
    case 80: case 87: return 163 << 10;
    case 90: case 100: case 103: return 227 << 10;
    default: return 99 << 10;  // 8.6, 8.9, 12.x
  }
}

Result context_error() {
  if (!settings.initialized) return NOT_INITIALIZED;
  if (sticky_error) return sticky_error;
  return current_context ? SUCCESS : INVALID_CONTEXT;
}

}  // namespace driver

using namespace driver;

API cuInit(unsigned flags) {
  Lock lock(mutex);
  if (flags) return INVALID_VALUE;
  if (const auto failed = static_cast<Result>(number_from("CUSIM_INIT_RESULT", SUCCESS))) return failed;
  settings.devices = static_cast<int>(number_from("CUSIM_DEVICES", 1));
  if (settings.devices == 0) return NO_DEVICE;
  if (settings.initialized) return SUCCESS;
  settings.driver_version = static_cast<int>(number_from("CUSIM_DRIVER", settings.driver_version));
  settings.memory = number_from("CUSIM_MEMORY", settings.memory);
  settings.memory_taken = std::min<size_t>(number_from("CUSIM_MEMORY_TAKEN", 0), settings.memory);
  settings.fail_launch = number_from("CUSIM_FAIL_LAUNCH", 0);
  cusim::options.seed = number_from("CUSIM_SEED", 0);
  cusim::options.check = number_from("CUSIM_CHECK", 1) != 0;
  cusim::options.capability = capability_from("CUSIM_CAPABILITY", 80);
  settings.initialized = true;
  return SUCCESS;
}

// The seed of the launches from now on.
extern "C" __attribute__((visibility("default"))) void cusim_set_seed(uint64_t seed) {
  Lock lock(mutex);
  cusim::options.seed = seed;
}

API cuDriverGetVersion(int* version) {
  *version = static_cast<int>(number_from("CUSIM_DRIVER", settings.driver_version));
  return SUCCESS;
}

API cuDeviceGetCount(int* count) {
  if (!settings.initialized) return NOT_INITIALIZED;
  *count = settings.devices;
  return SUCCESS;
}

API cuDeviceGet(int* device, int ordinal) {
  if (!settings.initialized) return NOT_INITIALIZED;
  if (ordinal < 0 || ordinal >= settings.devices) return INVALID_DEVICE;
  *device = ordinal;
  return SUCCESS;
}

API cuDeviceGetName(char* name, int size, int) {
  snprintf(name, size, "cusim (simulated CUDA device)");
  return SUCCESS;
}

API cuDeviceGetUuid_v2(char* uuid, int device) {
  memset(uuid, 0, 16);
  memcpy(uuid, "cusim", 5);
  uuid[15] = static_cast<char>(device);
  return SUCCESS;
}

API cuDeviceTotalMem_v2(size_t* bytes, int) {
  *bytes = settings.memory;
  return SUCCESS;
}

API cuDeviceGetAttribute(int* value, int id, int device) {
  if (!settings.initialized) return NOT_INITIALIZED;
  if (device < 0 || device >= settings.devices) return INVALID_DEVICE;
  const int shared = static_cast<int>(max_shared_per_block());
  switch (id) {
    case 75: *value = capability() / 10; return SUCCESS;
    case 76: *value = capability() % 10; return SUCCESS;
    case 81: *value = shared + 1024; return SUCCESS;  // shared memory per multiprocessor
    case 97: *value = shared; return SUCCESS;         // shared memory per block, opt-in
  }
  for (const Attribute& a : ATTRIBUTES) {
    if (a.id != id) continue;
    *value = a.value;
    return SUCCESS;
  }
  return INVALID_VALUE;
}

API cuDevicePrimaryCtxRetain(void** context, int device) {
  if (!settings.initialized) return NOT_INITIALIZED;
  if (device < 0 || device >= settings.devices) return INVALID_DEVICE;
  *context = &primary_context;
  return SUCCESS;
}
API cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API cuCtxSetCurrent(void* context) {
  if (!settings.initialized) return NOT_INITIALIZED;
  if (context && context != &primary_context) return INVALID_CONTEXT;
  current_context = context;
  return SUCCESS;
}
API cuCtxGetCurrent(void** context) {
  *context = current_context;
  return SUCCESS;
}
API cuCtxGetStreamPriorityRange(int* least, int* greatest) {
  if (least) *least = 0;
  if (greatest) *greatest = 0;
  return SUCCESS;
}
