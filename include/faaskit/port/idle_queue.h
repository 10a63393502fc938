// IdleQueue: where idle sandboxes wait, and where invokers compete to lease one.
//
// Exclusion: a sandbox is granted to one lease at a time; its host has the last word (tokens only grow).
// Order: newest idle sandbox of the caller's own shard first; waiters by (priority, ticket). None is
// promised across functions.
// Starts: a call that finds nothing idle joins the waiters, and starts are admitted for it, in one step.
// The queue hands admitted starts to watch_starts(); somebody carries them to a host, which claims one
// before it makes anything.
// Thread safety: every member may be called from any thread at any time.
// Completion: exactly once, posted straight to the handler's associated executor; never inside the
// initiating call and never with a lock held, so a handler may call straight back in. Until then it counts as
// work of that executor, whose run() does not return before.
// Idempotence: every operation may be repeated; acquire by (request id, attempt), the others by what
// they name. What comes late changes nothing.
// Lifetime: the queue must outlive the operations started on it; a Lease may outlive the queue.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/functional/any_invocable.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <boost/asio/use_future.hpp>

#include "faaskit/core/export.h"
#include "faaskit/core/function_config.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/queue_types.h"
#include "faaskit/core/sandbox.h"
#include "faaskit/port/async.h"
#include "faaskit/port/clock.h"
#include "faaskit/port/lease.h"

namespace faaskit {

// A function, resolved once; after that no string is hashed. Valid as long as its queue (or the wrapped
// one, for a wrapper). Copies freely.
class FunctionHandle {
 public:
  FunctionHandle() = default;
  explicit FunctionHandle(void* record) : record_(record) {}
  explicit operator bool() const { return record_ != nullptr; }
  void* get() const { return record_; }  // for the backend that made it
  friend bool operator==(FunctionHandle, FunctionHandle) = default;

 private:
  void* record_ = nullptr;
};

struct TryAcquireParams {
  FunctionHandle function{};
  // As for acquire.
  RequestId request{};
  std::uint32_t attempt = 1;
  // The caller's home shard: sandboxes of the same shard are preferred.
  ShardIndex shard = 0;
};

struct AcquireParams {
  FunctionHandle function{};
  // The caller's own, never used for another call. Must be set: 0 names nobody.
  RequestId request{};
  // Every restart of the same request raises it.
  std::uint32_t attempt = 1;
  // 0 for a new request; a restart passes the lease's, and keeps its place in line.
  Ticket ticket = 0;
  // What becomes of a lease of an earlier attempt, should the engine still know one.
  Outcome previous = Outcome::reusable;
  // The lease that `previous` is said of. Another one of an earlier attempt went to a late duplicate and was
  // never used: it is put back. Token 0: there was none.
  SandboxId previous_sandbox{};
  Token previous_token = 0;
  // Smaller is served first.
  std::int32_t priority = 0;
  ShardIndex shard = 0;
  // Passed through to records; does not change the order.
  std::string tenant{};
  // On the Clock of the composition. There is no waiting without one.
  TimePoint deadline{};
};

struct DefineParams {
  FunctionHandle function{};
  FunctionConfig config{};
};
struct ClaimParams {
  FunctionHandle function{};
  StartId start{};
  SandboxId sandbox{};
  // The host is full, and would end an idle sandbox of another function for this start: it gets it only if
  // somebody waits for it, or `provisioned` wants it. Otherwise the start is dropped (kNotFound).
  bool needs_room = false;
};
struct OfferParams {
  FunctionHandle function{};
  Offer offer{};
};
struct SettleParams {
  FunctionHandle function{};
  SandboxId sandbox{};
  Token token = 0;
  LeaseId lease{};
  Outcome outcome = Outcome::retired;
};
struct CancelParams {
  FunctionHandle function{};
  RequestId request{};
  std::uint32_t attempt = 1;
};
struct WithdrawParams {
  FunctionHandle function{};
  SandboxId sandbox{};
  WithdrawReason reason = WithdrawReason::host;
};
struct RemoveParams {
  FunctionHandle function{};
  // The largest version that ends. Unset: whatever was defined when this arrives. Set it where define() and
  // remove() may overtake each other: a larger version is left alone, a smaller one never comes back.
  std::optional<Version> up_to{};
};
struct StartFailedParams {
  FunctionHandle function{};
  StartId start{};
  SandboxId sandbox{};
  absl::Status why{};
};
// A sandbox that was reaped; or, with `start`, a start that will never be made: as `sandbox`, for which it
// was claimed. A start that another has claimed since is left alone; without a sandbox it goes, whoever has
// it.
struct GoneParams {
  FunctionHandle function{};
  SandboxId sandbox{};
  StartId start{};
};
struct AnnounceParams {
  HostId host = 0;
  std::vector<AnnouncedSandbox> sandboxes{};  // all of them, of every function
};
struct HostParams {
  HostId host = 0;
};
struct InvokerParams {
  InvokerId invoker = 0;
};

// Ends a watch when destroyed; its callback does not run after that on the watch's own executor.
class FAASKIT_EXPORT Watch {
 public:
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
  virtual ~Watch() = default;

