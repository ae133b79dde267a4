// Shared memory of the running thread block, and its shadow: what the checker knows of every 4 bytes.
#pragma once
#include "clock.h"

namespace cusim {

enum class Access {
  Read,
  Write,
  Atomic,
  AsyncStart,  // the target of an asynchronous copy: nobody may touch it until the copy is waited for
  AsyncEnd,
};

void shared_begin_block();

bool in_shared(const char* p);
// Checks an access by `f` and records it.
void shared_access(const char* p, size_t n, Access access, Fibre& f);
// The end of an asynchronous copy by TMA, on behalf of the thread of `stamp`.
void shared_tma_end(const char* p, size_t n, Stamp stamp);
// The operands of wgmma: checked for `f` when the product is issued, recorded as read when it is waited for.
void shared_wgmma_check(const char* p, size_t n, Fibre& f);
void shared_wgmma_record(const char* p, size_t n, Fibre& f);
// The running thread's fence between its plain writes and the asynchronous readers.
void shared_fence_proxy();
// "tile+24"
std::string shared_name(const char* p);

// Pointers from the addresses of PTX; fails outside of shared memory.
char* shared_pointer(uint32_t address, size_t size);

}  // namespace cusim
