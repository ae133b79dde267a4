// Device memory, pinned host memory, copies.
#include <stdlib.h>
#include <string.h>

#include <map>
#include <memory>

#include "device.h"
#include "global.h"
#include "stream.h"

namespace driver {

namespace {

std::map<const char*, size_t> device_sizes, pinned_sizes;  // bytes by start
size_t device_bytes;

// What neither this process nor another one has.
size_t free_memory() {
  return settings.memory - settings.memory_taken - device_bytes;
}

bool in_device(uint64_t p, size_t n) { return cusim::global_contains(reinterpret_cast<void*>(p), n); }
char* at(uint64_t p) { return reinterpret_cast<char*>(p); }

Result copy_now(char* to, const char* from, size_t n) {
  memmove(to, from, n);
  return SUCCESS;
}

// Whether [p, p + n) is host memory of cuMemHostAlloc.
bool is_pinned(const void* p, size_t n) {
  auto after = pinned_sizes.upper_bound(static_cast<const char*>(p));
  if (after == pinned_sizes.begin()) return false;
  --after;
  return static_cast<const char*>(p) + n <= after->first + after->second;
}

// The checks of every copy and fill: the device's ranges, and where it happens.
Result refuse_ranges(std::initializer_list<uint64_t> device, size_t n) {
  if (Result error = context_error()) return error;
  for (uint64_t p : device) {
    if (n && !in_device(p, n)) return INVALID_VALUE;
  }
  return SUCCESS;
}

}  // namespace

}  // namespace driver

using namespace driver;

API cuMemGetInfo_v2(size_t* free_bytes, size_t* total) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  *total = settings.memory;
  *free_bytes = free_memory();
  return SUCCESS;
}

API cuMemAlloc_v2(uint64_t* p, size_t n) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  if (Result error = refuse_in_capture()) return error;
  if (n == 0) return INVALID_VALUE;
  if (n > free_memory()) return OUT_OF_MEMORY;
  char* memory = cusim::global_allocate(n);
  if (!memory) return OUT_OF_MEMORY;
  device_sizes[memory] = n;
  device_bytes += n;
  *p = reinterpret_cast<uint64_t>(memory);
  return SUCCESS;
}

namespace {
Result free_now(uint64_t p) {
  const auto found = device_sizes.find(at(p));
  if (found == device_sizes.end()) return INVALID_VALUE;
  device_bytes -= found->second;
  device_sizes.erase(found);
  cusim::global_free(at(p));
  return SUCCESS;
}
}  // namespace

API cuMemFree_v2(uint64_t p) {
  Lock lock(mutex);
  if (p == 0) return SUCCESS;
  if (Result error = refuse_in_capture()) return error;
  const Result waited = sticky_error ? sticky_error : drain_all();
  const Result freed = free_now(p);
  return waited ? waited : freed;
}

// Stream-ordered: the memory exists at once, and goes when the stream comes to it.
API cuMemAllocAsync(uint64_t* p, size_t n, void* stream) {
  Lock lock(mutex);
  if (stream_of(stream)->capture != Capture::None) {
    stream_of(stream)->capture_broken = true;
    return NOT_SUPPORTED;  // memory nodes of graphs are not simulated
  }
  return cuMemAlloc_v2(p, n);
}
API cuMemFreeAsync(uint64_t p, void* stream) {
  Lock lock(mutex);
  return enqueue(stream_of(stream), [=](Stream&) -> Result { return free_now(p); });
}

API cuMemHostAlloc(void** p, size_t n, unsigned) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  if (Result error = refuse_in_capture()) return error;
  if (n == 0) return INVALID_VALUE;
  *p = aligned_alloc(4096, (n + 4095) / 4096 * 4096);
  if (!*p) return OUT_OF_MEMORY;
  memset(*p, 0xff, n);
  pinned_sizes[static_cast<char*>(*p)] = n;
  return SUCCESS;
}
API cuMemFreeHost(void* p) {
  Lock lock(mutex);
  const auto found = pinned_sizes.find(static_cast<char*>(p));
  if (found == pinned_sizes.end()) return INVALID_VALUE;
  const Result waited = sticky_error ? sticky_error : drain_all();
  pinned_sizes.erase(found);
  free(p);
  return waited;
}

