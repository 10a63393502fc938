// QueueStage: one IdleQueue, one function, two shards, two invokers, two hosts and a clock that stands
// still, all played by the calling thread. What tests of queues are written with.
//
// Nothing here sleeps: a wait runs the shards until what is waited for has come, and gives up after 20
// seconds of real time, which a correct queue never needs.
// It watches the completion rule on the way: every answer that comes inline, twice, or on another executor
// than its handler's is noted in broken_rules().
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include "faaskit/port/executors.h"
#include "faaskit/port/idle_queue.h"
#include "faaskit/testing/manual_clock.h"

namespace faaskit::testing {

// How a backend under test is made. Handlers without an executor may complete on any of the shards.
using MakeIdleQueue =
    std::function<std::unique_ptr<IdleQueue>(const HostExecutors& executors, std::shared_ptr<Clock> clock)>;

// What an operation was, or will be, answered.
template <class Result>
class Answer {
 public:
  bool ready() const { return state_->result.has_value(); }
  // REQUIRES: ready().
  Result& get() { return *state_->result; }
  Result take() { return *std::exchange(state_->result, std::nullopt); }

 private:
  friend class QueueStage;
  struct State {
    std::optional<Result> result;
    int completions = 0;
    bool initiating = true;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

class QueueStage {
 public:
  static constexpr InvokerId kInvoker = 0x11;
  static constexpr InvokerId kOther = 0x22;
  static constexpr HostId kHost = 0xa;
  static constexpr HostId kElsewhere = 0xb;
  static constexpr std::size_t kShards = 2;

  explicit QueueStage(const MakeIdleQueue& make) {
    HostExecutors executors;
    for (Shard& shard : shards_) executors.shards.emplace_back(shard.context.get_executor());
    executors.blocking = executors.shards.front();
    queue = make(executors, clock);
    if (queue == nullptr) throw std::runtime_error("QueueStage: the backend under test could not be made");
    f = queue->resolve("thumbnail").value();
    for (const InvokerId invoker : {kInvoker, kOther}) {
      watches.push_back(
          queue->watch_starts(invoker, executor(0), [this, invoker](std::vector<StartRequest> more) {
            auto& all = starts[invoker];
            all.insert(all.end(), more.begin(), more.end());
          }));
    }
    for (const HostId host : {kHost, kElsewhere}) {
      watches.push_back(queue->watch_host(host, executor(0), [this, host](std::vector<HostNotice> more) {
        auto& all = notices[host];
        all.insert(all.end(), more.begin(), more.end());
      }));
    }
  }
  QueueStage(const QueueStage&) = delete;
  QueueStage& operator=(const QueueStage&) = delete;
  ~QueueStage() {
    watches.clear();
    queue.reset();
    poll();
  }

  // -- Running

  asio::any_io_executor executor(std::size_t shard) { return shards_[shard].context.get_executor(); }

  // Runs what is ready on all shards, and what becomes ready by it.
  void poll() {
    for (bool more = true; more;) {
      more = false;
      for (Shard& shard : shards_) {
        shard.context.restart();
        more = shard.context.poll() > 0 || more;
      }
    }
  }
  // False: it has not come within the real time that we are willing to wait.
  bool run_until(const std::function<bool()>& come) {
    const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    for (poll(); !come(); poll()) {
      if (std::chrono::steady_clock::now() > give_up) return false;
      shards_[0].context.run_one_for(std::chrono::milliseconds(1));
    }
    return true;
  }
  // Until everything that was asked before has had its effect: a round trip, and what it brought.
  void settle_down() {
    (void)answer(repair(0xffff));
    poll();
  }
  void advance(Duration step) {
    clock->advance(step);
    settle_down();
  }

  // -- Asking. The handler's executor is that of `shard`.

  template <class Result, class Operation>
  Answer<Result> ask(Operation operation, std::size_t shard = 0) {
    return ask_with<Result>(std::move(operation), [](auto handler) { return handler; }, shard);
  }
  // `decorate` binds more to the handler, such as a cancellation slot.
  template <class Result, class Operation, class Decorate>
  Answer<Result> ask_with(Operation operation, Decorate decorate, std::size_t shard = 0) {
    Answer<Result> answer;
    auto handler = [this, state = answer.state_, shard](Result result) {
      if (state->initiating) broken_rules_.push_back("a completion ran inside the initiating call");
      if (++state->completions > 1) broken_rules_.push_back("an operation completed more than once");
      if (!shards_[shard].context.get_executor().running_in_this_thread()) {
        broken_rules_.push_back("a completion ran on another executor than its handler's");
      }
      state->result.emplace(std::move(result));
    };
    operation(asio::bind_executor(executor(shard), decorate(std::move(handler))));
    answer.state_->initiating = false;
    return answer;
  }
  // Waits for it. Throws if it does not come: there is nothing to go on with.
  template <class Result>
  Result answer(Answer<Result> pending) {
    if (!run_until([&] { return pending.ready(); }))
      throw std::runtime_error("QueueStage: an answer never came");
    return pending.take();
  }
  const std::vector<std::string>& broken_rules() const { return broken_rules_; }

