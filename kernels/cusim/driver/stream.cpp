// Streams and events. Nothing runs before somebody waits for it; then streams take turns at random, in any order
// that their events allow.
#include <algorithm>
#include <memory>

#include "device.h"
#include "scheduler.h"
#include "stream.h"

namespace driver {

namespace {

Stream default_stream;
std::vector<std::unique_ptr<Stream>> streams;

bool any_capture(bool only_blocking) {
  return std::any_of(streams.begin(), streams.end(), [&](const auto& s) {
    return s->capture != Capture::None && s->capture != Capture::Relaxed && (s->blocking || !only_blocking);
  });
}

std::vector<Stream*> busy_streams() {
  std::vector<Stream*> busy;
  if (!default_stream.queue.empty()) busy.push_back(&default_stream);
  for (const auto& s : streams) {
    if (!s->queue.empty()) busy.push_back(s.get());
  }
  return busy;
}

// The default stream and the blocking ones wait for each other.
Result order_with_default(Stream* stream) {
  if (stream == &default_stream) {
    if (any_capture(true)) return STREAM_CAPTURE_IMPLICIT;
    for (const auto& s : streams) {
      if (s->blocking && !s->queue.empty()) {
        if (Result error = drain(s.get())) return error;
      }
    }
  } else if (stream->blocking && !default_stream.queue.empty()) {
    return drain(&default_stream);
  }
  return SUCCESS;
}

}  // namespace

Stream* stream_of(void* handle) { return handle ? static_cast<Stream*>(handle) : &default_stream; }

Result enqueue(Stream* stream, Operation operation) {
  if (Result error = context_error()) return error;
  if (stream->capture_broken) return STREAM_CAPTURE_INVALIDATED;
  if (stream->capture != Capture::None) {
    stream->captured.push_back(std::move(operation));
    return SUCCESS;
  }
  if (Result error = order_with_default(stream)) return error;
  stream->queue.push_back(std::move(operation));
  return SUCCESS;
}

Result run_until(const std::function<bool()>& done) {
  while (!sticky_error && !done()) {
    std::vector<Stream*> busy = busy_streams();
    bool moved = false;
    while (!busy.empty() && !moved) {
      const size_t chosen = cusim::random_bits() % busy.size();
      Stream* stream = busy[chosen];
      busy.erase(busy.begin() + chosen);
      const Operation operation = stream->queue.front();
      const Result result = operation(*stream);
      if (result == NOT_READY) continue;
      stream->queue.pop_front();
      if (result) sticky_error = result;
      moved = true;
    }
    if (!moved) break;
  }
  if (!sticky_error && !done()) {
    last_error = "streams wait for events that are never recorded";
    sticky_error = LAUNCH_FAILED;
  }
  return sticky_error;
}

Result drain(Stream* stream) {
  return run_until([stream] { return stream->queue.empty(); });
}

Result drain_all() {
  return run_until([] { return busy_streams().empty(); });
}

Result refuse_in_capture() {
  Result error = SUCCESS;
  for (const auto& s : streams) {
    const bool concerns = s->capture == Capture::Global ||
                          (s->capture == Capture::ThreadLocal && s->capture_thread == std::this_thread::get_id());
    if (!concerns) continue;
    s->capture_broken = true;
    error = STREAM_CAPTURE_UNSUPPORTED;
  }
  return error;
}

}  // namespace driver

using namespace driver;

API cuStreamCreate(void** stream, unsigned flags) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  if (flags > 1) return INVALID_VALUE;
  streams.push_back(std::make_unique<Stream>());
  streams.back()->blocking = flags == 0;
  *stream = streams.back().get();
  return SUCCESS;
}
API cuStreamCreateWithPriority(void** stream, unsigned flags, int) { return cuStreamCreate(stream, flags); }

