// The sink on a disk of the caller's: how tests slow it down.
#pragma once

#include <memory>

#include "faaskit/sinks/log_files.h"
#include "sinks/disk.h"

namespace faaskit::sinks {

// Reads from `options.folder`, writes to `disk`.
absl::StatusOr<std::unique_ptr<LogFileSink>> make_log_file_sink(LogFileOptions options,
                                                                std::shared_ptr<Disk> disk);

}  // namespace faaskit::sinks
