#include "faaskit/invoke/invocation_machine.h"

#include <cassert>

#include <absl/strings/str_format.h>

namespace faaskit {

InvocationMachine::Step InvocationMachine::begin() {
  assert(phase_ == Phase::fresh);
  phase_ = Phase::acquiring;
  return {.action = Action::acquire, .status = {}};
}

InvocationMachine::Step InvocationMachine::acquired(Ticket ticket) {
  assert(phase_ == Phase::acquiring);
  phase_ = Phase::calling;
  if (ticket != 0) ticket_ = ticket;
  return {.action = Action::call, .status = {}};
}

// The engine has spent its own budget of starts by then; asking again would spend it again.
InvocationMachine::Step InvocationMachine::not_acquired(const absl::Status& why) {
  assert(phase_ == Phase::acquiring);
  return finish(why);
}

InvocationMachine::Step InvocationMachine::called(const CallEnd& end, TimePoint now) {
  assert(phase_ == Phase::calling);
  // Its host has the last word: neither idle nor lost until the host speaks again.
  if (absl::IsAborted(end.status)) return again(Outcome::refused, end.status, now);
  if (end.clean) {
    Step step = finish(end.status);
    step.settle = true;
    step.outcome = Outcome::reusable;
    return step;
  }
  // Nobody waits any more for what was cancelled.
  if (end.never_began && !absl::IsCancelled(end.status)) return again(Outcome::retired, end.status, now);
  Step step = finish(end.status);
  step.settle = true;
  step.outcome = Outcome::retired;
  return step;
}

InvocationMachine::Step InvocationMachine::again(Outcome outcome, const absl::Status& why, TimePoint now) {
  Step step;
  if (now >= deadline_) {
    step = finish(absl::DeadlineExceededError(absl::StrFormat(
        "the deadline passed on attempt %d, which never began: %s", attempt_, why.ToString())));
  } else if (attempt_ >= max_attempts_) {
    step = finish(absl::UnavailableError(
        absl::StrFormat("%d attempts, none of which began; max_attempts is %d; the last: %s", attempt_,
                        max_attempts_, why.ToString())));
  } else {
    ++attempt_;
    previous_ = outcome;
    phase_ = Phase::acquiring;
    step = {.action = Action::acquire, .status = {}};
  }
  step.settle = true;
  step.outcome = outcome;
  return step;
}

InvocationMachine::Step InvocationMachine::finish(absl::Status status) {
  phase_ = Phase::finished;
  return {.action = Action::finish, .status = std::move(status)};
}

}  // namespace faaskit
