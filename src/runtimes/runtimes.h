// The worker runtimes that travel inside the library, so that a host needs no files beside its binary.
#pragma once

#include <string_view>

namespace faaskit::worker_runtime {

// Source of the Python runtime: one file, to be run as `python3 -I FILE CODE HANDLER` with the channel on
// descriptor 3, or with a last argument `--check`, which looks at the code without running it.
std::string_view python();

// The same for Node 18 or later: `node FILE CODE HANDLER`.
std::string_view node();

}  // namespace faaskit::worker_runtime
