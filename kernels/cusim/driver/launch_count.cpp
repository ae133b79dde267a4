// Which kernels have run, and how often: tests ask, and processes share a log of names. And how often graphs were
// launched.
#include <stdio.h>
#include <stdlib.h>

#include <map>

#include "driver.h"
#include "launch_count.h"

namespace driver {

namespace {

std::map<std::string, uint64_t> launches;  // by the kernel's name
uint64_t graph_launches;

// One write, so that the lines of several processes do not mix.
void append(const char* path, const std::string& line) {
  FILE* file = fopen(path, "a");
  if (!file || fwrite(line.data(), line.size(), 1, file) != 1) {
    fprintf(stderr, "cusim: CUSIM_LAUNCH_LOG=%s cannot be written\n", path);
  }
  if (file) fclose(file);
}

}  // namespace

void count_launch(const std::string& kernel) {
  if (launches[kernel]++) return;
  const char* path = getenv("CUSIM_LAUNCH_LOG");
  if (path && *path) append(path, kernel + "\n");
}

void count_graph_launch() { graph_launches++; }

}  // namespace driver

// Calls `visit` with each kernel that has run, and how often.
extern "C" __attribute__((visibility("default"))) void cusim_launches(
    void (*visit)(void* context, const char* kernel, uint64_t count), void* context) {
  driver::Lock lock(driver::mutex);
  for (const auto& [kernel, count] : driver::launches) visit(context, kernel.c_str(), count);
}

extern "C" __attribute__((visibility("default"))) uint64_t cusim_graph_launches() {
  driver::Lock lock(driver::mutex);
  return driver::graph_launches;
}
