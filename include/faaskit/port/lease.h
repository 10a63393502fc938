// Lease: the right to one invocation on one sandbox.
//
// Settle it exactly once: release() if the invocation ended cleanly, retire() after anything else,
// refuse() if the host did not admit it. Settling a moved-from lease is a no-op.
// Thread safety: one thread at a time. A Lease may outlive its queue.
// Cost: one pointer; settling costs what the backend needs, without waiting.
#pragma once

#include <utility>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/sandbox.h"
#include "faaskit/port/async.h"

namespace faaskit {

// What a backend keeps of a granted lease. It outlives the Lease object and frees itself when settled.
class FAASKIT_EXPORT LeaseState {
 public:
  LeaseState(const LeaseState&) = delete;
  LeaseState& operator=(const LeaseState&) = delete;

  Sandbox sandbox;
  Token token = 0;
  LeaseId id;
  StartKind start = StartKind::warm;
  Ticket ticket = 0;
  bool cross_shard = false;

  // Called once per lease, from any thread; must not wait. `this` may be gone when it returns.
  virtual void settle(Outcome outcome) noexcept = 0;
  // The same, and `done` (posted) says when the outcome is known to be recorded.
  virtual void settle_and_tell(Outcome outcome, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual asio::any_io_executor get_executor() const = 0;

 protected:
  LeaseState() = default;
  virtual ~LeaseState() = default;
};

class [[nodiscard]] Lease {
 public:
  // For backends. `state` is not null.
  explicit Lease(LeaseState* state) noexcept : state_(state) {}
  Lease(Lease&& other) noexcept : state_(std::exchange(other.state_, nullptr)) {}
  Lease& operator=(Lease&& other) noexcept {
    if (this != &other) {
      settle(Outcome::retired);
      state_ = std::exchange(other.state_, nullptr);
    }
    return *this;
  }
  // Unsettled means that the invocation unwound half-way, so nobody knows what the sandbox holds.
  // A cold start is cheaper than a stranger's data.
  ~Lease() { settle(Outcome::retired); }

  // REQUIRES of the accessors: not moved from, not settled.
  const Sandbox& sandbox() const { return state_->sandbox; }
  Token token() const { return state_->token; }
  const LeaseId& id() const { return state_->id; }
  StartKind start() const { return state_->start; }
  // Place it had in line; 0 if it never waited. A restart passes it on and so keeps its place.
  Ticket ticket() const { return state_->ticket; }
  bool cross_shard() const { return state_->cross_shard; }

  void release() && { settle(Outcome::reusable); }
  void retire() && { settle(Outcome::retired); }
  void refuse() && { settle(Outcome::refused); }

  // release(), for who must know that it is recorded. Completion signature: void(absl::Status)
  //   OK           recorded, or it had ended before
  //   kUnavailable the backend cannot be reached; it goes on trying
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_release(Token&& token) && {
    return asio::async_initiate<Token, void(absl::Status)>(
        [](auto handler, LeaseState* state) {
          asio::any_io_executor home = asio::get_associated_executor(handler, state->get_executor());
          state->settle_and_tell(Outcome::reusable, std::move(home), std::move(handler));
        },
        token, std::exchange(state_, nullptr));
  }

 private:
  void settle(Outcome outcome) noexcept {
    if (state_ != nullptr) std::exchange(state_, nullptr)->settle(outcome);
  }
  LeaseState* state_;
};

}  // namespace faaskit
