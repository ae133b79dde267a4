// __syncthreads and named barriers (the calls themselves are in cusim/runtime.h).
#pragma once

namespace cusim {

void barriers_begin_block();
// A thread has returned: __syncthreads waits for the others only.
void barrier_after_exit();

}  // namespace cusim
