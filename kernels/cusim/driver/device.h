// The device: what the environment chose, what it can do, and whether its context is usable.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "driver.h"

namespace driver {

// What CUSIM_* in the environment choose; read by cuInit.
struct Settings {
  bool initialized = false;
  int devices = 1;
  int driver_version = 13000;
  size_t memory = size_t{2} << 30;
  size_t memory_taken = 0;   // bytes of it that another process has
  uint64_t fail_launch = 0;  // the launch (from 1) that fails, 0 = none
};
extern Settings settings;

int capability();                 // 10 * major + minor
uint32_t max_shared_per_block();  // with cuFuncSetAttribute
Result context_error();           // sticky, or missing context or initialization

}  // namespace driver
