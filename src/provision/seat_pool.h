// Private: seats made ahead of time, with a spare parked in each, so that a start finds its groups ready.
//
// Thread safety: every member from any thread; work is done on the blocking executor.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <absl/functional/any_invocable.h>
#include <absl/status/statusor.h>
#include <boost/asio/any_io_executor.hpp>

#include "faaskit/port/event_sink.h"
#include "faaskit/port/freezer.h"
#include "faaskit/port/sandbox_factory.h"
#include "support/mutex.h"

namespace faaskit {

namespace asio = boost::asio;

class SeatPool : public std::enable_shared_from_this<SeatPool> {
 public:
  SeatPool(asio::any_io_executor blocking, std::shared_ptr<Freezer> freezer,
           std::shared_ptr<SandboxFactory> factory, std::shared_ptr<EventSink> events, std::uint64_t host,
           std::uint32_t target)
      : blocking_(std::move(blocking)),
        freezer_(std::move(freezer)),
        factory_(std::move(factory)),
        events_(std::move(events)),
        host_(host),
        target_(target) {}

  // Fills the pool in the background.
  void refill();
  // A parked seat, else a new one. kCancelled after dispose(). May block.
  absl::StatusOr<std::unique_ptr<Seat>> take(const ResourceLimits& limits);
  // Empties the pool for good; what is asked of it later is refused. `done` runs on the blocking executor
  // once nothing that it made is left. May block. Once.
  void dispose(absl::AnyInvocable<void()> done);
  // Kills what lives in `seat`, and removes it if that is quick; its freezer does the rest.
  static void discard(std::unique_ptr<Seat> seat);

 private:
  absl::StatusOr<std::unique_ptr<Seat>> make();
  // One less is being made.
  void made();

  const asio::any_io_executor blocking_;
  const std::shared_ptr<Freezer> freezer_;
  const std::shared_ptr<SandboxFactory> factory_;
  const std::shared_ptr<EventSink> events_;
  const std::uint64_t host_;
  const std::uint32_t target_;
  std::atomic<std::uint64_t> next_name_{0};
  Mutex mutex_;
  std::vector<std::unique_ptr<Seat>> parked_ FAASKIT_GUARDED_BY(mutex_);
  std::uint32_t making_ FAASKIT_GUARDED_BY(mutex_) = 0;
  bool disposed_ FAASKIT_GUARDED_BY(mutex_) = false;
  absl::AnyInvocable<void()> on_disposed_ FAASKIT_GUARDED_BY(mutex_);
};

}  // namespace faaskit
