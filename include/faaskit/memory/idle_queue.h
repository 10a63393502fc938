// The IdleQueue of one process: the reference implementation, and the default.
//
// One mutex and one FunctionQueue per function; no lock is shared between functions on the way of a
// call, and no handler is posted under one. Memory: about 250 bytes per idle sandbox and 300 per waiter.
// Functions stay known until the queue is destroyed: one that was removed keeps its record, about a kilobyte,
// but does not count against max_functions once nothing of it is left. Defined again it counts, even beyond
// them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include <absl/status/statusor.h>

#include "faaskit/core/export.h"
#include "faaskit/port/clock.h"
#include "faaskit/port/executors.h"
#include "faaskit/port/idle_queue.h"

namespace faaskit::memory {

struct IdleQueueOptions {
  // Deadlines and backoffs are on this clock. Null: the steady clock.
  std::shared_ptr<Clock> clock = nullptr;
  // Home shards that sandboxes and callers may name.
  std::uint32_t shards = 1;
  // Refuse to learn more function names than this, beside those removed.
  std::size_t max_functions = 1'000'000;
  // Start ids and backoff jitter come from it; 0 is replaced by a random one. Fixed only in tests.
  std::uint64_t seed = 0;
};

// `executor`: where timers run, and completions of handlers that have no executor of their own.
// kInvalidArgument names the option at fault.
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<IdleQueue>> make_idle_queue(asio::any_io_executor executor,
                                                                          IdleQueueOptions options = {});

}  // namespace faaskit::memory
