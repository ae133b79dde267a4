#include "shared.h"

#include <string.h>

#include <algorithm>

namespace cusim {

namespace {

// Two writes and two reads by threads that are not ordered yet are remembered for each 4 bytes: enough for the
// patterns of real kernels. A third is forgotten, so that a race may be missed, but none is invented.
struct Cell {
  Stamp writes[2], reads[2];
  uint64_t block;  // the masks below are of this thread block
  uint8_t written, pending;  // masks of bytes
  // The last plain write: a wgmma that reads it needs a fence_async_proxy in between.
  bool plain;
  uint16_t plain_thread;
  uint32_t plain_fences;  // fences so far
};
constexpr size_t CELL = 4;
constexpr size_t ARENA = 320 << 10;
constexpr size_t RED_ZONE = 128;
constexpr size_t DYNAMIC = 1024;  // where dynamic shared memory begins: address 0 is nobody's

alignas(1024) char arena[ARENA];
Cell cells[ARENA / CELL];
std::vector<SharedArray*> arrays;  // placed in the running thread block
size_t used, static_bytes;
uint32_t proxy_fences;

const char* dynamic_end() { return arena + DYNAMIC + launch.dynamic_shared; }

// The array that `p` lies in or closely behind; null for dynamic shared memory.
const SharedArray* array_at(const char* p) {
  for (const SharedArray* a : arrays) {
    if (p >= a->place && p < a->place + a->size + RED_ZONE) return a;
  }
  return nullptr;
}

void check_bounds(const char* p, size_t n, const char* verb) {
  if (p >= arena + DYNAMIC && p + n <= dynamic_end()) return;
  for (const SharedArray* a : arrays) {
    if (p >= a->place && p + n <= a->place + a->size) return;
  }
  const SharedArray* a = array_at(p);
  fail("OUT OF BOUNDS: %zu-byte %s of shared memory at %s of %zu bytes", n, verb, shared_name(p).c_str(),
       a ? a->size : static_cast<size_t>(launch.dynamic_shared));
}

void check_race(Stamp earlier, unsigned bytes, Fibre& f, const char* p, const char* verb, const char* earlier_verb) {
  if (!(stamp_bytes(earlier) & bytes) || happened_before(earlier, f)) return;
  fail("RACE: %s of shared memory at %s is not ordered after the %s by thread %u", verb, shared_name(p).c_str(),
       earlier_verb, stamp_thread(earlier));
}

void remember_write(Cell& cell, Stamp now) {
  const unsigned bytes = stamp_bytes(now);
  for (Stamp& r : cell.reads) {
    if (!(stamp_bytes(r) & ~bytes)) r = 0;  // ordered before this write, as everything later will be
  }
  Stamp* slot = &cell.writes[1];
  for (Stamp& w : cell.writes) {
    if (!(stamp_bytes(w) & ~bytes) || stamp_epoch(w) != stamp_epoch(now)) slot = &w;
  }
  *slot = now;
  for (Stamp& w : cell.writes) {
    if (&w != slot && !(stamp_bytes(w) & ~bytes)) w = 0;
  }
}

void remember_read(Cell& cell, Stamp now, Fibre& f) {
  Stamp& first = cell.reads[0];
  const bool replace = stamp_epoch(first) != stamp_epoch(now) ||
                       (stamp_thread(first) / WARP == f.warp && !(stamp_bytes(first) & ~stamp_bytes(now)));
  (replace ? first : cell.reads[1]) = now;
}

void access_cell(Cell& cell, const char* p, unsigned bytes, Access access, Stamp now, Fibre& f) {
  const bool writes = access != Access::Read;
  const char* verb = access == Access::Read ? "read" : access == Access::Atomic ? "atomic" : "write";
  if (cell.block != block_number) {
    cell.block = block_number;
    cell.written = cell.pending = 0;
    cell.plain = false;
  }
  if (cell.pending & bytes) {
    fail("ASYNC: %s of shared memory at %s, the target of an asynchronous copy that was not waited for", verb,
         shared_name(p).c_str());
  }
  for (const Stamp w : cell.writes) {
    if (access == Access::Atomic && (w & STAMP_ATOMIC)) continue;
    check_race(w, bytes, f, p, verb, "write");
  }
  if (!writes || access == Access::Atomic) {
    if (bytes & ~cell.written) {
      fail("UNINITIALISED: %s of shared memory at %s, never written in this thread block", verb,
           shared_name(p).c_str());
    }
  }
  if (!writes) return remember_read(cell, now | bytes, f);
  for (const Stamp r : cell.reads) check_race(r, bytes, f, p, verb, "read");
  cell.written |= bytes;
  cell.plain = true;
  cell.plain_thread = static_cast<uint16_t>(f.number);
  cell.plain_fences = proxy_fences;
  if (access == Access::AsyncStart) cell.pending |= bytes;
  remember_write(cell, now | bytes | (access == Access::Atomic ? STAMP_ATOMIC : 0));
}

// Calls `visit` for every cell that [p, p + n) touches, with the mask of its bytes.
template <class Visit>
void for_cells(const char* p, size_t n, Visit visit) {
  size_t at = p - arena;
  for (const size_t end = at + n; at < end;) {
    const size_t in_cell = at % CELL, take = std::min(CELL - in_cell, end - at);
    visit(cells[at / CELL], arena + at, ((1u << take) - 1) << in_cell);
    at += take;
  }
}

}  // namespace

void shared_begin_block() {
  // NaNs for f32, bf16 and f16 alike.
  memset(arena + DYNAMIC, 0xff, launch.dynamic_shared);
  arrays.clear();
  used = DYNAMIC + launch.dynamic_shared + RED_ZONE;
  static_bytes = 0;
}

bool in_shared(const char* p) { return p >= arena && p < arena + ARENA; }

void* shared_array(SharedArray& array) {
  if (array.placed_in == block_number) return array.place;
  // On 16 bytes and no more, as nvcc promises.
  const size_t at = (used + 31) / 32 * 32 + 16;
  static_bytes += array.size;
  if (static_bytes + launch.dynamic_shared > launch.shared_limit || at + array.size + RED_ZONE > ARENA) {
    fail("INVALID: %zu bytes of static and %u of dynamic shared memory, more than the %u of this launch",
         static_bytes, launch.dynamic_shared, launch.shared_limit);
  }
  array.place = arena + at;
  array.placed_in = block_number;
  used = at + array.size + RED_ZONE;
  memset(array.place, 0xff, array.size);
  arrays.push_back(&array);
  return array.place;
}

void* dynamic_shared() { return arena + DYNAMIC; }

uint32_t shared_address(const void* shared) {
  const char* p = static_cast<const char*>(shared);
  if (!in_shared(p)) {
    access_site = __builtin_return_address(0);
    fail("OUT OF BOUNDS: %p is not in shared memory", shared);
  }
  return static_cast<uint32_t>(p - arena);
}

char* shared_pointer(uint32_t address, size_t size) {
  check_bounds(arena + std::min<size_t>(address, ARENA), size, "access");
  return arena + address;
}

std::string shared_name(const char* p) {
  const SharedArray* a = array_at(p);
  const char* name = a ? a->name : "dynamic shared memory";
  const char* start = a ? a->place : arena + DYNAMIC;
  return std::string(name) + "+" + std::to_string(p - start);
}

void shared_access(const char* p, size_t n, Access access, Fibre& f) {
  check_bounds(p, n, access == Access::Read ? "read" : "write");
  const Stamp now = stamp_of(f);
  for_cells(p, n, [&](Cell& cell, const char* at, unsigned bytes) {
    if (access == Access::AsyncEnd) cell.pending &= ~bytes;
    access_cell(cell, at, bytes, access, now, f);
  });
}

void shared_tma_end(const char* p, size_t n, Stamp stamp) {
  for_cells(p, n, [&](Cell& cell, const char*, unsigned bytes) {
    cell.pending &= ~bytes;
    cell.plain = false;
    cell.writes[0] = stamp | bytes;
    cell.writes[1] = 0;
  });
}

void shared_wgmma_check(const char* p, size_t n, Fibre& f) {
  check_bounds(p, n, "wgmma read");
  for_cells(p, n, [&](Cell& cell, const char* at, unsigned bytes) {
    if (cell.block == block_number && cell.plain && !(cell.pending & bytes) &&
        std::max(fibres[cell.plain_thread].proxy_fence, f.proxy_fence) <= cell.plain_fences) {
      fail("PROXY: wgmma reads shared memory at %s, written by thread %u without a fence_async_proxy after it",
           shared_name(at).c_str(), cell.plain_thread);
    }
    const Cell before = cell;
    access_cell(cell, at, bytes, Access::Read, stamp_of(f), f);
    if (cell.block == before.block) cell = before;
  });
}

void shared_wgmma_record(const char* p, size_t n, Fibre& f) {
  for_cells(p, n, [&](Cell& cell, const char*, unsigned bytes) { remember_read(cell, stamp_of(f) | bytes, f); });
}

void shared_fence_proxy() { current->proxy_fence = ++proxy_fences; }

}  // namespace cusim
