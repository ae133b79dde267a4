// Modules and functions: names looked up in the registry of kernels.
#include <string.h>

#include <map>

#include "device.h"
#include "failure.h"
#include "function.h"

namespace driver {

namespace {

constexpr uint32_t FATBIN_MAGIC = 0xBA55ED50;

// Which kernels a module holds: those of one .cu file, or any (a real fatbin, whose contents are not read).
struct Module {
  std::string file;
  bool holds(const cusim::Kernel& kernel) const { return file.empty() || file == cusim::base_name(kernel.file); }
};

bool is_known_file(const std::string& name) {
  bool known = false;
  cusim::for_each_kernel([&](const cusim::Kernel& k) { known |= name == cusim::base_name(k.file); });
  return known;
}

// The image as the name of a .cu file; empty if it is none.
std::string file_name(const void* image) {
  const char* text = static_cast<const char*>(image);
  const size_t length = strnlen(text, 256);
  const std::string name(text, length);
  return length > 3 && length < 256 && name.compare(length - 3, 3, ".cu") == 0 ? name : "";
}

std::map<const cusim::Kernel*, Function> functions;

}  // namespace
}  // namespace driver

using namespace driver;

API cuModuleLoadData(void** module, const void* image) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  if (!image) return INVALID_VALUE;
  uint32_t magic;
  memcpy(&magic, image, sizeof magic);
  if (magic == FATBIN_MAGIC) {
    *module = new Module;
    return SUCCESS;
  }
  const std::string name = file_name(image);
  if (!is_known_file(name)) return INVALID_IMAGE;
  *module = new Module{name};
  return SUCCESS;
}

API cuModuleUnload(void* module) {
  delete static_cast<Module*>(module);
  return SUCCESS;
}

API cuModuleGetFunction(void** function, void* module, const char* name) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  const cusim::Kernel* kernel = cusim::find_kernel(name);
  if (!kernel || !static_cast<Module*>(module)->holds(*kernel)) return NOT_FOUND;
  Function& f = functions[kernel];
  f.kernel = kernel;
  *function = &f;
  return SUCCESS;
}

API cuFuncSetAttribute(void* function, int attribute, int value) {
  Lock lock(mutex);
  if (attribute == 9) return value >= -1 && value <= 100 ? SUCCESS : INVALID_VALUE;  // carveout: a hint
  if (attribute != 8) return INVALID_VALUE;
  if (value < 0 || static_cast<uint32_t>(value) > max_shared_per_block()) return INVALID_VALUE;
  static_cast<Function*>(function)->max_dynamic_shared = static_cast<uint32_t>(value);
  return SUCCESS;
}

API cuFuncGetAttribute(int* value, int attribute, void* function) {
  Lock lock(mutex);
  switch (attribute) {
    case 0: *value = 1024; return SUCCESS;  // max threads per block
    case 8: *value = static_cast<int>(static_cast<Function*>(function)->max_dynamic_shared); return SUCCESS;
    default: return INVALID_VALUE;
  }
}

API cuFuncGetParamInfo(void* function, size_t index, size_t* offset, size_t* size) {
  const cusim::Kernel& kernel = *static_cast<Function*>(function)->kernel;
  if (index >= kernel.parameters) return INVALID_VALUE;
  size_t at = 0;
  for (size_t i = 0;; i++) {
    at = (at + kernel.alignments[i] - 1) / kernel.alignments[i] * kernel.alignments[i];
    if (i == index) break;
    at += kernel.sizes[i];
  }
  *offset = at;
  if (size) *size = kernel.sizes[index];
  return SUCCESS;
}
