// Lease: the right to one invocation on one sandbox.
//
// Settle it exactly once: release() if the invocation ended cleanly, retire() after anything else,
// refuse() if the host did not admit it. Settling a moved-from lease is a no-op.
// Thread safety: one thread at a time. A Lease may outlive its queue.
// Cost: a plain value, no allocation; settling costs what the backend needs, without waiting.
#pragma once

#include <utility>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/sandbox.h"
#include "faaskit/port/async.h"

namespace faaskit {

// What was granted. A value: it stays true of this lease whatever becomes of the sandbox.
struct LeaseGrant {
  Sandbox sandbox{};
  Token token = 0;
  LeaseId id{};
  Ticket ticket = 0;
  StartKind start = StartKind::warm;
  bool cross_shard = false;
  void* record = nullptr;  // the backend's own
};

// Who granted it: the part of a backend that lives until its last lease is settled.
class FAASKIT_EXPORT LeaseOwner {
 public:
  LeaseOwner(const LeaseOwner&) = delete;
  LeaseOwner& operator=(const LeaseOwner&) = delete;

  // Called once per lease, from any thread; must not wait. `this` may be gone when it returns.
  virtual void settle(const LeaseGrant& grant, Outcome outcome) noexcept = 0;
  // The same, and `done` (posted) says when the outcome is known to be recorded.
  virtual void settle_and_tell(const LeaseGrant& grant, Outcome outcome, asio::any_io_executor home,
                               Handler<absl::Status> done) = 0;
  virtual asio::any_io_executor get_executor() const = 0;

 protected:
  LeaseOwner() = default;
  virtual ~LeaseOwner() = default;
};

class [[nodiscard]] Lease {
 public:
  // For backends.
  Lease(LeaseOwner& owner, const LeaseGrant& grant) noexcept : owner_(&owner), grant_(grant) {}
  Lease(Lease&& other) noexcept : owner_(std::exchange(other.owner_, nullptr)), grant_(other.grant_) {}
  Lease& operator=(Lease&& other) noexcept {
    if (this != &other) {
      settle(Outcome::retired);
      owner_ = std::exchange(other.owner_, nullptr);
      grant_ = other.grant_;
    }
    return *this;
  }
  // Unsettled means that the invocation unwound half-way, so nobody knows what the sandbox holds.
  // A cold start is cheaper than a stranger's data.
  ~Lease() { settle(Outcome::retired); }

  const Sandbox& sandbox() const { return grant_.sandbox; }
  Token token() const { return grant_.token; }
  const LeaseId& id() const { return grant_.id; }
  StartKind start() const { return grant_.start; }
  // Place it had in line; 0 if it never waited. A restart passes it on and so keeps its place.
  Ticket ticket() const { return grant_.ticket; }
  bool cross_shard() const { return grant_.cross_shard; }

  void release() && { settle(Outcome::reusable); }
  void retire() && { settle(Outcome::retired); }
  void refuse() && { settle(Outcome::refused); }

  // release(), for who must know that it is recorded. Completion signature: void(absl::Status)
  //   OK           recorded, or it had ended before
  //   kUnavailable the backend cannot be reached; it goes on trying
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_release(Token&& token) && {
    // The lease itself travels with the operation: one that is never started still retires it.
    return asio::async_initiate<Token, void(absl::Status)>(
        [](auto handler, Lease lease) {
          if (lease.owner_ == nullptr) {
            const auto home = asio::get_associated_executor(handler);
            asio::post(home,
                       [handler = std::move(handler)]() mutable { std::move(handler)(absl::OkStatus()); });
            return;
          }
          LeaseOwner* owner = std::exchange(lease.owner_, nullptr);
          asio::any_io_executor home = detail::home_of(handler, owner->get_executor());
          owner->settle_and_tell(lease.grant_, Outcome::reusable, std::move(home), std::move(handler));
        },
        token, std::move(*this));
  }

 private:
  void settle(Outcome outcome) noexcept {
    if (owner_ != nullptr) std::exchange(owner_, nullptr)->settle(grant_, outcome);
  }

  LeaseOwner* owner_;
  LeaseGrant grant_;
};

}  // namespace faaskit
