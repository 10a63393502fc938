#include "faaskit/provision/sandbox_machine.h"

#include <algorithm>
#include <cassert>

#include <absl/strings/str_format.h>

#include "support/time.h"

namespace faaskit {

std::string_view to_string(HostState state) {
  switch (state) {
    case HostState::starting: return "starting";
    case HostState::idle: return "idle";
    case HostState::freezing: return "freezing";
    case HostState::frozen: return "frozen";
    case HostState::busy: return "busy";
    case HostState::ending: return "ending";
    case HostState::gone: return "gone";
  }
  return "?";
}

void SandboxMachine::publish(HostState state) {
  const std::uint64_t changes = (published_.load(std::memory_order_relaxed) >> 8) + 1;
  published_.store((changes << 8) | static_cast<std::uint64_t>(state), std::memory_order_release);
}

SandboxMachine::Published SandboxMachine::published() const {
  const std::uint64_t word = published_.load(std::memory_order_acquire);
  return {.state = static_cast<HostState>(word & 0xff), .generation = word >> 8};
}

Offer SandboxMachine::returned(Token token, const LeaseId& lease) const {
  return {.sandbox = sandbox_,
          .generation = generation_,
          .start = {},
          .token = token,
          .lease = lease,
          .highest_token = highest_};
}

Offer SandboxMachine::ready(TimePoint now) {
  assert(phase_ == Phase::starting);
  phase_ = Phase::idle;
  idle_since_ = now;
  offer_pending_ = true;
  ++generation_;
  publish(HostState::idle);
  return {.sandbox = sandbox_,
          .generation = generation_,
          .start = start_,
          .token = 0,
          .lease = {},
          .highest_token = highest_};
}

void SandboxMachine::offer_acknowledged(std::uint64_t generation) {
  if (generation == generation_) offer_pending_ = false;
}

SandboxMachine::Admission SandboxMachine::admit(Token token, const LeaseId& lease, TimePoint now) {
  Admission admission;
  const Token seen = highest_;
  // Refused tokens count as seen: the rightful holder of a later one must not meet an earlier one's call.
  highest_ = std::max(highest_, token);
  if (ending() || dirty_ || phase_ == Phase::starting) {
    admission.status = absl::AbortedError(absl::StrFormat("admit %s on %s: the sandbox is %s",
                                                          to_string(lease), to_string(sandbox_.id),
                                                          phase_ == Phase::busy       ? "busy"
                                                          : phase_ == Phase::starting ? "starting"
                                                                                      : "ending"));
    return admission;
  }
  if (token <= seen) {
    admission.status = absl::AbortedError(absl::StrFormat(
        "admit %s on %s: token %d, but %d was seen", to_string(lease), to_string(sandbox_.id), token, seen));
    return admission;
  }
  dirty_ = true;
  phase_ = Phase::busy;
  token_ = token;
  lease_ = lease;
  // A lease is proof that the engine knows the sandbox.
  offer_pending_ = false;
  ++uses_;
  admission.thaw = freeze_ != Freeze::no;
  admission.idle_for = now - idle_since_;
  admission.ping = rules_.ping_after && admission.idle_for > *rules_.ping_after;
  freeze_ = Freeze::no;
  // Taken back before the thaw is written: nothing that is marked frozen may run.
  if (admission.thaw) publish(HostState::idle);
  return admission;
}

void SandboxMachine::publish_busy() { publish(HostState::busy); }

Offer SandboxMachine::ended_clean(TimePoint now, bool began) {
  assert(phase_ == Phase::busy && dirty_);
  if (!began) --uses_;
  dirty_ = false;
  phase_ = Phase::idle;
  idle_since_ = now;
  offer_pending_ = true;
  ++generation_;
  publish(HostState::idle);
  return returned(token_, lease_);
}

bool SandboxMachine::end() {
  if (ending()) return false;
  phase_ = Phase::ending;
  dirty_ = true;
  publish(HostState::ending);
  return true;
}

void SandboxMachine::reaped() {
  phase_ = Phase::gone;
  publish(HostState::gone);
}

std::optional<Offer> SandboxMachine::answer_lease(Token token, const LeaseId& lease, bool suspect) {
  // A running call reports its own end; a lease that is on its way may still arrive.
  if (phase_ != Phase::idle || (token > highest_ && !suspect)) return std::nullopt;
  highest_ = std::max(highest_, token);
  offer_pending_ = true;
  ++generation_;
  return returned(token, lease);
}

bool SandboxMachine::wants_freeze(std::chrono::milliseconds grace, TimePoint now) const {
  return phase_ == Phase::idle && freeze_ == Freeze::no && after(idle_since_, grace) <= now;
}

void SandboxMachine::freeze_written() {
  assert(phase_ == Phase::idle);
  freeze_ = Freeze::asked;
  publish(HostState::freezing);
}

void SandboxMachine::freeze_confirmed() {
  if (phase_ != Phase::idle || freeze_ != Freeze::asked) return;
  freeze_ = Freeze::confirmed;
  publish(HostState::frozen);
}

AnnouncedSandbox SandboxMachine::announced(std::string function) const {
  AnnouncedSandbox said{.sandbox = sandbox_,
                        .function = std::move(function),
                        .state = SandboxState::idle,
                        .offer_pending = offer_pending_,
                        .start = {},
                        .token = token_,
                        .lease = lease_,
                        .generation = generation_,
                        .highest_token = highest_};
  switch (phase_) {
    case Phase::starting:
      said.state = SandboxState::starting;
      said.start = start_;
      break;
    case Phase::idle: said.state = SandboxState::idle; break;
    case Phase::busy: said.state = SandboxState::leased; break;
    case Phase::ending: said.state = SandboxState::retiring; break;
    case Phase::gone: said.state = SandboxState::gone; break;
  }
  return said;
}

}  // namespace faaskit
