// Streams, events, and the operations that streams run.
#pragma once
#include <stdint.h>

#include <chrono>
#include <deque>
#include <functional>
#include <thread>
#include <vector>

#include "driver.h"

namespace driver {

// An operation, given the stream it runs in; NOT_READY = it waits for another stream.
struct Stream;
using Operation = std::function<Result(Stream&)>;
struct Event {
  uint64_t recorded = 0, reached = 0;  // how often recorded by the host, and how far the streams have come
  bool captured = false;
  std::chrono::steady_clock::time_point time;
};
enum class Capture { None, Global, ThreadLocal, Relaxed };
struct Stream {
  bool blocking = true;  // takes turns with the default stream
  std::deque<Operation> queue;
  Capture capture = Capture::None;
  bool capture_broken = false;
  std::thread::id capture_thread;
  std::vector<Operation> captured;
  uint64_t last_launch = 0;  // the number of the newest kernel that ran here
};
// Null is the default stream.
Stream* stream_of(void* handle);

// Queues an operation, or records it while the stream captures. Streams run only when somebody waits.
Result enqueue(Stream* stream, Operation operation);
// Runs what must have run before `stream` is empty, or everything.
Result drain(Stream* stream);
Result drain_all();
// Runs streams until `done` or until nothing can go on.
Result run_until(const std::function<bool()>& done);
// The error of a call that no capture may contain (it breaks captures of this thread); SUCCESS without captures.
Result refuse_in_capture();

}  // namespace driver
