// StartQueue and SlotDirectory of one process.
#pragma once

#include <cstddef>
#include <memory>
#include <vector>

#include <absl/status/statusor.h>

#include "faaskit/core/export.h"
#include "faaskit/port/slot_directory.h"
#include "faaskit/port/start_queue.h"

namespace faaskit::memory {

struct StartQueueOptions {
  // Per host. Pushing more is refused; what was admitted is pushed again at the next repair.
  std::size_t max_queued = 65536;
};

FAASKIT_EXPORT std::unique_ptr<StartQueue> make_start_queue(asio::any_io_executor executor,
                                                            StartQueueOptions options = {});

// Spreads the slots evenly over `hosts`, once. kInvalidArgument: none, or one of them is 0.
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<SlotDirectory>> make_slot_directory(std::vector<HostId> hosts);

}  // namespace faaskit::memory
