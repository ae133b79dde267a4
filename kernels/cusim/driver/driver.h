// What the files of the driver API share: result codes, the lock, streams, events and the device's state.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include <chrono>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#define API extern "C" __attribute__((visibility("default"))) ::driver::Result

namespace driver {

using Result = int;
enum : Result {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
  LAUNCH_OUT_OF_RESOURCES = 701,
  MISALIGNED_ADDRESS = 716,
  LAUNCH_FAILED = 719,
  NOT_SUPPORTED = 801,
  STREAM_CAPTURE_UNSUPPORTED = 900,
  STREAM_CAPTURE_INVALIDATED = 901,
  STREAM_CAPTURE_ISOLATION = 905,
  STREAM_CAPTURE_IMPLICIT = 906,
  CAPTURED_EVENT = 907,
  STREAM_CAPTURE_WRONG_THREAD = 908,
};

// One lock for the whole device: calls from several threads take turns.
extern std::recursive_mutex mutex;
using Lock = std::lock_guard<std::recursive_mutex>;

// What CUSIM_* in the environment choose; read by cuInit.
struct Settings {
  bool initialized = false;
  int devices = 1;
  int driver_version = 13000;
  size_t memory = size_t{2} << 30;
  size_t memory_taken = 0;   // bytes of it that another process has
  uint64_t fail_launch = 0;  // the launch (from 1) that fails, 0 = none
};
extern Settings settings;
int capability();              // 10 * major + minor
uint32_t max_shared_per_block();  // with cuFuncSetAttribute

// After a fault of a kernel every call gives its error: the context is lost.
extern Result sticky_error;
extern std::string last_error;  // the checker's text
Result context_error();         // sticky, or missing context or initialization

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
// Enters a launch that came to its end.
void count_launch(const std::string& kernel);
void count_graph_launch();
// The error of a call that no capture may contain (it breaks captures of this thread); SUCCESS without captures.
Result refuse_in_capture();

// Whether [p, p + n) is host memory of cuMemHostAlloc.
bool is_pinned(const void* p, size_t n);

}  // namespace driver
