// FunctionQueue: competitive consumption for one function, as a pure state machine.
//
// No clock, no lock, no I/O: time comes in as an argument, and what must happen outside goes out through
// Effects. memory::IdleQueue is this under a mutex; the simulation is this under a lossy network.
//
// Rules (the names I1 to I10 are those of docs/invariants.md):
//   - A sandbox goes to the oldest waiter by (priority, ticket) directly; only if nobody waits is it idle.
//   - acquire() is one atomic step: leased, or queued (starts admitted in the same step), or refused.
//   - Grants are of the current version only; caps count a sandbox from its admitted start until gone().
//   - Every operation is idempotent; what is late or stale changes nothing.
//   - Waiters are covered: after every event uncovered ones have starts requested up to the caps; then,
//     within the same caps, what `provisioned` wants.
//   - After breaker_failures failed starts in a row the breaker opens: a long pause in which uncovered calls
//     do not wait. Then one start at a time, until one succeeds.
//   - Removed, a function serves nobody, and counts what retires, until a larger version is defined.
// Cost: O(1) for lease and return without waiters; O(log waiters) with.
// Source: competing consumers, Hohpe & Woolf, Enterprise Integration Patterns (2003); late binding of
// waiters to sandboxes as in CIDRE (ASPLOS 2025).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/core/function_config.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/queue_types.h"
#include "faaskit/core/sandbox.h"

namespace faaskit {

class FAASKIT_EXPORT FunctionQueue {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  // A call in line. The caller owns it (and what it derives from it) and keeps it where it is until it
  // comes back: granted, failed, cancelled, purged or superseded.
  struct Waiter {
    RequestId request;
    std::uint32_t attempt = 1;
    // Smaller is served first; equal ones by ticket.
    std::int32_t priority = 0;
    // 0: none yet. Kept through restarts: pass the ticket of the first enqueue.
    Ticket ticket = 0;
    ShardIndex shard = 0;
    // What becomes of a lease of an earlier attempt that the engine still knows: reusable if it was
    // never used, refused if its host did not admit it.
    Outcome previous = Outcome::reusable;
    // The lease that this is said of, if the caller names one. Any other lease of an earlier attempt went to
    // a late duplicate and was never used: its host never saw the token, and would never end the dispute.
    SandboxId previous_sandbox;
    Token previous_token = 0;
    // A start was requested for this waiter (it makes the difference between stolen and queued).
    bool start_requested = false;
  };

  // The engine's record of a sandbox. Stays in place until it is gone and unpinned. Two cache lines.
  struct alignas(64) Record {
    Sandbox sandbox;
    Token token = 0;
    std::uint32_t pins = 0;
    SandboxState state = SandboxState::idle;
    StartKind start_kind = StartKind::warm;
    bool indexed = false;  // its lease can be found by request id
    bool suspect = false;  // its invoker was purged
    bool cross_shard = false;
    Record* next_idle = nullptr;
    LeaseId lease;      // meaningful while leased or disputed
    Ticket ticket = 0;  // of the waiter it was granted to
    std::uint64_t generation = 0;
    std::uint32_t deaths_before = 0;  // of those that had never served, when this one came
  };

  struct Grant {
    Waiter* waiter;
    Record* record;
  };
  struct Failure {
    Waiter* waiter;
    absl::Status status;
  };
  // What a step wants done outside. Cleared by the caller.
  struct Effects {
    std::vector<Grant> grants;
    std::vector<Failure> failures;
    // Admitted in this step, or sent again because whoever had them may be gone.
    std::vector<StartRequest> starts;
    InvokerId starts_for = 0;  // invoker of the first waiter they are for; 0: nobody waits, any will do
    std::vector<HostNotice> notices;
    bool empty() const { return grants.empty() && failures.empty() && starts.empty() && notices.empty(); }
    void clear();
  };

  enum class AcquireOutcome : std::uint8_t {
    leased,   // `record` is leased to the request; the waiter was not kept
    queued,   // the waiter was kept; `superseded`, if any, is an older waiter of the same request
    refused,  // `status`; the waiter was not kept
    stale,    // a newer attempt is known; the waiter was not kept
  };
  struct AcquireResult {
    AcquireOutcome outcome = AcquireOutcome::refused;
    Record* record = nullptr;
    Waiter* superseded = nullptr;
    absl::Status status;
  };

  // `nonce`: random, not 0. `shards`: how many home shards there are, at least 1.
  FunctionQueue(std::string name, std::uint64_t nonce, std::uint32_t shards);
  ~FunctionQueue();
  FunctionQueue(const FunctionQueue&) = delete;
  FunctionQueue& operator=(const FunctionQueue&) = delete;

  const std::string& name() const { return name_; }
  const FunctionConfig& config() const { return config_; }
  bool defined() const { return life_ == Life::live; }
  bool removed() const { return life_ == Life::removed; }
  // Removed, and nothing is left that retires.
  bool vacant() const;

