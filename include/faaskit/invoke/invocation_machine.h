// InvocationMachine: what to do next for one invocation, as a pure state machine.
//
// acquire -> call -> settle, and again from the start with the same ticket when the call provably never
// began. The driver does what Step says and tells the machine what came of it.
#pragma once

#include <chrono>
#include <cstdint>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/sandbox.h"

namespace faaskit {

class FAASKIT_EXPORT InvocationMachine {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  enum class Action : std::uint8_t {
    acquire,  // with attempt(), ticket() and previous()
    call,     // on the lease just acquired
    finish,   // with `status`
  };
  struct Step {
    Action action = Action::finish;
    // Settle the lease at hand first, so.
    bool settle = false;
    Outcome outcome = Outcome::retired;
    absl::Status status;
  };
  // How a call ended, as the host says.
  struct CallEnd {
    absl::Status status;  // of the host; OK means that the function ran to its end
    bool never_began = false;
    bool clean = false;
  };

  // `deadline`: of the whole invocation. `max_attempts`: acquires at most, at least 1.
  InvocationMachine(TimePoint deadline, std::uint32_t max_attempts)
      : deadline_(deadline), max_attempts_(max_attempts) {}

  Step begin();
  Step acquired(Ticket ticket);
  Step not_acquired(const absl::Status& why);
  Step called(const CallEnd& end, TimePoint now);

  std::uint32_t attempt() const { return attempt_; }
  Ticket ticket() const { return ticket_; }
  Outcome previous() const { return previous_; }
  bool finished() const { return phase_ == Phase::finished; }

 private:
  enum class Phase : std::uint8_t { fresh, acquiring, calling, finished };
  Step finish(absl::Status status);
  Step again(Outcome outcome, const absl::Status& why, TimePoint now);

  const TimePoint deadline_;
  const std::uint32_t max_attempts_;
  Phase phase_ = Phase::fresh;
  std::uint32_t attempt_ = 1;
  Ticket ticket_ = 0;
  Outcome previous_ = Outcome::reusable;
};

}  // namespace faaskit