 protected:
  Watch() = default;
};

class FAASKIT_EXPORT IdleQueue {
 public:
  using executor_type = asio::any_io_executor;
  using StartsHandler = absl::AnyInvocable<void(std::vector<StartRequest>)>;
  using NoticeHandler = absl::AnyInvocable<void(std::vector<HostNotice>)>;

  IdleQueue(const IdleQueue&) = delete;
  IdleQueue& operator=(const IdleQueue&) = delete;
  virtual ~IdleQueue() = default;
  virtual executor_type get_executor() const = 0;

  // The handle of `function`, made if it was not known. kInvalidArgument: not a function name;
  // kResourceExhausted: the queue's bound on functions.
  virtual absl::StatusOr<FunctionHandle> resolve(std::string_view function) = 0;

  // The name that `function` was resolved by. Valid as long as the handle.
  virtual std::string_view name(FunctionHandle function) const = 0;

  // Leases an idle sandbox if one is at hand without waiting or I/O. The warm path: no allocation, no
  // executor hop. A backend that must ask somebody else always answers nullopt; so does a request id of 0.
  virtual std::optional<Lease> try_acquire(const TryAcquireParams& params) = 0;

  // Leases a sandbox, waiting until `params.deadline`. Completion signature: void(absl::StatusOr<Lease>)
  //   kDeadlineExceeded    waited, nothing came; if starts fail, with the last error
  //   kResourceExhausted   refused at once: too many waiters; the message says how many, and the cap
  //   kUnavailable         no sandbox could be started (exit status and stderr's end); at once while the
  //                        breaker is open (see StartRetry) and nothing covers the call, and then the message
  //                        says when the next try comes. Or the backend cannot be reached; safe to repeat
  //                        with the same request id
  //   kCancelled           cancelled through the slot, or purged; no sandbox was consumed
  //   kAborted             a newer attempt of the same request has taken this one's place
  //   kNotFound            the function is not defined, or was removed, also while this waited
  //   kInvalidArgument     the request id is 0
  // Cancellation: every type but none is honoured, with the total guarantee.
  // Cost: O(log waiters) in memory; one round trip on Redis, none while waiting.
  template <asio::completion_token_for<void(absl::StatusOr<Lease>)> Token>
  auto async_acquire(AcquireParams params, Token&& token) {
    return initiate<absl::StatusOr<Lease>>(this, &IdleQueue::do_acquire, std::move(params),
                                           std::forward<Token>(token));
  }

  // Takes a request out of line, or puts back the lease that overtook the cancel. OK either way.
  // The waiting operation, if any, completes with kCancelled.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_cancel(CancelParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_cancel, std::move(params), std::forward<Token>(token));
  }