// ---- asynchronous copies: pinned memory is read and written when the stream comes to it; pageable memory is read
// at the call, written before the call returns, and neither may be captured -------------------------------------
API cuMemcpyHtoDAsync_v2(uint64_t to, const void* from, size_t n, void* handle) {
  Lock lock(mutex);
  if (Result error = refuse_ranges({to}, n)) return error;
  Stream* stream = stream_of(handle);
  const char* host = static_cast<const char*>(from);
  if (is_pinned(from, n)) return enqueue(stream, [=](Stream&) { return copy_now(at(to), host, n); });
  if (stream->capture != Capture::None) {
    stream->capture_broken = true;
    return STREAM_CAPTURE_UNSUPPORTED;
  }
  auto staged = std::make_shared<const std::string>(host, n);
  return enqueue(stream, [=](Stream&) { return copy_now(at(to), staged->data(), n); });
}

API cuMemcpyDtoHAsync_v2(void* to, uint64_t from, size_t n, void* handle) {
  Lock lock(mutex);
  if (Result error = refuse_ranges({from}, n)) return error;
  Stream* stream = stream_of(handle);
  const bool pinned = is_pinned(to, n);
  if (!pinned && stream->capture != Capture::None) {
    stream->capture_broken = true;
    return STREAM_CAPTURE_UNSUPPORTED;
  }
  char* host = static_cast<char*>(to);
  if (Result error = enqueue(stream, [=](Stream&) { return copy_now(host, at(from), n); })) return error;
  return pinned ? SUCCESS : drain(stream);
}

API cuMemcpyDtoDAsync_v2(uint64_t to, uint64_t from, size_t n, void* stream) {
  Lock lock(mutex);
  if (Result error = refuse_ranges({to, from}, n)) return error;
  return enqueue(stream_of(stream), [=](Stream&) { return copy_now(at(to), at(from), n); });
}

API cuMemsetD8Async(uint64_t to, unsigned char value, size_t n, void* stream) {
  Lock lock(mutex);
  if (Result error = refuse_ranges({to}, n)) return error;
  return enqueue(stream_of(stream), [=](Stream&) -> Result {
    memset(at(to), value, n);
    return SUCCESS;
  });
}
API cuMemsetD32Async(uint64_t to, unsigned value, size_t n, void* stream) {
  Lock lock(mutex);
  if (Result error = refuse_ranges({to}, n * 4)) return error;
  return enqueue(stream_of(stream), [=](Stream&) -> Result {
    for (size_t i = 0; i < n; i++) memcpy(at(to) + 4 * i, &value, 4);
    return SUCCESS;
  });
}

// ---- synchronous copies: in the default stream, then waited for ----------------------------------------------------
namespace {
Result wait_for_default(Result queued) {
  if (queued) return queued;
  if (Result error = refuse_in_capture()) return error;
  return drain(stream_of(nullptr));
}
}  // namespace
API cuMemcpyHtoD_v2(uint64_t to, const void* from, size_t n) {
  Lock lock(mutex);
  return wait_for_default(cuMemcpyHtoDAsync_v2(to, from, n, nullptr));
}
API cuMemcpyDtoH_v2(void* to, uint64_t from, size_t n) {
  Lock lock(mutex);
  return wait_for_default(cuMemcpyDtoHAsync_v2(to, from, n, nullptr));
}
API cuMemcpyDtoD_v2(uint64_t to, uint64_t from, size_t n) {
  Lock lock(mutex);
  return wait_for_default(cuMemcpyDtoDAsync_v2(to, from, n, nullptr));
}
API cuMemsetD8_v2(uint64_t to, unsigned char value, size_t n) {
  Lock lock(mutex);
  return wait_for_default(cuMemsetD8Async(to, value, n, nullptr));
}
