// Asynchronous copies: as late as possible. Targets are poisoned at the start and filled when they are waited for.
#pragma once

namespace cusim {

void async_begin_block();

}  // namespace cusim