  // Sets a function's rules; a larger version is a redeploy. Once it completes with OK, no call that
  // arrives later runs older code, and waiters keep their place. kAborted: an older version, or one that is
  // not larger than those removed. Provisioned concurrency: where the function says so, starts are admitted
  // though nobody waits, now and whenever one is missing later, after those for waiters and within the same
  // caps.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_define(DefineParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_define, std::move(params), std::forward<Token>(token));
  }

  // Ends a function, for good or until define() brings a version larger than every earlier one: its tickets
  // go on then. Who waits is answered kNotFound now. Idle sandboxes retire now, busy ones when their calls
  // have ended; unclaimed starts are dropped, the sandbox of a claimed one is told kAborted when it is
  // offered. All of them count against the caps until they are gone. OK also if it had ended before;
  // kNotFound: never defined. Handles stay good.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_remove(RemoveParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_remove, std::move(params), std::forward<Token>(token));
  }

  // -- What hosts do. Each answers kUnavailable if the backend cannot be reached: repeat it.

  // Takes on a start for `sandbox`, once. kAborted: another has it, or the host is draining.
  // kNotFound: not wanted any more.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_claim(ClaimParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_claim, std::move(params), std::forward<Token>(token));
  }

  // "This sandbox is available", fresh or returned. kAborted: destroy it and report it gone.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_offer(OfferParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_offer, std::move(params), std::forward<Token>(token));
  }
  // The same without waiting or I/O, where the backend can; nullopt where it cannot.
  virtual std::optional<absl::Status> try_offer(const OfferParams& params) = 0;

  // Ends a lease by its names, as Lease::release() and retire() do. OK also if it had ended before.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_settle(SettleParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_settle, std::move(params), std::forward<Token>(token));
  }

  // A host takes an idle sandbox of its own back, to destroy it. kFailedPrecondition: leased meanwhile; or,
  // for keep_alive and eviction, fewer live ones than `provisioned` would be left of its function.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_withdraw(WithdrawParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_withdraw, std::move(params),
                                  std::forward<Token>(token));
  }

  // A claimed start came to nothing, and what there was of its sandbox is reaped. Repeat until OK; a failure
  // beyond the budget is answered to a waiter.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_start_failed(StartFailedParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_start_failed, std::move(params),
                                  std::forward<Token>(token));
  }

  // Reaped: from now on it is not counted.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_gone(GoneParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_gone, std::move(params), std::forward<Token>(token));
  }

  // A host says what it has; the answer is what the queue held for it before. The host then reports gone
  // what it does not have, destroys what is retiring, and returns leases that have ended.
  template <asio::completion_token_for<void(absl::StatusOr<std::vector<HeldSandbox>>)> Token>
  auto async_announce(AnnounceParams params, Token&& token) {
    return initiate<absl::StatusOr<std::vector<HeldSandbox>>>(this, &IdleQueue::do_announce,
                                                              std::move(params), std::forward<Token>(token));
  }

  // -- What keeps the whole going

  // An invoker is gone for good: its waiters leave the line, its leases become suspect.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_purge(InvokerParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_purge, std::move(params), std::forward<Token>(token));
  }
  // No more grants of sandboxes on this host; its idle ones retire.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_drain(HostParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_drain, std::move(params), std::forward<Token>(token));
  }
  // A host is dead and its sandboxes with it: its records go, its claims are free again.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_take_over(HostParams params, Token&& token) {
    return initiate<absl::Status>(this, &IdleQueue::do_take_over, std::move(params),
                                  std::forward<Token>(token));
  }
  // What the queue holds for this invoker, and unclaimed starts of the functions in which it waits.
  // Also re-evaluates cover. Invokers call it every second and after a reconnect. A lease of try_acquire()
  // need not be told: its answer cannot be lost.
  // Cost: in memory, O(calls that wait or hold a lease of async_acquire), whatever else is known.
  template <asio::completion_token_for<void(absl::StatusOr<RepairReport>)> Token>
  auto async_repair(InvokerParams params, Token&& token) {
    return initiate<absl::StatusOr<RepairReport>>(this, &IdleQueue::do_repair, std::move(params),
                                                  std::forward<Token>(token));
  }

  // Starts admitted for waiters of `invoker`, posted to `executor`, at least once each while it waits. Starts
  // that keep `provisioned` go to any one watch, and again, perhaps to another, until a host has claimed
  // them.
  [[nodiscard]] virtual std::unique_ptr<Watch> watch_starts(InvokerId invoker, asio::any_io_executor executor,
                                                            StartsHandler starts) = 0;
  // What the queue asks of `host`, posted to `executor`. Notices may be lost; announce() finds the rest.
  [[nodiscard]] virtual std::unique_ptr<Watch> watch_host(HostId host, asio::any_io_executor executor,
                                                          NoticeHandler notices) = 0;

  // A snapshot, for people and metrics. A remote backend answers what it knows locally.
  virtual QueueStats stats(FunctionHandle function) const = 0;

  // Blocking form of async_acquire(), for tools and tests.
  // REQUIRES: not called on a thread that runs get_executor(); it would wait for itself.
  absl::StatusOr<Lease> acquire(AcquireParams params) {
    return async_acquire(std::move(params), asio::use_future).get();
  }

 protected:
  IdleQueue() = default;

 private:
  friend class IdleQueueWrapper;

  // What a backend implements. Parameters travel in structs, so that adding one later does not break
  // backends we have never seen.
  virtual void do_acquire(AcquireParams params, asio::any_io_executor home,
                          Handler<absl::StatusOr<Lease>> done) = 0;
  virtual void do_cancel(CancelParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_define(DefineParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_remove(RemoveParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_claim(ClaimParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_offer(OfferParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_settle(SettleParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_withdraw(WithdrawParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_start_failed(StartFailedParams params, asio::any_io_executor home,
                               Handler<absl::Status> done) = 0;
  virtual void do_gone(GoneParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_announce(AnnounceParams params, asio::any_io_executor home,
                           Handler<absl::StatusOr<std::vector<HeldSandbox>>> done) = 0;
  virtual void do_purge(InvokerParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_drain(HostParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_take_over(HostParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
  virtual void do_repair(InvokerParams params, asio::any_io_executor home,
                         Handler<absl::StatusOr<RepairReport>> done) = 0;
};

}  // namespace faaskit
