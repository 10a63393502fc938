// Private: the driver of one sandbox. SandboxMachine decides; this does it: sends, thaws, freezes, reads
// its output, notices its death, and sees it reaped.
//
// Thread: its home shard, but for view() and the members that say otherwise.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>

#include <boost/asio/posix/stream_descriptor.hpp>

#include "faaskit/provision/local_host.h"
#include "faaskit/provision/sandbox_machine.h"
#include "provision/lazy_init.h"
#include "provision/sandbox_output.h"
#include "provision/seat_pool.h"
#include "provision/shard_timers.h"

namespace faaskit {

class HostedSandbox;

// A function version, with what its sandboxes learn of it.
struct HostedVersion : HostedFunction {
  explicit HostedVersion(HostedFunction function) : HostedFunction(std::move(function)) {}
  mutable LazyInit lazy_init;
};

// A shard, as its sandboxes see it.
struct Shard {
  ShardIndex index = 0;
  asio::any_io_executor executor;
  std::unique_ptr<ShardTimers> timers;
};

// What the sandboxes of a host share, and whom they tell.
struct HostContext {
  LocalHostParts parts;
  LocalHostOptions options;
  HostExecutors executors;
  std::shared_ptr<SeatPool> seats;
  // An idle sandbox is wanted for eviction: whoever becomes idle says so.
  std::atomic<bool> eviction_wanted{false};

  virtual ~HostContext() = default;
  // From a shard's thread.
  virtual void became_ready(HostedSandbox& sandbox) = 0;
  virtual void became_idle(HostedSandbox& sandbox) = 0;
  // Reaped; `error`: why it never became ready. Once per sandbox; its seat is removed already or left to
  // the freezer.
  virtual void was_reaped(std::shared_ptr<HostedSandbox> sandbox, absl::Status error) = 0;

  TimePoint now() const { return parts.clock->now(); }
  void emit(Severity severity, std::string_view name, std::string function, std::string detail) const {
    if (parts.events) parts.events->emit({severity, name, std::move(function), std::move(detail)});
  }
};

// What a start brings: a process, where it lives, and how long that took.
struct NewSandbox {
  std::unique_ptr<Seat> seat;
  SandboxHandles handles;
  std::shared_ptr<CodeLease> code;  // null: not from a store
  Phases phases;
  TimePoint running_since{};  // its program
};

class HostedSandbox : public std::enable_shared_from_this<HostedSandbox> {
 public:
  HostedSandbox(std::shared_ptr<HostContext> context, Shard& shard,
                std::shared_ptr<const HostedVersion> function, const Sandbox& sandbox, StartId start,
                double jitter)
      : context_(std::move(context)),
        shard_(shard),
        function_(std::move(function)),
        claimed_at_(context_->now()),
        machine_(sandbox, start, sandbox_rules(function_->lifetime, claimed_at_, jitter)),
        pidfd_(shard.executor),
        output_({.function = function_->spec.name,
                 .sandbox = sandbox.id,
                 .logs = context_->parts.logs,
                 .tail_bytes = context_->options.log_tail_bytes,
                 .max_log_bytes = context_->options.max_log_bytes,
                 .max_log_bytes_per_second = context_->options.max_log_bytes_per_second,
                 .clock = context_->parts.clock}) {}

  // The process exists: open the line and wait for its hello.
  void born(NewSandbox made);
  // It could not be made.
  void not_born(absl::Status why);

  void call(HostCall call, asio::any_io_executor home, Handler<HostReply> done);
  // The caller of that lease's call has gone: if it runs it is answered now, and this sandbox is ended.
  void cancel(Token token, const LeaseId& lease);
  void alarm(Alarm alarm);
  // Whatever it does now, it is ended for `why`.
  void destroy(absl::Status why);
  // As destroy(), and nothing is wrong with it: if it has not started yet, its start has not failed.
  void dismiss(absl::Status why);
  // When no loop runs any more: killed; and then reaped, waiting for it until `deadline`.
  void kill_given_up();
  void reap_given_up(std::chrono::steady_clock::time_point deadline);
  // Ended if idle; a running call may finish, and its offer will be refused.
  void retire(std::string_view why);
  // Of the queue's view: a lease that this host may have to return.
  void answer_lease(Token token, const LeaseId& lease, bool suspect);
  AnnouncedSandbox announced() const { return machine_.announced(function_->spec.name); }
  bool gone() const { return machine_.gone(); }
  bool starting() const { return machine_.starting(); }
  // What the kernel says; nullopt if it is not there any more, or cannot say.
  std::optional<bool> kernel_frozen() { return seat_ ? seat_->frozen() : std::nullopt; }