  // -- Invokers

  AcquireParams call(std::uint64_t sequence, InvokerId invoker = kInvoker) const {
    AcquireParams params;
    params.function = f;
    params.request = {.invoker = invoker, .sequence = sequence};
    params.deadline = clock->now() + std::chrono::seconds(10);
    return params;
  }
  Answer<absl::StatusOr<Lease>> acquire(AcquireParams params, std::size_t shard = 0) {
    return ask<absl::StatusOr<Lease>>(
        [&](auto handler) { queue->async_acquire(std::move(params), std::move(handler)); }, shard);
  }
  absl::Status cancel(std::uint64_t sequence, std::uint32_t attempt = 1) {
    return answer(ask<absl::Status>([&](auto handler) {
      queue->async_cancel({.function = f, .request = {kInvoker, sequence}, .attempt = attempt},
                          std::move(handler));
    }));
  }
  // A lease that must come without anything else happening.
  Lease lease(Answer<absl::StatusOr<Lease>> pending) {
    absl::StatusOr<Lease> result = answer(std::move(pending));
    if (!result.ok()) throw std::runtime_error("QueueStage: no lease but " + result.status().ToString());
    return *std::move(result);
  }
  absl::Status define(const FunctionConfig& config) {
    return answer(ask<absl::Status>(
        [&](auto handler) { queue->async_define({.function = f, .config = config}, std::move(handler)); }));
  }
  absl::Status remove(std::optional<Version> up_to = {}) {
    return answer(ask<absl::Status>(
        [&](auto handler) { queue->async_remove({.function = f, .up_to = up_to}, std::move(handler)); }));
  }
  Answer<absl::StatusOr<RepairReport>> repair(InvokerId invoker) {
    return ask<absl::StatusOr<RepairReport>>(
        [&](auto handler) { queue->async_repair({.invoker = invoker}, std::move(handler)); });
  }
  absl::Status purge(InvokerId invoker) {
    return answer(ask<absl::Status>(
        [&](auto handler) { queue->async_purge({.invoker = invoker}, std::move(handler)); }));
  }
  absl::Status settle(const SandboxId& sandbox, Token token, const LeaseId& lease, Outcome outcome) {
    return answer(ask<absl::Status>([&](auto handler) {
      queue->async_settle(
          {.function = f, .sandbox = sandbox, .token = token, .lease = lease, .outcome = outcome},
          std::move(handler));
    }));
  }

  // -- Hosts

  static SandboxId sandbox(std::uint64_t number, HostId host = kHost) {
    return {.host = host, .number = number};
  }

