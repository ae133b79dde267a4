// Device memory: allocations, the bounds of accesses, and races between the thread blocks of one launch.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "machine.h"
#include "shared.h"

namespace cusim {

// Fresh memory is NaNs. Null when the address space kept for device memory is used up.
char* global_allocate(size_t size);
// False if `p` is not the start of an allocation.
bool global_free(void* p);
// Whether [p, p + n) lies in one allocation.
bool global_contains(const void* p, size_t n);
// Whether `p` is an address of device memory, allocated now or not.
bool in_global(const char* p);

void global_begin_launch();
void global_begin_block();
// The running block has waited for the kernel before it: what that wrote may be used.
void global_previous_ended();
// Checks an access by the running thread and records it.
void global_access(const char* p, size_t n, Access access);

}  // namespace cusim
