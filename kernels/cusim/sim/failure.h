// Errors of device code: fail() ends the launch; the text of the last error stays readable.
#pragma once
#include <string>

namespace cusim {

bool failed();
// Forgets the error of the launch before.
void clear_failure();
// The error's text, with the source lines of the access where they are known.
std::string failure_text();

const char* base_name(const char* path);

}  // namespace cusim
