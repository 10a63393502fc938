#include "faaskit/invoke/invoker.h"

#include <algorithm>
#include <atomic>
#include <optional>
#include <random>
#include <utility>

#include <absl/functional/any_invocable.h>
#include <absl/strings/str_format.h>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/dispatch.hpp>

#include "faaskit/core/slots.h"
#include "faaskit/invoke/invocation_machine.h"
#include "support/random.h"
#include "support/time.h"

namespace faaskit {
namespace {

// A call's stream, as its host sees it. Whatever a host or channel does, nothing reaches the caller's stream
// after close(). On the sandbox's home shard, as close() is.
class Relay final : public ReplyStream {
 public:
  Relay(std::shared_ptr<InvocationStream> to, InvocationResult so_far)
      : to_(std::move(to)), so_far_(std::move(so_far)) {}

  void head(ReplyHead head) override {
    if (!to_ || begun_) return;
    begun_ = true;
    if (instead_) {
      to_.reset();  // nor its body
      return instead_();
    }
    to_->head(so_far_, std::move(head));
  }
  void body(Bytes part, Taken taken) override {
    if (to_ && begun_) to_->body(std::move(part), std::move(taken));
  }

  // The caller has seen the beginning of this attempt's answer: there can be no other.
  bool begun() const { return begun_; }
  // The caller has gone: if the head comes nobody takes it, and this is called.
  void instead_of_head(absl::AnyInvocable<void()> what) { instead_ = std::move(what); }
  void close() { to_.reset(); }

 private:
  std::shared_ptr<InvocationStream> to_;
  const InvocationResult so_far_;
  bool begun_ = false;
  absl::AnyInvocable<void()> instead_;
};

// One invocation under way. Touched on its shard's thread only, once it has begun to wait.
struct Call {
  Call(Handler<InvocationResult> handler, TimePoint deadline, std::uint32_t max_attempts)
      : done(std::move(handler)), machine(deadline, max_attempts) {}
  Handler<InvocationResult> done;
  asio::any_io_executor home;
  Invocation invocation;
  InvocationMachine machine;
  TimePoint begun;
  TimePoint deadline;
  ShardIndex shard = 0;
  std::optional<Lease> lease;
  Token last_token = 0;  // of the last one, which `result.sandbox` was leased by
  std::shared_ptr<Relay> relay;
  InvocationResult result;
  // Of the record alone.
  std::chrono::system_clock::time_point arrived;
  std::uint64_t payload_bytes = 0;
  std::uint64_t reply_bytes = 0;
  std::uint64_t log_bytes = 0;
  std::uint64_t lost_log_bytes = 0;
  asio::cancellation_signal stop_waiting;
  bool cancellable = false;
  bool cancelled = false;
  // Where it runs, if its caller may end that; and how to, on that shard's thread.
  std::optional<asio::any_io_executor> running_at;
  asio::cancellation_signal stop_running;

  bool may_be_cut() const {
    return cancellable && (invocation.cancel == Cancel::running_too ||
                           (invocation.cancel == Cancel::streamed_too && relay != nullptr));
  }
  // Cancelled while it runs. On that shard's thread.
  void cut(asio::cancellation_type_t type) {
    if (invocation.cancel == Cancel::running_too || relay->begun()) return stop_running.emit(type);
    relay->instead_of_head(
        [this, type] { stop_running.emit(type); });  // as the relay's, its end is this one's
  }
};
using CallPtr = std::shared_ptr<Call>;

// How many calls there are. Outlives the invoker until the last of them has counted itself out.
struct UnderWay {
  UnderWay(const std::vector<asio::any_io_executor>& shards, std::shared_ptr<bool> invoker_alive)
      : first(shards[0]), alive(std::move(invoker_alive)), calls(shards.size()) {}
  // Per shard, so that shards do not share a cache line.
  struct alignas(64) Counter {
    std::atomic<std::int64_t> number{0};
  };
  const asio::any_io_executor first;
  const std::shared_ptr<bool> alive;  // on that executor
  std::atomic<bool> stopping{false};
  std::vector<Counter> calls;
};

class InvokerImpl final : public Invoker {
 public:
  InvokerImpl(HostExecutors executors, InvokerParts parts, InvokerOptions options)
      : executors_(std::move(executors)),
        parts_(std::move(parts)),
        options_(options),
        id_(random_id()),
        under_way_(std::make_shared<UnderWay>(executors_.shards, alive_)),
        random_(random_id()),
        repair_timer_(parts_.clock->make_timer(executors_.shards[0])),
        watch_(parts_.idle->watch_starts(id_, executors_.shards[0], [this](std::vector<StartRequest> starts) {
          for (StartRequest& start : starts) carry(std::move(start));
        })) {}