  // The oldest start that was handed to `invoker` and not taken from here yet. Throws if none comes.
  StartRequest next_start(InvokerId invoker = kInvoker) {
    auto& all = starts[invoker];
    if (!run_until([&] { return !all.empty(); }))
      throw std::runtime_error("QueueStage: no start was requested");
    StartRequest first = all.front();
    all.erase(all.begin());
    return first;
  }
  absl::Status claim(const StartId& start, const SandboxId& sandbox, bool needs_room = false) {
    return answer(ask<absl::Status>([&](auto handler) {
      queue->async_claim({.function = f, .start = start, .sandbox = sandbox, .needs_room = needs_room},
                         std::move(handler));
    }));
  }
  absl::Status offer(const Offer& offer) {
    return answer(ask<absl::Status>(
        [&](auto handler) { queue->async_offer({.function = f, .offer = offer}, std::move(handler)); }));
  }
  static Offer fresh(const StartRequest& start, const SandboxId& id, ShardIndex home = 0) {
    Offer offer;
    offer.sandbox = {.id = id, .version = start.version, .home_shard = home};
    offer.generation = 1;
    offer.start = start.id;
    return offer;
  }
  // The host's word that this lease has ended.
  static Offer returned(const Sandbox& sandbox, Token token, const LeaseId& lease, std::uint64_t generation) {
    Offer offer;
    offer.sandbox = sandbox;
    offer.generation = generation;
    offer.token = token;
    offer.lease = lease;
    offer.highest_token = token;
    return offer;
  }
  // A host makes what was asked for: claims it, and offers it.
  absl::Status make(const StartRequest& start, const SandboxId& id, ShardIndex home = 0) {
    if (absl::Status claimed = claim(start.id, id); !claimed.ok()) return claimed;
    return offer(fresh(start, id, home));
  }
  absl::Status start_failed(const StartId& start, const SandboxId& id, const absl::Status& why) {
    return answer(ask<absl::Status>([&](auto handler) {
      queue->async_start_failed({.function = f, .start = start, .sandbox = id, .why = why},
                                std::move(handler));
    }));
  }
  absl::Status withdraw(const SandboxId& id, WithdrawReason reason = WithdrawReason::host) {
    return answer(ask<absl::Status>([&](auto handler) {
      queue->async_withdraw({.function = f, .sandbox = id, .reason = reason}, std::move(handler));
    }));
  }
  absl::Status gone(const SandboxId& id) {
    return answer(ask<absl::Status>([&](auto handler) {
      queue->async_gone({.function = f, .sandbox = id, .start = {}}, std::move(handler));
    }));
  }
  absl::Status gone(const StartId& start) {
    return answer(ask<absl::Status>([&](auto handler) {
      queue->async_gone({.function = f, .sandbox = {}, .start = start}, std::move(handler));
    }));
  }
  absl::Status drain(HostId host) {
    return answer(
        ask<absl::Status>([&](auto handler) { queue->async_drain({.host = host}, std::move(handler)); }));
  }
  absl::Status take_over(HostId host) {
    return answer(
        ask<absl::Status>([&](auto handler) { queue->async_take_over({.host = host}, std::move(handler)); }));
  }
  absl::StatusOr<std::vector<HeldSandbox>> announce(HostId host, std::vector<AnnouncedSandbox> sandboxes) {
    return answer(ask<absl::StatusOr<std::vector<HeldSandbox>>>([&](auto handler) {
      queue->async_announce({.host = host, .sandboxes = std::move(sandboxes)}, std::move(handler));
    }));
  }
  AnnouncedSandbox known_as(const SandboxId& id, SandboxState state, Version version = 1,
                            ShardIndex home = 0) const {
    AnnouncedSandbox said;
    said.sandbox = {.id = id, .version = version, .home_shard = home};
    said.function = "thumbnail";
    said.state = state;
    said.generation = 1;
    return said;
  }
  // An idle sandbox out of nothing: its host announces it.
  SandboxId add_idle(std::uint64_t number, ShardIndex home = 0, HostId host = kHost, Version version = 1) {
    const SandboxId id = sandbox(number, host);
    if (!announce(host, {known_as(id, SandboxState::idle, version, home)}).ok()) {
      throw std::runtime_error("QueueStage: announce failed");
    }
    return id;
  }

  // -- Looking. An announcement of nothing changes nothing, and its answer is what the queue holds.

  std::optional<HeldSandbox> held(const SandboxId& id) {
    const absl::StatusOr<std::vector<HeldSandbox>> all = announce(id.host, {});
    for (const HeldSandbox& one : all.value()) {
      if (one.id == id) return one;
    }
    return std::nullopt;
  }
  // gone: not held.
  SandboxState state(const SandboxId& id) {
    const std::optional<HeldSandbox> one = held(id);
    return one ? one->state : SandboxState::gone;
  }
  std::size_t count(SandboxState state) {
    std::size_t count = 0;
    for (const HostId host : {kHost, kElsewhere}) {
      const absl::StatusOr<std::vector<HeldSandbox>> all = announce(host, {});
      for (const HeldSandbox& one : all.value()) count += one.state == state ? 1 : 0;
    }
    return count;
  }
  bool noticed(HostNotice::Kind kind, const SandboxId& id) {
    settle_down();
    for (const HostNotice& notice : notices[id.host]) {
      if (notice.kind == kind && notice.sandbox == id) return true;
    }
    return false;
  }

 private:
  struct Shard {
    asio::io_context context{1};
    asio::executor_work_guard<asio::io_context::executor_type> work{context.get_executor()};
  };
  Shard shards_[kShards];
  std::vector<std::string> broken_rules_;

 public:
  const std::shared_ptr<ManualClock> clock = std::make_shared<ManualClock>();
  std::unique_ptr<IdleQueue> queue;
  FunctionHandle f;
  // What the watches were told, by whom it was for.
  std::map<InvokerId, std::vector<StartRequest>> starts;
  std::map<HostId, std::vector<HostNotice>> notices;
  std::vector<std::unique_ptr<Watch>> watches;
};

}  // namespace faaskit::testing
