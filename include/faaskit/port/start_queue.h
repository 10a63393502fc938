// StartQueue: carries admitted starts to hosts, at least once. It decides nothing: a start that arrives
// twice, or at two hosts, is claimed once.
//
// Order: first in, first out per host; the host itself goes round-robin over functions.
// Thread safety and completion: as IdleQueue.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <absl/functional/any_invocable.h>
#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/core/queue_types.h"
#include "faaskit/port/async.h"
#include "faaskit/port/idle_queue.h"

namespace faaskit {

struct PushParams {
  HostId host = 0;
  StartRequest start{};
};

class FAASKIT_EXPORT StartQueue {
 public:
  using executor_type = asio::any_io_executor;
  using StartsHandler = absl::AnyInvocable<void(std::vector<StartRequest>)>;

  StartQueue(const StartQueue&) = delete;
  StartQueue& operator=(const StartQueue&) = delete;
  virtual ~StartQueue() = default;
  virtual executor_type get_executor() const = 0;

  // kResourceExhausted: the host's queue is at its bound. kNotFound: nobody serves that host.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_push(PushParams params, Token&& token) {
    return initiate<absl::Status>(this, &StartQueue::do_push, std::move(params), std::forward<Token>(token));
  }

  // Delivers what is pushed for `host`, posted to `executor`, until the watch is destroyed. With the last
  // watch of a host all that is known of it goes, its load and what it has not taken, too: unclaimed starts
  // are in the next repair.
  [[nodiscard]] virtual std::unique_ptr<Watch> serve(HostId host, asio::any_io_executor executor,
                                                     StartsHandler starts) = 0;

  // For two choices; of a host that nobody serves: 0. The host's load as it last reported it plus what was
  // pushed since.
  virtual std::uint64_t load(HostId host) const = 0;
  virtual void report_load(HostId host, std::uint64_t load) = 0;

 protected:
  StartQueue() = default;

 private:
  virtual void do_push(PushParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
};

}  // namespace faaskit
