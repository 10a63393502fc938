// Pages of a function's log, from its end to its beginning, while it is written and rotated.
#pragma once

#include <absl/status/statusor.h>

#include "faaskit/sinks/log_files.h"

namespace faaskit::sinks {

absl::StatusOr<LogPage> read_log(int folder, std::size_t max_files, const LogQuery& query);

}  // namespace faaskit::sinks