  ~InvokerImpl() override { *alive_ = false; }

  executor_type get_executor() const override { return executors_.shards[0]; }
  InvokerId id() const override { return id_; }

 private:
  void do_invoke(Invocation invocation, asio::any_io_executor home, Handler<InvocationResult> done) override {
    const TimePoint now = parts_.clock->now();
    const TimePoint deadline = after(now, invocation.timeout);
    auto call = std::make_shared<Call>(std::move(done), deadline, options_.max_attempts);
    call->home = std::move(home);
    call->invocation = std::move(invocation);
    call->begun = now;
    if (parts_.records) call->arrived = std::chrono::system_clock::now();
    call->payload_bytes = call->invocation.payload.size();
    call->result.phases = call->invocation.phases;
    call->deadline = deadline;
    call->result.request = {.invoker = id_,
                            .sequence = next_sequence_.fetch_add(1, std::memory_order_relaxed) + 1};
    const ShardIndex shards = static_cast<ShardIndex>(executors_.shards.size());
    call->shard = (call->invocation.shard == kAnyShard ? next_shard_.fetch_add(1, std::memory_order_relaxed)
                                                       : call->invocation.shard) %
                  shards;
    under_way_->calls[call->shard].number.fetch_add(1);
    if (under_way_->stopping) return finish(*call, stopped());
    if (!call->invocation.function) return finish(*call, absl::NotFoundError("invoke: no such function"));
    if (call->invocation.shard != kAnyShard && call->invocation.shard >= shards) {
      return finish(*call, absl::InvalidArgumentError(absl::StrFormat("invoke: shard %d, but there are %d",
                                                                      call->invocation.shard, shards)));
    }
    watch_for_cancel(call);
    call->machine.begin();
    std::optional<Lease> lease = parts_.idle->try_acquire({.function = call->invocation.function,
                                                           .request = call->result.request,
                                                           .attempt = 1,
                                                           .shard = call->shard});
    if (lease) return leased(std::move(call), std::move(*lease));
    acquire(std::move(call));
  }

  void watch_for_cancel(const CallPtr& call) {
    auto slot = asio::get_associated_cancellation_slot(call->done);
    if (!slot.is_connected()) return;
    call->cancellable = true;
    slot.assign([weak = std::weak_ptr<Call>(call),
                 shard = executors_.shards[call->shard]](asio::cancellation_type_t type) {
      if (type == asio::cancellation_type::none) return;
      asio::post(shard, [weak, type] {
        CallPtr call = weak.lock();
        if (!call) return;
        call->cancelled = true;
        call->stop_waiting.emit(type);
        if (!call->running_at) return;
        const asio::any_io_executor there = *call->running_at;
        asio::post(there, [call = std::move(call), type] { call->cut(type); });
      });
    });
  }

  // On the call's own shard, so that its cancellation signal has one thread.
  void acquire(CallPtr call) {
    const asio::any_io_executor& shard = executors_.shards[call->shard];
    asio::dispatch(shard, [this, call = std::move(call)]() mutable {
      call->running_at.reset();
      if (call->cancelled) return cancelled(*call);
      if (under_way_->stopping) return finish(*call, stopped());
      begin_waiting();
      AcquireParams params{.function = call->invocation.function,
                           .request = call->result.request,
                           .attempt = call->machine.attempt(),
                           .ticket = call->machine.ticket(),
                           .previous = call->machine.previous(),
                           .previous_sandbox = call->result.sandbox,
                           .previous_token = call->last_token,
                           .priority = call->invocation.priority,
                           .shard = call->shard,
                           .tenant = call->invocation.tenant,
                           .deadline = call->deadline};
      const auto slot = call->stop_waiting.slot();
      const auto& executor = executors_.shards[call->shard];
      parts_.idle->async_acquire(
          std::move(params),
          asio::bind_cancellation_slot(
              slot, asio::bind_executor(executor,
                                        [this, call = std::move(call)](absl::StatusOr<Lease> lease) mutable {
                                          waiting_.fetch_sub(1, std::memory_order_relaxed);
                                          if (!lease.ok()) {
                                            if (absl::IsUnavailable(lease.status())) put_back(*call);
                                            return perform(call, call->machine.not_acquired(lease.status()));
                                          }
                                          if (call->cancelled) return unused(*call, *std::move(lease));
                                          leased(std::move(call), *std::move(lease));
                                        })));
    });
  }

