// Fibres: switching between the stacks of CUDA threads without the operating system.
#pragma once
#include "machine.h"

namespace cusim {

// Reserves the stacks at the first call.
void prepare_stacks();
// Makes `fibre` start in `entry` (which must not return) at its first switch.
void prepare_fibre(Fibre& fibre, void (*entry)());
// From the scheduler's own stack into a thread, until some thread calls leave_fibres.
void enter_fibres(Fibre& first);
// From one thread to another.
void switch_to(Fibre& next);
// From a thread back to enter_fibres; the thread never goes on.
[[noreturn]] void leave_fibres();
// Whether `p` lies on the stack of any thread.
bool in_stacks(const char* p);

}  // namespace cusim
