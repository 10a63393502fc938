// If these failed, a call could run twice, lose its place in line, or never be answered.
#include "faaskit/invoke/invocation_machine.h"

#include "catch.hpp"

namespace faaskit {
namespace {

using Action = InvocationMachine::Action;
using TimePoint = InvocationMachine::TimePoint;

constexpr TimePoint kStart{std::chrono::hours(1)};
constexpr TimePoint kDeadline = kStart + std::chrono::seconds(10);

InvocationMachine calling(Ticket ticket = 0, std::uint32_t max_attempts = 5) {
  InvocationMachine machine(kDeadline, max_attempts);
  CHECK(machine.begin().action == Action::acquire);
  CHECK(machine.acquired(ticket).action == Action::call);
  return machine;
}

}  // namespace

TEST_CASE("a call that ends clean is acquire, call, release, answer", "[invoke]") {
  InvocationMachine machine(kDeadline, 5);
  InvocationMachine::Step step = machine.begin();
  CHECK(step.action == Action::acquire);
  CHECK_FALSE(step.settle);
  CHECK(machine.attempt() == 1);
  CHECK(machine.ticket() == 0);
  CHECK(machine.previous() == Outcome::reusable);

  step = machine.acquired(0);
  CHECK(step.action == Action::call);
  CHECK_FALSE(step.settle);
  CHECK_FALSE(machine.finished());

  step = machine.called({.status = absl::OkStatus(), .never_began = false, .clean = true}, kStart);
  CHECK(step.action == Action::finish);
  CHECK(step.settle);
  CHECK(step.outcome == Outcome::reusable);
  CHECK(step.status.ok());
  CHECK(machine.finished());
}

TEST_CASE("what did not end clean is answered and its sandbox retired, never tried again", "[invoke]") {
  const absl::Status why = GENERATE(absl::UnavailableError("signal 9"), absl::DeadlineExceededError("cut"),
                                    absl::InternalError("bad frame"), absl::OkStatus());
  InvocationMachine machine = calling();
  const InvocationMachine::Step step =
      machine.called({.status = why, .never_began = false, .clean = false}, kStart);
  CHECK(step.action == Action::finish);
  CHECK(step.settle);
  CHECK(step.outcome == Outcome::retired);
  CHECK(step.status == why);
  CHECK(machine.attempt() == 1);
}

TEST_CASE("an error that left the sandbox clean is answered and the sandbox released", "[invoke]") {
  InvocationMachine machine = calling();
  const absl::Status why = absl::InvalidArgumentError("payload of 9 bytes; 8 are allowed");
  const InvocationMachine::Step step =
      machine.called({.status = why, .never_began = true, .clean = true}, kStart);
  CHECK(step.action == Action::finish);
  CHECK(step.outcome == Outcome::reusable);
  CHECK(step.status == why);
}

TEST_CASE("a lease that its host did not admit is refused and asked for again with the ticket", "[invoke]") {
  InvocationMachine machine = calling(17);
  const InvocationMachine::Step step =
      machine.called({.status = absl::AbortedError("token 4, but 5 was seen")}, kStart);
  CHECK(step.action == Action::acquire);
  CHECK(step.settle);
  CHECK(step.outcome == Outcome::refused);  // released, it might be granted again while a call runs on it
  CHECK(machine.attempt() == 2);
  CHECK(machine.ticket() == 17);
  CHECK(machine.previous() == Outcome::refused);
}

TEST_CASE("a call that never began is tried on another sandbox with the ticket", "[invoke]") {
  InvocationMachine machine = calling(17);
  const InvocationMachine::Step step =
      machine.called({.status = absl::UnavailableError("died frozen"), .never_began = true}, kStart);
  CHECK(step.action == Action::acquire);
  CHECK(step.settle);
  CHECK(step.outcome == Outcome::retired);
  CHECK(machine.attempt() == 2);
  CHECK(machine.ticket() == 17);
  CHECK(machine.previous() == Outcome::retired);
}

TEST_CASE("a cancelled call is never tried again", "[invoke]") {
  const absl::Status why = absl::CancelledError("cancelled by the caller");
  struct Row {
    bool never_began, clean;
    Outcome outcome;
  };
  for (const Row& row : {Row{true, true, Outcome::reusable}, Row{true, false, Outcome::retired},
                         Row{false, false, Outcome::retired}}) {
    InvocationMachine machine = calling();
    const InvocationMachine::Step step =
        machine.called({.status = why, .never_began = row.never_began, .clean = row.clean}, kStart);
    CHECK(step.action == Action::finish);
    CHECK(step.settle);
    CHECK(step.outcome == row.outcome);
    CHECK(step.status == why);
  }
}

TEST_CASE("a ticket outlives a later attempt that needed none", "[invoke]") {
  InvocationMachine machine = calling(17);
  machine.called({.status = absl::AbortedError("busy")}, kStart);
  CHECK(machine.acquired(0).action == Action::call);  // warm this time
  CHECK(machine.ticket() == 17);
  machine.called({.status = absl::AbortedError("busy")}, kStart);
  CHECK(machine.attempt() == 3);
  CHECK(machine.ticket() == 17);
}

TEST_CASE("nothing is tried again at or after the deadline", "[invoke]") {
  InvocationMachine machine = calling();
  const InvocationMachine::Step step = machine.called({.status = absl::AbortedError("busy")}, kDeadline);
  CHECK(step.action == Action::finish);
  CHECK(absl::IsDeadlineExceeded(step.status));
  CHECK(step.settle);
  CHECK(step.outcome == Outcome::refused);
  CHECK_THAT(std::string(step.status.message()), ContainsSubstring("attempt 1") && ContainsSubstring("busy"));
}

TEST_CASE("attempts are bounded", "[invoke]") {
  InvocationMachine machine = calling(0, 2);
  CHECK(machine.called({.status = absl::AbortedError("busy")}, kStart).action == Action::acquire);
  machine.acquired(0);
  const InvocationMachine::Step step =
      machine.called({.status = absl::UnavailableError("died frozen"), .never_began = true}, kStart);
  CHECK(step.action == Action::finish);
  CHECK(absl::IsUnavailable(step.status));
  CHECK(step.outcome == Outcome::retired);
  CHECK_THAT(std::string(step.status.message()), ContainsSubstring("2 attempts") &&
                                                     ContainsSubstring("max_attempts is 2") &&
                                                     ContainsSubstring("died frozen"));
}

TEST_CASE("a call that got no sandbox is answered with the engine's reason", "[invoke]") {
  InvocationMachine machine(kDeadline, 5);
  machine.begin();
  const InvocationMachine::Step step =
      machine.not_acquired(absl::ResourceExhaustedError("4 calls are waiting"));
  CHECK(step.action == Action::finish);
  CHECK_FALSE(step.settle);  // there is no lease
  CHECK(absl::IsResourceExhausted(step.status));
  CHECK(machine.finished());
}

}  // namespace faaskit
