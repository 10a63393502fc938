// The sink on a disk of the caller's: how tests slow it down.
#pragma once

#include <memory>

#include "faaskit/sinks/records.h"
#include "sinks/disk.h"

namespace faaskit::sinks {

absl::StatusOr<std::unique_ptr<RecordFileSink>> make_record_file_sink(RecordFileOptions options,
                                                                      std::shared_ptr<Disk> disk);

}  // namespace faaskit::sinks
