#include "async.h"

#include <string.h>

#include <vector>

#include "checks.h"

namespace cusim {

namespace {

struct Copy {
  char* to;
  const char* from;
  int bytes;
  bool valid;
  int group;
};
// The copies of one thread.
struct CopyQueue {
  std::vector<Copy> copies;  // oldest first
  int open_group = 0;
};
CopyQueue queues[MAX_THREADS];

}  // namespace

void async_begin_block() {
  for (unsigned i = 0; i < launch.threads; i++) {
    queues[i].copies.clear();
    queues[i].open_group = 0;
  }
}

void cp_async(void* to, const void* from, int bytes, bool valid) {
  access_site = __builtin_return_address(0);
  char* target = static_cast<char*>(to);
  const char* source = static_cast<const char*>(from);
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % bytes) {
    fail("MISALIGNED: cp.async of %d bytes from %p to %p", bytes, from, to);
  }
  if (!in_shared(target)) fail("OUT OF BOUNDS: the target of cp.async, %p, is not in shared memory", to);
  if (options.check) {
    if (valid) check_access(source, bytes, Access::Read);
    shared_access(target, bytes, Access::AsyncStart, *current);
  }
  memset(target, 0xff, bytes);
  CopyQueue& queue = queues[current->number];
  queue.copies.push_back({target, source, bytes, valid, queue.open_group});
}

void cp_async_commit() { queues[current->number].open_group++; }

void cp_async_wait(int pending) {
  access_site = __builtin_return_address(0);
  CopyQueue& queue = queues[current->number];
  size_t done = 0;
  for (; done < queue.copies.size(); done++) {
    const Copy& c = queue.copies[done];
    if (c.group >= queue.open_group - pending) break;
    if (options.check) shared_access(c.to, c.bytes, Access::AsyncEnd, *current);
    if (c.valid) {
      memcpy(c.to, c.from, c.bytes);
    } else {
      memset(c.to, 0, c.bytes);
    }
  }
  queue.copies.erase(queue.copies.begin(), queue.copies.begin() + done);
}

}  // namespace cusim
