// The worker runtimes that travel inside the library, so that a host needs no files beside its binary.
#pragma once

#include <string_view>

namespace faaskit::worker_runtime {

// Source of the Python runtime: one file, to be run as `python3 -I FILE CODE MODULE:CALLABLE` with the
// channel on descriptor 3.
std::string_view python();

}  // namespace faaskit::worker_runtime
