// What has run, counted.
#pragma once
#include <string>

namespace driver {

// Enters a launch that came to its end.
void count_launch(const std::string& kernel);
void count_graph_launch();

}  // namespace driver
