// mbarriers: counts of arrivals and of bytes, in phases.
#include <vector>

#include "checks.h"
#include "hopper.h"
#include "scheduler.h"

namespace cusim {

namespace {

struct MBarrier {
  uint64_t* address;
  uint32_t arrivals, missing;  // of a phase, and of the current one
  int64_t bytes;               // expected less arrived
  uint32_t parity;             // of the current phase
  bool fenced;                 // visible to TMA
  unsigned initializer;
  std::vector<Fibre*> waiting;
  Row gathering, ended;  // what the arrivals of this phase, and of the last, knew
};
std::vector<MBarrier> barriers;

MBarrier* find(const uint64_t* address) {
  for (MBarrier& b : barriers) {
    if (b.address == address) return &b;
  }
  return nullptr;
}

// Every use is an atomic access: it must come after the initialization.
MBarrier& use(uint64_t* address) {
  MBarrier* b = find(address);
  if (!b) fail("UNINITIALISED: mbarrier at %s was not initialised", shared_name((const char*)address).c_str());
  if (options.check) shared_access(reinterpret_cast<char*>(address), 8, Access::Atomic, *current);
  return *b;
}

void end_phase_if_complete(MBarrier& b) {
  if (b.missing || b.bytes) return;
  b.parity ^= 1;
  b.missing = b.arrivals;
  b.ended = b.gathering;
  for (Fibre* f : b.waiting) make_ready(*f);
  b.waiting.clear();
}

}  // namespace

void mbarriers_begin_block() { barriers.clear(); }

void require_hopper(const char* instruction) {
  if (options.capability >= 90) return;
  fail("UNSUPPORTED: %s on compute capability %d.%d", instruction, options.capability / 10,
       options.capability % 10);
}

void mbarrier_init(uint64_t* barrier, uint32_t arrivals) {
  access_site = __builtin_return_address(0);
  require_hopper("mbarrier");
  if (arrivals == 0) fail("INVALID: an mbarrier of no arrivals");
  check_access(reinterpret_cast<char*>(barrier), 8, Access::Write);
  if (find(barrier)) fail("INVALID: mbarrier at %s is initialised twice", shared_name((const char*)barrier).c_str());
  barriers.push_back({barrier, arrivals, arrivals, 0, 0, false, current->number, {}, {}, {}});
}

void mbarrier_fence_init() {
  for (MBarrier& b : barriers) b.fenced |= b.initializer == current->number;
}

void mbarrier_arrive(uint64_t* barrier, uint32_t expected_bytes) {
  access_site = __builtin_return_address(0);
  maybe_yield();
  MBarrier& b = use(barrier);
  if (!b.missing) fail("INVALID: more arrivals than the %u of the mbarrier's phase", b.arrivals);
  release_into(b.gathering, *current);
  b.bytes += expected_bytes;
  b.missing--;
  end_phase_if_complete(b);
}

void mbarrier_wait(uint64_t* barrier, uint32_t parity) {
  access_site = __builtin_return_address(0);
  for (;;) {
    MBarrier& b = use(barrier);
    if (b.parity != (parity & 1)) return acquire_from(b.ended, *current);
    b.waiting.push_back(current);
    block_thread("mbarrier_wait");
  }
}

void mbarrier_check_for_tma(uint64_t* barrier) {
  if (!use(barrier).fenced) fail("PROXY: TMA uses an mbarrier without mbarrier_fence_init after its initialization");
}

void mbarrier_complete(uint64_t* barrier, uint32_t bytes, Fibre& issuer) {
  MBarrier& b = *find(barrier);
  release_into(b.gathering, issuer);
  b.bytes -= bytes;
  end_phase_if_complete(b);
}

}  // namespace cusim
