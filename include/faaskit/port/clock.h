// Clock: the steady clock and the timers of one composition, so that tests can hold time still.
//
// Thread safety: every member of Clock from any thread; a Timer is used on one executor only.
// Nothing in faaskit reads the wall clock to decide anything.
#pragma once

#include <chrono>
#include <memory>

#include <absl/functional/any_invocable.h>
#include <boost/asio/any_io_executor.hpp>

#include "faaskit/core/export.h"

namespace faaskit {

namespace asio = boost::asio;

using Duration = std::chrono::steady_clock::duration;
using TimePoint = std::chrono::steady_clock::time_point;

// "No deadline" does not exist in faaskit; this is the largest one, for comparisons.
inline constexpr TimePoint kNever = TimePoint::max();

// One-shot timer. Destroying it cancels it: its callback then never runs.
class FAASKIT_EXPORT Timer {
 public:
  Timer(const Timer&) = delete;
  Timer& operator=(const Timer&) = delete;
  virtual ~Timer() = default;
  // Runs `fire` on the timer's executor, not before `when`; replaces what was armed before.
  virtual void arm(TimePoint when, absl::AnyInvocable<void()> fire) = 0;
  virtual void cancel() = 0;

 protected:
  Timer() = default;
};

class FAASKIT_EXPORT Clock {
 public:
  Clock(const Clock&) = delete;
  Clock& operator=(const Clock&) = delete;
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
  virtual std::unique_ptr<Timer> make_timer(asio::any_io_executor executor) = 0;

 protected:
  Clock() = default;
};

// std::chrono::steady_clock and asio::steady_timer. Never null.
FAASKIT_EXPORT std::shared_ptr<Clock> make_steady_clock();

}  // namespace faaskit
