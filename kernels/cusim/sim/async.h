// Asynchronous copies: as late as possible. Targets are poisoned at the start and filled when they are waited for.
#pragma once

namespace cusim {

void async_begin_block();
// Lets the copy hardware finish one transfer that needs no thread (TMA); false if there is none.
bool complete_a_transfer();

}  // namespace cusim
