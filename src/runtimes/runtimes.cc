#include "runtimes/runtimes.h"

#include <cstddef>

extern "C" {
extern const char faaskit_python_runtime_begin[];
extern const char faaskit_python_runtime_end[];
extern const char faaskit_node_runtime_begin[];
extern const char faaskit_node_runtime_end[];
}

namespace faaskit::worker_runtime {

std::string_view python() {
  return {faaskit_python_runtime_begin,
          static_cast<std::size_t>(faaskit_python_runtime_end - faaskit_python_runtime_begin)};
}

std::string_view node() {
  return {faaskit_node_runtime_begin,
          static_cast<std::size_t>(faaskit_node_runtime_end - faaskit_node_runtime_begin)};
}

}  // namespace faaskit::worker_runtime