  // The answer may have been lost after a lease was granted; nobody else would ever end that one.
  void put_back(const Call& call) {
    give_back({.function = call.invocation.function,
               .request = call.result.request,
               .attempt = call.machine.attempt()});
  }
  void give_back(CancelParams params) {
    parts_.idle->async_cancel(
        params,
        asio::bind_executor(executors_.shards[0], [this, alive = alive_, params](absl::Status status) {
          if (!*alive || !absl::IsUnavailable(status)) return;
          lost_.push_back(params);
          arm_repair();
        }));
  }

  void leased(CallPtr call, Lease lease) {
    call->result.wait = parts_.clock->now() - call->begun;
    call->result.start = lease.start();
    call->result.sandbox = lease.sandbox().id;
    call->result.version = lease.sandbox().version;
    call->result.cross_shard = lease.cross_shard();
    call->result.attempts = call->machine.attempt();
    call->result.phases.set(Phase::acquire, call->result.wait);
    call->last_token = lease.token();
    call->machine.acquired(lease.ticket());
    if (call->invocation.stream) call->relay = std::make_shared<Relay>(call->invocation.stream, call->result);
    const ShardIndex home = lease.sandbox().home_shard;
    HostCall host_call{.sandbox = lease.sandbox().id,
                       .home_shard = home,
                       .token = lease.token(),
                       .lease = lease.id(),
                       .deadline = call->deadline,
                       .trace = call->invocation.trace,
                       .content_type = call->invocation.content_type,
                       .metadata = call->invocation.metadata,
                       .payload = std::move(call->invocation.payload),
                       .stream = call->relay};
    call->lease.emplace(std::move(lease));
    const asio::any_io_executor& there = executors_.shards[home % executors_.shards.size()];
    if (call->may_be_cut()) return run_until_cut(std::move(call), std::move(host_call), there);
    parts_.host->async_call(
        std::move(host_call),
        asio::bind_executor(there, [this, call = std::move(call)](HostReply reply) mutable {
          replied(call, std::move(reply));
        }));
  }

  // By way of its own shard, where a cancellation comes; and begun where it will be passed on, so that the
  // signal has one thread.
  void run_until_cut(CallPtr call, HostCall host_call, const asio::any_io_executor& there) {
    const asio::any_io_executor& shard = executors_.shards[call->shard];
    asio::dispatch(shard, [this, there, call = std::move(call), host_call = std::move(host_call)]() mutable {
      if (call->cancelled) return unused(*call, *std::exchange(call->lease, std::nullopt));
      call->running_at = there;
      asio::dispatch(
          there, [this, there, call = std::move(call), host_call = std::move(host_call)]() mutable {
            const auto slot = call->stop_running.slot();
            parts_.host->async_call(
                std::move(host_call),
                asio::bind_cancellation_slot(
                    slot, asio::bind_executor(there, [this, call = std::move(call)](HostReply reply) mutable {
                      replied(call, std::move(reply));
                    })));
          });
    });
  }

  void replied(const CallPtr& call, HostReply reply) {
    InvocationMachine::CallEnd end{
        .status = reply.status, .never_began = reply.never_began, .clean = reply.clean};
    if (call->relay) {
      if (call->relay->begun()) end.never_began = false;
      call->relay->close();
    }
    InvocationMachine::Step step = call->machine.called(end, parts_.clock->now());
    call->invocation.payload = std::move(reply.payload);
    call->result.run = reply.run_time;
    call->result.log_tail = std::move(reply.log_tail);
    call->result.memory_peak_bytes = reply.memory_peak_bytes;
    call->result.memory_source = reply.memory_source;
    take_phases(*call, reply.phases);
    call->log_bytes = reply.log_bytes;
    call->lost_log_bytes = reply.lost_log_bytes;
    call->result.use = reply.use;
    if (step.action == InvocationMachine::Action::finish && step.status.ok()) {
      step.status = std::move(reply.reply.function_status);
      call->reply_bytes = std::max<std::uint64_t>(reply.reply.payload_bytes, reply.reply.payload.size());
      call->result.payload = std::move(reply.reply.payload);
      call->result.content_type = std::move(reply.reply.content_type);
      call->result.metadata = std::move(reply.reply.metadata);
    }
    perform(call, std::move(step));
  }

