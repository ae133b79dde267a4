#include "global.h"

#include <string.h>
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <unordered_map>
#include <unordered_set>
#include <vector>

namespace cusim {

namespace {

// Addresses are never used twice, so that every use after free is seen; pages return to the system.
constexpr size_t SPACE = size_t{1} << 40;
constexpr size_t ALIGNMENT = 512;
constexpr size_t RED_ZONE = 512;
constexpr size_t PAGE = 4096;
char* space;
size_t space_used;

struct Allocation {
  char *low, *high;
};
std::map<const char*, Allocation> allocations;  // by start
Allocation recent[256];                         // by page number: found again without a search

// The shadow of 16 bytes: two writes and two reads of this launch, by the thread block that made them. As for
// shared memory, a third is forgotten. Stamp: launch (23 bits), atomic, thread block (24 bits), mask of bytes (16).
using BlockStamp = uint64_t;
constexpr int BLOCK_SHIFT = 16, ATOMIC_SHIFT = 40, LAUNCH_SHIFT = 41;
constexpr uint32_t BLOCK_MASK = (1u << 24) - 1, LAUNCH_MASK = (1u << 23) - 1;
constexpr size_t CELL = 16;
struct Cell {
  BlockStamp writes[2], reads[2];
};
Cell* cells;
BlockStamp stamp_of_block;  // launch and thread block of now, without bytes
// The launch before in the stream while the running block may overlap it, else a number that no stamp has.
uint64_t overlapped;
constexpr uint64_t NONE_OVERLAPPED = ~uint64_t{0};

// Thread blocks that have released (fence, then atomic) through an address, and those the running block has
// acquired from by its own atomics: the pattern of "the last block to arrive adds up the partial results".
std::unordered_map<const void*, std::unordered_set<uint32_t>> released;
std::unordered_set<uint32_t> acquired;

void* reserve(size_t bytes, int protection) {
  void* map = mmap(nullptr, bytes, protection, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  return map == MAP_FAILED ? nullptr : map;
}

const Allocation* find_allocation(const char* p, size_t n) {
  Allocation& cached = recent[reinterpret_cast<uintptr_t>(p) / PAGE % 256];
  if (p >= cached.low && p + n <= cached.high) return &cached;
  auto after = allocations.upper_bound(p);
  if (after == allocations.begin()) return nullptr;
  const Allocation& a = std::prev(after)->second;
  if (p + n > a.high) return nullptr;
  return &(cached = a);
}

[[noreturn]] void report_out_of_bounds(const char* p, size_t n, const char* verb) {
  auto after = allocations.upper_bound(p);
  if (after != allocations.begin()) {
    const Allocation& a = std::prev(after)->second;
    if (p < a.high + (1 << 20)) {
      fail("OUT OF BOUNDS: %zu-byte %s of device memory at %p, %zd bytes from the start of %zu allocated bytes", n,
           verb, p, p - a.low, a.high - a.low);
    }
  }
  fail("OUT OF BOUNDS: %zu-byte %s of device memory at %p, which is not allocated (any more)", n, verb, p);
}

void check_race(BlockStamp earlier, BlockStamp now, const char* p, const char* verb, const char* earlier_verb) {
  if (!(earlier & now & 0xffff)) return;
  if (earlier >> LAUNCH_SHIFT == overlapped) {
    fail("RACE: %s of device memory at %p meets the %s by the kernel before, which wait_for_previous_kernel has not "
         "waited for", verb, p, earlier_verb);
  }
  if ((earlier ^ now) >> LAUNCH_SHIFT) return;
  const uint32_t block = earlier >> BLOCK_SHIFT & BLOCK_MASK;
  if (block == (block_in_grid & BLOCK_MASK) || acquired.count(block)) return;
  fail("RACE: %s of device memory at %p meets the %s by thread block %u of the same launch", verb, p, earlier_verb,
       block);
}

void remember(BlockStamp (&slots)[2], BlockStamp now) {
  const BlockStamp bytes = now & 0xffff, who = now & ~BlockStamp{0xffff};
  for (BlockStamp& s : slots) {
    if ((s & ~BlockStamp{0xffff}) == who) {
      s |= bytes;
      return;
    }
  }
  const bool first_is_old = (slots[0] ^ now) >> LAUNCH_SHIFT || !(slots[0] & 0xffff & ~bytes);
  slots[first_is_old ? 0 : 1] = now;
}

void check_races(const char* p, size_t n, Access access) {
  const bool atomic = access == Access::Atomic, writes = access != Access::Read;
  const char* verb = atomic ? "atomic" : writes ? "write" : "read";
  size_t at = p - space;
  for (const size_t end = at + n; at < end;) {
    const size_t in_cell = at % CELL, take = std::min(CELL - in_cell, end - at);
    Cell& cell = cells[at / CELL];
    const BlockStamp now = stamp_of_block | BlockStamp{atomic} << ATOMIC_SHIFT | ((1u << take) - 1) << in_cell;
    for (const BlockStamp w : cell.writes) {
      if (!(atomic && (w >> ATOMIC_SHIFT & 1))) check_race(w, now, p, verb, "write");
    }
    if (writes) {
      for (const BlockStamp r : cell.reads) check_race(r, now, p, verb, "read");
    }
    remember(writes ? cell.writes : cell.reads, now);
    at += take;
  }
}

}  // namespace

char* global_allocate(size_t size) {
  if (!space) {
    space = static_cast<char*>(reserve(SPACE, PROT_READ | PROT_WRITE));
    cells = static_cast<Cell*>(reserve(SPACE / CELL * sizeof(Cell), PROT_READ | PROT_WRITE));
    if (!space || !cells) return nullptr;
  }
  const size_t step = (size + RED_ZONE + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  if (step > SPACE - space_used) return nullptr;
  char* low = space + space_used;
  space_used += step;
  memset(low, 0xff, size);
  allocations[low] = {low, low + size};
  return low;
}

bool global_free(void* p) {
  auto found = allocations.find(static_cast<char*>(p));
  if (found == allocations.end()) return false;
  const Allocation a = found->second;
  allocations.erase(found);
  for (Allocation& r : recent) {
    if (r.low == a.low) r = {nullptr, nullptr};
  }
  // Whole pages only: neighbours share the outer ones.
  const uintptr_t first = (reinterpret_cast<uintptr_t>(a.low) + PAGE - 1) / PAGE * PAGE;
  const uintptr_t last = reinterpret_cast<uintptr_t>(a.high) / PAGE * PAGE;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
  const uintptr_t shadow = reinterpret_cast<uintptr_t>(cells + (a.low - space) / CELL + 1);
  const uintptr_t shadow_end = reinterpret_cast<uintptr_t>(cells + (a.high - space) / CELL);
  const uintptr_t shadow_first = (shadow + PAGE - 1) / PAGE * PAGE, shadow_last = shadow_end / PAGE * PAGE;
  if (shadow_first < shadow_last) {
    madvise(reinterpret_cast<void*>(shadow_first), shadow_last - shadow_first, MADV_DONTNEED);
  }
  return true;
}

bool in_global(const char* p) { return p >= space && p < space + SPACE; }

bool global_contains(const void* p, size_t n) {
  return find_allocation(static_cast<const char*>(p), n) != nullptr;
}

void global_begin_launch() { released.clear(); }

void global_begin_block() {
  stamp_of_block = launch.number << LAUNCH_SHIFT | BlockStamp{block_in_grid & BLOCK_MASK} << BLOCK_SHIFT;
  acquired.clear();
  overlapped = launch.overlaps_previous ? launch.previous & LAUNCH_MASK : NONE_OVERLAPPED;
}

void global_previous_ended() { overlapped = NONE_OVERLAPPED; }

void global_access(const char* p, size_t n, Access access) {
  if (!find_allocation(p, n)) {
    report_out_of_bounds(p, n, access == Access::Read ? "read" : "write");
  }
  if (access == Access::Atomic) {
    auto& through = released[p];
    acquired.insert(through.begin(), through.end());
    if (current->fenced) {
      through.insert(block_in_grid & BLOCK_MASK);
      through.insert(acquired.begin(), acquired.end());
    }
  }
  check_races(p, n, access);
}

}  // namespace cusim
