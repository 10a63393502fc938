// expect: completion_token_for|constraint
// A handler that cannot take the error is refused where it is written, not deep inside Asio.
#include "faaskit/port/idle_queue.h"

void begin(faaskit::IdleQueue& queue, faaskit::AcquireParams params) {
#ifdef WRONG
  queue.async_acquire(std::move(params), [](faaskit::Lease) {});
#else
  queue.async_acquire(std::move(params), [](absl::StatusOr<faaskit::Lease>) {});
#endif
}