  // Those of the attempt that ended last.
  static void take_phases(Call& call, const Phases& host) {
    Phases& phases = call.result.phases = call.invocation.phases;
    phases.set(Phase::acquire, call.result.wait);
    for (std::size_t i = 0; i < kPhaseCount; ++i) {
      const Phase phase = static_cast<Phase>(i);
      const bool of_start = phase >= Phase::start_queue && phase <= Phase::hello;
      // A start that nobody waited for did not cost its first call any time.
      if (host.has(phase) && (!of_start || call.result.start == StartKind::cold))
        phases.set(phase, host[phase]);
    }
  }

  void perform(const CallPtr& call, InvocationMachine::Step step) {
    if (step.settle) {
      const TimePoint begun = parts_.clock->now();
      Lease lease = *std::move(call->lease);
      call->lease.reset();
      switch (step.outcome) {
        case Outcome::reusable: std::move(lease).release(); break;
        case Outcome::retired: std::move(lease).retire(); break;
        case Outcome::refused: std::move(lease).refuse(); break;
      }
      Phases& phases = call->result.phases;
      const auto before = phases.has(Phase::settle) ? phases[Phase::settle] : std::chrono::nanoseconds(0);
      phases.set(Phase::settle, before + (parts_.clock->now() - begun));
    }
    if (step.action == InvocationMachine::Action::acquire) return acquire(call);
    finish(*call, std::move(step.status));
  }

  static absl::Status stopped() { return absl::CancelledError("invoke: this invoker is stopping"); }
  // A lease that overtook the cancel is put back as it came.
  void unused(Call& call, Lease lease) {
    std::move(lease).release();
    cancelled(call);
  }
  void cancelled(Call& call) {
    finish(call, absl::CancelledError("invoke: cancelled by the caller while it waited"));
  }

  void finish(Call& call, absl::Status status) {
    call.result.status = std::move(status);
    call.result.total = parts_.clock->now() - call.begun;
    if (call.result.sandbox.host == 0) {
      call.result.wait = call.result.total;
      call.result.phases.set(Phase::acquire, call.result.wait);
    }
    const ShardIndex shard = call.shard;
    std::optional<ExecutionRecord> record;
    if (parts_.records) record = begin_record(call);
    call.invocation.stream.reset();  // nobody holds it any more when the caller hears of the end
    asio::post(call.home, [done = std::move(call.done), result = std::move(call.result),
                           cancellable = call.cancellable]() mutable {
      if (cancellable) asio::get_associated_cancellation_slot(done).clear();
      std::move(done)(std::move(result));
    });
    if (record) {
      if (call.invocation.function) record->function = parts_.idle->name(call.invocation.function);
      record->tenant = std::move(call.invocation.tenant);
      record->trace = std::move(call.invocation.trace);
      parts_.records->write(*record);
    }
    // Once the last call is not counted any more, whoever waits for that may end this invoker.
    const std::shared_ptr<UnderWay> under_way = under_way_;
    under_way->calls[shard].number.fetch_sub(1);
    if (under_way->stopping) {
      asio::post(under_way->first, [this, alive = under_way->alive] {
        if (*alive) tell_stopped();
      });
    }
  }

  // What is known before the result is given away; its texts are added once the caller has its answer.
  static ExecutionRecord begin_record(const Call& call) {
    const InvocationResult& result = call.result;
    return {.request = result.request,
            .version = result.version,
            .arrived = call.arrived,
            .status = result.status,
            .start = result.start,
            .sandbox = result.sandbox,
            .cross_shard = result.cross_shard,
            .attempts = result.attempts,
            .use = result.use,
            .total = result.total,
            .phases = result.phases,
            .payload_bytes = call.payload_bytes,
            .reply_bytes = call.reply_bytes,
            .memory_peak_bytes = result.memory_peak_bytes,
            .memory_source = result.memory_source,
            .log_bytes = call.log_bytes,
            .lost_log_bytes = call.lost_log_bytes};
  }

  // -- Stop. On shard 0, but for the flag.

  void do_stop(StopParams, asio::any_io_executor home, Handler<absl::Status> done) override {
    under_way_->stopping = true;
    // A turn of each shard: what it was about to queue is queued by then, or sees that we stop.
    auto turns = std::make_shared<std::atomic<std::size_t>>(executors_.shards.size());
    for (const asio::any_io_executor& shard : executors_.shards) {
      asio::post(shard, [this, first = executors_.shards[0], alive = alive_, turns] {
        if (turns->fetch_sub(1) != 1) return;
        asio::post(first, [this, alive] {
          if (*alive) purge();
        });
      });
    }
    asio::post(executors_.shards[0],
               [this, alive = alive_, home = std::move(home), done = std::move(done)]() mutable {
                 if (!*alive) return;
                 stoppers_.emplace_back(std::move(home), std::move(done));
                 tell_stopped();
               });
  }

