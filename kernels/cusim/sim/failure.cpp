#include "failure.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "fibre.h"
#include "machine.h"

namespace cusim {

namespace {

bool has_failed;
char text[1024];
const void* site;

// "a.cu:12, called from b.cuh:30": what addr2line knows of a code address, inlined callers included.
std::string source_lines(const void* address) {
  Dl_info image;
  if (!address || !dladdr(address, &image)) return "";
  char command[512];
  const size_t offset = static_cast<const char*>(address) - static_cast<const char*>(image.dli_fbase) - 1;
  snprintf(command, sizeof command, "addr2line -i -e '%s' %zx 2>/dev/null", image.dli_fname, offset);
  FILE* pipe = popen(command, "r");
  if (!pipe) return "";
  std::string lines;
  char line[512];
  while (fgets(line, sizeof line, pipe)) {
    line[strcspn(line, " \n")] = 0;
    if (line[0] == '?') continue;
    lines += (lines.empty() ? " at " : ", called from ") + std::string(base_name(line));
  }
  pclose(pipe);
  return lines;
}

}  // namespace

const char* base_name(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

// Runs on the thread's small stack: formats, and leaves the slow part to failure_text.
void fail(const char* format, ...) {
  size_t used = 0;
  if (current) {
    const uint3 b = current_block, t = current->index;
    used = snprintf(text, sizeof text, "%s, thread block (%u,%u,%u), thread (%u,%u,%u): ", launch.kernel->name, b.x,
                    b.y, b.z, t.x, t.y, t.z);
  }
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text + used, sizeof text - used, format, arguments);
  va_end(arguments);
  has_failed = true;
  site = access_site;
  if (current) leave_fibres();
  fprintf(stderr, "cusim: %s\n", text);
  abort();
}

bool failed() { return has_failed; }

void clear_failure() { has_failed = false; }

std::string failure_text() { return text + source_lines(site); }

}  // namespace cusim
