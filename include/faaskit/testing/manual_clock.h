// ManualClock: a Clock that stands still until it is told to advance.
//
// Thread safety: every member from any thread; its timers are stricter than a Clock promises: they too may
// be used from any thread.
// A timer that is due is posted to its executor, never run inside advance() or arm().
#pragma once

#include <cstddef>
#include <memory>

#include "faaskit/core/export.h"
#include "faaskit/port/clock.h"

namespace faaskit::testing {

class FAASKIT_EXPORT ManualClock final : public Clock {
 public:
  // An arbitrary moment, far enough from both ends of time to subtract from and add to.
  static constexpr TimePoint kStart = TimePoint(std::chrono::hours(24));

  explicit ManualClock(TimePoint start = kStart);
  ~ManualClock() override;

  TimePoint now() const override;
  std::unique_ptr<Timer> make_timer(asio::any_io_executor executor) override;

  // Moves time by `step` (not negative) at once and posts the timers that are due by then, in the order of
  // their times. What they arm for a time not after the new now() is posted when it is armed.
  void advance(Duration step);
  // Moves time to the earliest armed timer; false, and nothing moves, if none is armed.
  bool advance_to_next();

  // How many timers are armed, and the earliest of their times; kNever if none.
  std::size_t armed() const;
  TimePoint next() const;

 private:
  struct State;
  class ManualTimer;
  std::shared_ptr<State> state_;
};

}  // namespace faaskit::testing
