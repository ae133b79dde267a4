// Graphs by stream capture: the operations of the capturing stream, played again in the same order.
#include <memory>

#include "device.h"
#include "launch_count.h"
#include "stream.h"

using namespace driver;

namespace {

struct Graph {
  std::shared_ptr<const std::vector<Operation>> operations;
};

}  // namespace

API cuStreamBeginCapture_v2(void* handle, int mode) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  if (!handle) return STREAM_CAPTURE_UNSUPPORTED;  // the default stream cannot capture
  Stream* stream = stream_of(handle);
  if (mode < 0 || mode > 2 || stream->capture != Capture::None) return INVALID_VALUE;
  stream->capture = mode == 0 ? Capture::Global : mode == 1 ? Capture::ThreadLocal : Capture::Relaxed;
  stream->capture_thread = std::this_thread::get_id();
  stream->capture_broken = false;
  stream->captured.clear();
  return SUCCESS;
}

API cuStreamEndCapture(void* handle, void** graph) {
  Lock lock(mutex);
  Stream* stream = stream_of(handle);
  *graph = nullptr;
  if (stream->capture == Capture::None) return INVALID_VALUE;
  if (stream->capture != Capture::Relaxed && stream->capture_thread != std::this_thread::get_id()) {
    return STREAM_CAPTURE_WRONG_THREAD;
  }
  stream->capture = Capture::None;
  if (stream->capture_broken) {
    stream->capture_broken = false;
    stream->captured.clear();
    return STREAM_CAPTURE_INVALIDATED;
  }
  *graph = new Graph{std::make_shared<const std::vector<Operation>>(std::move(stream->captured))};
  stream->captured = {};
  return SUCCESS;
}

API cuStreamIsCapturing(void* handle, int* status) {
  Lock lock(mutex);
  const Stream* stream = stream_of(handle);
  *status = stream->capture == Capture::None ? 0 : stream->capture_broken ? 2 : 1;
  return SUCCESS;
}

API cuGraphInstantiateWithFlags(void** executable, void* graph, unsigned long long) {
  Lock lock(mutex);
  if (Result error = context_error()) return error;
  if (!graph) return INVALID_VALUE;
  *executable = new Graph(*static_cast<Graph*>(graph));
  return SUCCESS;
}

API cuGraphUpload(void* executable, void*) { return executable ? context_error() : INVALID_VALUE; }

API cuGraphLaunch(void* executable, void* stream_handle) {
  Lock lock(mutex);
  if (!executable) return INVALID_VALUE;
  Stream* stream = stream_of(stream_handle);
  count_graph_launch();
  for (const Operation& operation : *static_cast<Graph*>(executable)->operations) {
    if (Result error = enqueue(stream, operation)) return error;
  }
  return context_error();
}

API cuGraphExecDestroy(void* executable) {
  Lock lock(mutex);
  delete static_cast<Graph*>(executable);
  return SUCCESS;
}
API cuGraphDestroy(void* graph) {
  delete static_cast<Graph*>(graph);
  return SUCCESS;
}
