// What a CUfunction points to.
#pragma once
#include "cusim/runtime.h"

namespace driver {

struct Function {
  const cusim::Kernel* kernel = nullptr;
  uint32_t max_dynamic_shared = 48 << 10;
};

}  // namespace driver