  // -- Any thread
  const HostedFunction& function() const { return *function_; }
  const Sandbox& sandbox() const { return machine_.sandbox(); }
  const StartId& start() const { return machine_.start(); }
  Shard& shard() const { return shard_; }
  SandboxView view() const;
  SandboxMachine::Published published() const { return machine_.published(); }
  TimePoint idle_since() const { return TimePoint(Duration(idle_since_.load(std::memory_order_relaxed))); }

  // Of the host's control thread: how it counts.
  bool was_ready = false;
  bool evicted = false;
  std::uint64_t kept_at = 0;  // generation of its state when an eviction of it failed

 private:
  struct Running {
    Running(HostCall host_call, asio::any_io_executor executor, Handler<HostReply> handler)
        : call(std::move(host_call)), home(std::move(executor)), done(std::move(handler)) {}
    HostCall call;
    asio::any_io_executor home;
    Handler<HostReply> done;
    TimePoint begun{};
    TimePoint ended{};  // unset: it runs
    bool thawed = false;
    // Not sent yet: a ping is to be answered first.
    std::optional<ChannelCall> held{};
    Phases phases;
  };

  void on_hello(absl::StatusOr<Hello> hello);
  void warm_up();
  void on_warm_up_end(const CallResult& result);
  void warm_up_failed(const absl::Status& why);
  std::string describe_warm_up() const;
  void become_ready();
  void ping();
  void on_pong(const absl::Status& status);
  void no_pong();
  bool pinging() const { return running_ && running_->held; }
  void answer_unbegun(const absl::Status& why);
  void begin_call(ChannelCall call);
  void on_call_end(CallResult result);
  void note_run();
  void on_channel_closed(absl::Status why);
  void on_exit();
  void answer(HostReply reply);
  void cut(absl::Status why);
  void answer_death();
  void offer(const Offer& offer);
  void offered(const Offer& offer, const absl::Status& status);
  void rest(TimePoint now);
  std::chrono::milliseconds grace() const;
  void freeze_now(TimePoint now);
  void confirm_freeze();
  void expire();
  void age_out();
  void retire_used(const std::string& why);
  std::string describe_age() const;
  void clear_idle_alarms();
  absl::Status watch(SandboxHandles& handles);
  void watch_exit();
  void await_end();
  void finish_if_dead();
  void remove_seat();
  void removed(std::unique_ptr<Seat> seat, const absl::Status& status);
  void set(Alarm alarm, TimePoint when) { shard_.timers->set(*this, alarms_, alarm, when); }
  void clear(Alarm alarm) { shard_.timers->clear(*this, alarms_, alarm); }
  std::string describe_death() const;
  bool was_offered() const { return last_offer_ != 0; }

  const std::shared_ptr<HostContext> context_;
  Shard& shard_;
  const std::shared_ptr<const HostedVersion> function_;
  const TimePoint claimed_at_;
  SandboxMachine machine_;
  ArmedAlarms alarms_ = kNoAlarms;

  std::unique_ptr<Seat> seat_;
  std::shared_ptr<CodeLease> code_;  // until nothing of the sandbox is left
  // Set once; read by other threads when `shown_` says so.
  pid_t pid_ = -1;
  std::string cgroup_;
  std::atomic<bool> shown_{false};

  std::unique_ptr<Channel> channel_;
  asio::posix::stream_descriptor pidfd_;
  UniqueFd unwatched_;  // the pidfd, if the loop could not take it: it is looked at from time to time
  SandboxOutput output_;
  std::optional<Running> running_;
  Phases start_phases_;  // told with its first call
  TimePoint running_since_{};
  std::size_t warmed_up_ = 0;                  // payloads it has answered
  bool warming_up_ = false;                    // the next one runs
  absl::Status start_error_;                   // why it never became ready
  bool dismissed_ = false;                     // ended while nothing was wrong with it
  std::optional<absl::Status> death_pending_;  // a dead call's answer, but for its cause
  std::string exit_;                           // how it ended; empty while it runs
  Duration freeze_wait_{};                     // until a freeze that failed is tried again
  Duration confirm_wait_{};
  Duration remove_wait_{};
  TimePoint remove_begun_{};
  TimePoint freeze_asked_{};
  std::chrono::nanoseconds freeze_time_ = Phases::kAbsent;  // of this idle spell
  std::uint64_t last_offer_ = 0;                            // generation
  Duration offer_wait_{};
  std::unique_ptr<Timer> offer_timer_;  // only while an offer must be repeated
  std::atomic<std::int64_t> idle_since_{0};
  std::atomic<std::uint64_t> uses_{0};
};

}  // namespace faaskit
