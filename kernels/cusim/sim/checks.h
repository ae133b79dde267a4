// The one entrance of the checker.
#pragma once
#include "shared.h"

namespace cusim {

// Checks an access by the running thread to any memory but its own stack.
void check_access(const char* p, size_t n, Access access);

}  // namespace cusim