  void purge() {
    InvokerParams params{.invoker = id_};
    parts_.idle->async_purge(
        params, asio::bind_executor(executors_.shards[0], [this, alive = alive_](absl::Status status) {
          if (!*alive || !absl::IsUnavailable(status)) return;
          purge_again_ = true;
          arm_repair();
        }));
  }

  void tell_stopped() {
    for (const UnderWay::Counter& counter : under_way_->calls) {
      if (counter.number.load() != 0) return;
    }
    for (auto& [home, done] : stoppers_) complete(home, std::move(done), absl::OkStatus());
    stoppers_.clear();
  }

  // -- Starts: to the less loaded of the two owners. On shard 0.

  void carry(StartRequest start) {
    const std::shared_ptr<const SlotMap> map = parts_.slots->snapshot();
    const CandidateSlots slots = candidate_slots(start.function);
    HostId owner = map->owner[slots.primary];
    const HostId other = map->owner[slots.secondary];
    if (owner == 0 || (other != 0 && other != owner &&
                       less_loaded(parts_.starts->load(owner), parts_.starts->load(other), random_()) == 1)) {
      owner = other;
    }
    if (owner == 0) return;  // nobody owns the slots; the next repair tries again
    PushParams params{.host = owner, .start = std::move(start)};
    // A refused push is repeated by the next repair: the start stays in its outbox until claimed.
    parts_.starts->async_push(std::move(params),
                              asio::bind_executor(executors_.shards[0], [](absl::Status) {}));
  }

  void begin_waiting() {
    if (waiting_.fetch_add(1, std::memory_order_relaxed) != 0) return;
    asio::post(executors_.shards[0], [this, alive = alive_] {
      if (*alive) arm_repair();
    });
  }

  void arm_repair() {
    if (repairing_) return;
    repairing_ = true;
    repair_timer_->arm(parts_.clock->now() + options_.repair_period, [this] { repair(); });
  }

  void repair() {
    repairing_ = false;
    for (CancelParams& params : std::exchange(lost_, {})) give_back(params);
    if (std::exchange(purge_again_, false)) purge();
    if (waiting_.load(std::memory_order_relaxed) == 0) return;
    arm_repair();
    InvokerParams params{.invoker = id_};
    parts_.idle->async_repair(
        params, asio::bind_executor(executors_.shards[0],
                                    [this, alive = alive_](absl::StatusOr<RepairReport> report) {
                                      if (!*alive || !report.ok()) return;
                                      for (StartRequest& start : report->unclaimed) carry(std::move(start));
                                    }));
  }

  const HostExecutors executors_;
  const InvokerParts parts_;
  const InvokerOptions options_;
  const InvokerId id_;
  std::atomic<std::uint64_t> next_sequence_{0};
  std::atomic<ShardIndex> next_shard_{0};
  std::atomic<std::uint64_t> waiting_{0};
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);  // on shard 0
  const std::shared_ptr<UnderWay> under_way_;
  // On shard 0.
  std::mt19937_64 random_;
  bool repairing_ = false;
  bool purge_again_ = false;
  std::vector<std::pair<asio::any_io_executor, Handler<absl::Status>>> stoppers_;
  std::vector<CancelParams> lost_;  // cancels that could not be delivered, to be sent again
  std::unique_ptr<Timer> repair_timer_;
  std::unique_ptr<Watch> watch_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Invoker>> make_invoker(HostExecutors executors, InvokerParts parts,
                                                      InvokerOptions options) {
  if (executors.shards.empty()) return absl::InvalidArgumentError("make_invoker: no shards; at least one");
  if (parts.idle == nullptr || parts.starts == nullptr || parts.slots == nullptr || parts.host == nullptr) {
    return absl::InvalidArgumentError("make_invoker: idle, starts, slots and host must all be given");
  }
  if (options.max_attempts == 0)
    return absl::InvalidArgumentError("make_invoker: max_attempts is 0; at least 1");
  if (options.repair_period.count() <= 0) {
    return absl::InvalidArgumentError("make_invoker: repair_period must be positive");
  }
  if (!parts.clock) parts.clock = make_steady_clock();
  return std::make_unique<InvokerImpl>(std::move(executors), std::move(parts), options);
}

}  // namespace faaskit