  // kAborted: an older version than the current one, or not larger than one that was removed. Equal version:
  // only the rules change.
  absl::Status define(const FunctionConfig& config, TimePoint now, Effects& effects);
  // Ends the versions up to `up_to`, or those defined so far: waiters fail as kNotFound, idle sandboxes
  // retire, and busy ones when they return. A larger version that is defined already serves on. kNotFound: it
  // never was.
  absl::Status remove(std::optional<Version> up_to, Effects& effects);

  // A request id of 0 names no call: refused as kInvalidArgument, nullptr on the warm paths.

  // The warm path. nullptr if no sandbox is idle. The lease cannot be found by request id, so the
  // caller must be one that cannot lose the answer.
  Record* try_acquire(const RequestId& request, std::uint32_t attempt, ShardIndex shard);
  // acquire() for a request of which nothing is known, when a sandbox is idle and nobody waits; nullptr, and
  // nothing has happened, in every other case. Needs no waiter, no time, and has no effects.
  Record* acquire_idle(const RequestId& request, std::uint32_t attempt, Ticket ticket, ShardIndex shard);
  AcquireResult acquire(Waiter& waiter, TimePoint now, Effects& effects);

  // Takes the request out of line; or, if it was granted meanwhile, puts that lease back. Returns the
  // waiter that is no longer kept, or nullptr.
  Waiter* cancel(const RequestId& request, std::uint32_t attempt, TimePoint now, Effects& effects);

  // kAborted: another sandbox has claimed it, or its host drains.  kNotFound: not wanted any more.
  // `needs_room`: another function would lose an idle sandbox for it. It is dropped unless it is wanted.
  absl::Status claim(const StartId& start, const SandboxId& sandbox, bool needs_room = false);
  // OK: known now (or it was). kAborted: the sandbox must be destroyed and reported gone.
  absl::Status offer(const Offer& offer, TimePoint now, Effects& effects);
  // Ends the lease (token, lease) of `record`; false if it had ended before.
  bool settle(Record& record, Token token, const LeaseId& lease, Outcome outcome, TimePoint now,
              Effects& effects);
  // settle() as reusable when nobody waits and it becomes idle; false, and nothing has happened, otherwise.
  bool release_idle(Record& record, Token token, const LeaseId& lease);
  bool settle(const SandboxId& id, Token token, const LeaseId& lease, Outcome outcome, TimePoint now,
              Effects& effects);
  // kFailedPrecondition: it is not idle; or the reason is no good one and `provisioned` wants it kept.
  // kNotFound: not known.
  absl::Status withdraw(const SandboxId& id, WithdrawReason reason, TimePoint now, Effects& effects);
  // What was to become `sandbox` is reaped: it is gone, too, if it was known by other ways.
  // `jitter` in [0, 1) is the caller's random number. kAborted: claimed by another sandbox.
  absl::Status start_failed(const StartId& start, const SandboxId& sandbox, const absl::Status& why,
                            double jitter, TimePoint now, Effects& effects);
  void gone(const SandboxId& id, TimePoint now, Effects& effects);
  // `claimed_for`: host 0: whoever has it; otherwise nothing happens if another has claimed it.
  void gone(const StartId& id, const SandboxId& claimed_for, TimePoint now, Effects& effects);

  // `sandboxes`: those of this function on `host`. One of a claimed start is that start until it is
  // offered or has failed; one that is gone is nothing. Answers with what the engine held before.
  std::vector<HeldSandbox> announce(HostId host, const std::vector<AnnouncedSandbox>& sandboxes,
                                    TimePoint now, Effects& effects);
  // The host is dead and its sandboxes with it: records go, claims are cleared, waiters are covered anew.
  void take_over(HostId dead, TimePoint now, Effects& effects);
  // No more grants of sandboxes on `host`; its idle ones retire.
  void drain(HostId host, TimePoint now, Effects& effects);
  // The invoker is gone: its waiters (returned) leave the line, its leases become suspect.
  std::vector<Waiter*> purge(InvokerId invoker, TimePoint now, Effects& effects);
  // Leases of try_acquire() are not reported: who got one cannot have lost the answer.
  // Cost: O(leases that can be found by request id, waiters).
  void repair(InvokerId invoker, TimePoint now, RepairReport& report, Effects& effects);
  // False: repair() has nothing to report or to do, for anybody.
  bool repairable() const;

  // Re-evaluates cover; call it when next_event() has come.
  void evaluate(TimePoint now, Effects& effects);
  // When time alone will change something; TimePoint::max() if never. It may come early, never late.
  //   the end of a backoff, or of the time that the breaker is open, where a start is wanted
  //   the end of the pause before what is provisioned and dies unused is made again
  //   starts that `provisioned` wants are unclaimed, and no waiter is there to have them carried again
  TimePoint next_event() const;

  // A pinned record stays valid after it is gone, until unpinned.
  void pin(Record& record) { ++record.pins; }
  void unpin(Record& record);