API cuStreamDestroy_v2(void* handle) {
  Lock lock(mutex);
  const auto found = std::find_if(streams.begin(), streams.end(), [&](auto& s) { return s.get() == handle; });
  if (found == streams.end()) return INVALID_HANDLE;
  const Result result = drain(found->get());
  streams.erase(std::find_if(streams.begin(), streams.end(), [&](auto& s) { return s.get() == handle; }));
  return result;
}

API cuStreamSynchronize(void* handle) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  Stream* stream = stream_of(handle);
  if (stream->capture != Capture::None) {
    stream->capture_broken = true;
    return STREAM_CAPTURE_UNSUPPORTED;
  }
  return drain(stream);
}

API cuCtxSynchronize() {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  if (Result error = refuse_in_capture()) return error;
  return drain_all();
}

// Makes one step, so that a host that polls comes to an end.
API cuStreamQuery(void* handle) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  Stream* stream = stream_of(handle);
  if (stream->queue.empty()) return SUCCESS;
  const size_t before = stream->queue.size();
  if (Result error = run_until([&] { return stream->queue.size() < before; })) return error;
  return stream->queue.empty() ? SUCCESS : NOT_READY;
}

API cuStreamWaitEvent(void* handle, void* event_handle, unsigned) {
  Lock lock(mutex);
  auto* event = static_cast<Event*>(event_handle);
  Stream* stream = stream_of(handle);
  if (event->captured) return stream->capture != Capture::None ? SUCCESS : CAPTURED_EVENT;
  if (stream->capture != Capture::None) return STREAM_CAPTURE_ISOLATION;
  const uint64_t wanted = event->recorded;
  return enqueue(stream, [=](Stream&) -> Result { return event->reached >= wanted ? SUCCESS : NOT_READY; });
}

API cuEventCreate(void** event, unsigned) {
  if (Result error = context_error()) return error;
  *event = new Event;
  return SUCCESS;
}

API cuEventDestroy_v2(void* handle) {
  Lock lock(mutex);
  auto* event = static_cast<Event*>(handle);
  const Result result =
      event->captured ? SUCCESS : run_until([&] { return event->reached >= event->recorded; });
  delete event;
  return result;
}

API cuEventRecord(void* handle, void* stream_handle) {
  Lock lock(mutex);
  auto* event = static_cast<Event*>(handle);
  Stream* stream = stream_of(stream_handle);
  // In a capture the record is an edge of the graph; one stream's operations keep their order anyway.
  event->captured = stream->capture != Capture::None;
  if (event->captured) return stream->capture_broken ? STREAM_CAPTURE_INVALIDATED : SUCCESS;
  const uint64_t turn = ++event->recorded;
  return enqueue(stream, [=](Stream&) -> Result {
    event->reached = turn;
    event->time = std::chrono::steady_clock::now();
    return SUCCESS;
  });
}

API cuEventSynchronize(void* handle) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  auto* event = static_cast<Event*>(handle);
  if (event->captured) return CAPTURED_EVENT;
  return run_until([&] { return event->reached >= event->recorded; });
}

API cuEventQuery(void* handle) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  auto* event = static_cast<Event*>(handle);
  if (event->captured) return CAPTURED_EVENT;
  if (event->reached >= event->recorded) return SUCCESS;
  size_t steps = 0;
  if (Result error = run_until([&] { return steps++ > 0; })) return error;
  return event->reached >= event->recorded ? SUCCESS : NOT_READY;
}

API cuEventElapsedTime(float* milliseconds, void* start_handle, void* end_handle) {
  Lock lock(mutex);
  const auto *start = static_cast<Event*>(start_handle), *end = static_cast<Event*>(end_handle);
  if (!start->recorded || !end->recorded) return INVALID_HANDLE;
  if (start->reached < start->recorded || end->reached < end->recorded) return NOT_READY;
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - start->time).count();
  return SUCCESS;
}
API cuEventElapsedTime_v2(float* milliseconds, void* start, void* end) {
  return cuEventElapsedTime(milliseconds, start, end);
}
