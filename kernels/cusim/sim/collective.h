// Warp-wide operations and warp barriers (the calls themselves are in cusim/runtime.h).
#pragma once
#include "machine.h"

namespace cusim {

void collectives_begin_block();
// The lanes of the running thread's warp that exist in this thread block.
uint32_t existing_lanes();

}  // namespace cusim
