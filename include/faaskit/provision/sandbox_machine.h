// SandboxMachine: what the host of one sandbox knows and decides about it, as a pure state machine.
//
// The fence: a lease is admitted only with a token greater than any seen. The latch: dirty from the
// moment a call begins until it has ended clean; a dirty sandbox admits nothing and is destroyed. The
// freezer: idle sandboxes freeze after the grace time; a call thaws.
// Thread: its home shard only; published() may be read from anywhere.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/queue_types.h"
#include "faaskit/core/sandbox.h"

namespace faaskit {

// What people and checks see. `busy` is published after the thaw was written; `freezing` until the
// kernel has confirmed.
enum class HostState : std::uint8_t { starting, idle, freezing, frozen, busy, ending, gone };
FAASKIT_EXPORT std::string_view to_string(HostState state);

// When a healthy sandbox has served enough, and when a call is preceded by a ping; see Lifetime.
struct SandboxRules {
  std::optional<std::uint64_t> max_uses{};
  std::chrono::steady_clock::time_point ends_at = std::chrono::steady_clock::time_point::max();
  std::optional<std::chrono::milliseconds> ping_after{};
};

class FAASKIT_EXPORT SandboxMachine {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  SandboxMachine(const Sandbox& sandbox, StartId start, SandboxRules rules = {})
      : sandbox_(sandbox), start_(start), rules_(rules) {}

  // Its first answer came: it becomes idle; make this offer.
  // REQUIRES: starting.
  Offer ready(TimePoint now);
  void offer_acknowledged(std::uint64_t generation);

  struct Admission {
    // OK, or kAborted with the reason.
    absl::Status status;
    // Write a thaw right after the first send.
    bool thaw = false;
    // That first send is a ping; the call follows once it is answered.
    bool ping = false;
    std::chrono::steady_clock::duration idle_for{};
  };
  // The fence. An admitted lease's call runs until ended_clean() or end().
  Admission admit(Token token, const LeaseId& lease, TimePoint now);
  // After the thaw was written, or was not needed.
  void publish_busy();

  // The call ended clean, or provably never reached the sandbox (`began` false; it is then no use of it): the
  // latch is cleared, it is idle; make this offer.
  Offer ended_clean(TimePoint now, bool began = true);
  // It has served enough: a clean end is followed by end() instead, and no offer is made.
  bool worn_out() const { return rules_.max_uses && uses_ >= *rules_.max_uses; }
  bool aged_out(TimePoint now) const { return now >= rules_.ends_at; }

  // Something is wrong, or it is not wanted any more: nothing is admitted from now on. False if it was
  // ending already.
  bool end();
  void reaped();

  // The engine holds the lease (token, lease) of this sandbox; `suspect`: its invoker was purged. If its
  // call cannot be running or begin any more, make this offer, which returns it. A suspect lease that
  // has not begun is fenced off.
  std::optional<Offer> answer_lease(Token token, const LeaseId& lease, bool suspect);

  // -- Freezing
  // Idle since at least `grace` and not frozen yet: write a freeze, then call freeze_written().
  bool wants_freeze(std::chrono::milliseconds grace, TimePoint now) const;
  void freeze_written();
  // The kernel said so, and nothing has come in between.
  void freeze_confirmed();
  bool freezing() const { return freeze_ == Freeze::asked; }
  bool frozen() const { return freeze_ == Freeze::confirmed; }

  bool idle() const { return phase_ == Phase::idle; }
  bool busy() const { return phase_ == Phase::busy; }
  bool starting() const { return phase_ == Phase::starting; }
  bool ending() const { return phase_ == Phase::ending || phase_ == Phase::gone; }
  bool gone() const { return phase_ == Phase::gone; }
  bool dirty() const { return dirty_; }
  TimePoint idle_since() const { return idle_since_; }
  std::uint64_t uses() const { return uses_; }
  const Sandbox& sandbox() const { return sandbox_; }
  const StartId& start() const { return start_; }
  const SandboxRules& rules() const { return rules_; }
  Token highest_token() const { return highest_; }
  const LeaseId& lease() const { return lease_; }
  AnnouncedSandbox announced(std::string function) const;

  struct Published {
    HostState state;
    std::uint64_t generation;  // changes with every change of state
  };
  Published published() const;

 private:
  enum class Phase : std::uint8_t { starting, idle, busy, ending, gone };
  enum class Freeze : std::uint8_t { no, asked, confirmed };
  void publish(HostState state);
  Offer returned(Token token, const LeaseId& lease) const;

  Sandbox sandbox_;
  StartId start_;
  SandboxRules rules_;
  Phase phase_ = Phase::starting;
  Freeze freeze_ = Freeze::no;
  bool dirty_ = false;
  bool offer_pending_ = false;
  Token highest_ = 0;  // ever seen, admitted or refused
  Token token_ = 0;    // of the lease admitted last
  LeaseId lease_;
  std::uint64_t generation_ = 0;  // of idle spells
  std::uint64_t uses_ = 0;
  TimePoint idle_since_{};
  // state in the low byte, a count of changes above it
  std::atomic<std::uint64_t> published_{0};
};

}  // namespace faaskit