  QueueStats stats() const;
  // How many starts of the current version have failed since one succeeded, and the last error.
  std::uint32_t failures_in_a_row() const { return consecutive_failures_; }
  const absl::Status& last_start_error() const { return last_start_error_; }
  std::size_t waiter_count() const;
  const Record* find(const SandboxId& id) const;
  const Waiter* find_waiter(const RequestId& request) const;
  // For checks: every record and waiter, in no particular order.
  std::vector<const Record*> records() const;
  std::vector<const Waiter*> waiters() const;
  bool start_in_flight(const StartId& id) const;
  // Sandboxes that serve, or may when they return: of the current version, on hosts that stay. With the
  // starts of this version they are what `provisioned` counts.
  std::uint64_t serving() const;
  std::uint64_t covering_starts() const;

 private:
  enum class Life : std::uint8_t { undefined, live, removed };
  struct Start {
    Version version = 0;
    SandboxId claimed_by;  // host 0: not claimed
  };
  // In the order in which they will be taken. Singly linked: the way of a call touches its ends only.
  struct IdleList {
    Record* head = nullptr;
    Record* tail = nullptr;
  };
  struct Tables;  // hash maps and the line of waiters; kept out of the header

  IdleList& idle_list(ShardIndex shard);
  Record* take_idle(ShardIndex shard);
  void push_idle(Record& record);
  void unlink_idle(Record& record);
  void lease(Record& record, const RequestId& request, std::uint32_t attempt, StartKind kind, Ticket ticket,
             bool indexed);
  void end_lease(Record& record);
  void place(Record& record, bool fresh, TimePoint now, Effects& effects);
  void retire(Record& record, Effects& effects);
  void retire_excess(bool fifo, Effects& effects);
  void set_state(Record& record, SandboxState state);
  void erase(Record& record);
  void bury(const SandboxId& id);
  bool claimed_start(const SandboxId& id) const;
  bool draining(HostId host) const;
  bool grantable(const Record& record) const;
  bool busy_cover() const;
  // Nothing that is there, or on its way, may serve a waiter.
  bool uncovered() const { return covering_starts() == 0 && !busy_cover(); }
  // More starts of this version than somebody waits for or `provisioned` wants.
  bool surplus_starts() const;
  void forgive_failures();
  void note_failure(const absl::Status& why, double jitter, TimePoint now, Effects& effects);
  absl::Status crash_loop(TimePoint now) const;
  void answer_all(const absl::Status& why, Effects& effects);
  bool at_cap() const;
  bool below_provisioned() const;
  void note_death(const SandboxId& id, TimePoint now);
  bool carried_for_nobody() const;
  void admit(Effects& effects);
  void cover_waiters(Effects& effects);
  void cover_provisioned(Effects& effects);
  void drop_line(Waiter& waiter);
  void send_again(Effects& effects);
  absl::Status nobody_home() const;
  void note_ready_surplus(TimePoint now);
  void trim_steals();
  std::uint64_t live() const { return idle_ + leased_ + disputed_ + retiring_; }

  // What a warm call touches comes first, so that it lies on few cache lines.
  IdleList idle_first_;  // of shard 0
  Version current_ = 0;  // config_.version and order, for the warm path
  std::uint32_t idle_ = 0;
  std::uint32_t leased_ = 0;
  std::uint32_t waiting_ = 0;
  bool fifo_ = false;
  Life life_ = Life::undefined;
  bool draining_any_ = false;
  std::uint64_t warm_ = 0;

  std::unique_ptr<Tables> tables_;
  std::vector<IdleList> idle_others_;  // of shards 1 and up
  std::vector<HostId> draining_;
  FunctionConfig config_;
  QueueStats counters_;

  const std::string name_;
  const std::uint64_t nonce_;
  std::uint64_t next_start_ = 0;
  Ticket last_ticket_ = 0;
  std::uint32_t consecutive_failures_ = 0;
  std::uint32_t crashes_ = 0;  // those of them that count for the breaker
  Breaker breaker_ = Breaker::closed;
  absl::Status last_start_error_;  // of those failures
  // No start is admitted before; the breaker is open until then.
  TimePoint backoff_until_ = TimePoint::min();
  // Deaths of sandboxes that were idle and had never served: in all; of those, in a row, each made after the
  // last; and until when `provisioned` waits for it.
  std::uint32_t deaths_unused_ = 0;
  std::uint32_t deaths_in_a_row_ = 0;
  TimePoint provision_after_ = TimePoint::min();
  TimePoint carry_again_ = TimePoint::max();
  Version ended_ = 0;  // the largest version that was removed
  std::uint64_t disputed_ = 0;
  std::uint64_t retiring_ = 0;
  // The last few that were reaped, against late announcements. Ids are never used again.
  std::vector<SandboxId> gone_;
  // Hand-over times of steals whose start is still in flight, oldest first; never longer than the starts.
  std::vector<TimePoint> steals_;
};

}  // namespace faaskit
