// What all files of the driver API share: result codes, the lock, and the fault that stays.
#pragma once
#include <mutex>
#include <string>

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

// After a fault of a kernel every call gives its error: the context is lost.
extern Result sticky_error;
extern std::string last_error;  // the checker's text

}  // namespace driver
