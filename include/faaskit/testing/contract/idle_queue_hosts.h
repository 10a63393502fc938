// Of the IdleQueue contract: hosts, repair, and many threads at once.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <future>
#include <thread>
#include <utility>
#include <vector>

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>

#include "faaskit/testing/contract/idle_queue_base.h"

namespace faaskit::testing::contract {

inline void hosting(QueueStage& stage) {
  REQUIRE(stage.define(config()).ok());
  const SandboxId one = stage.sandbox(1);

  SECTION("announce inserts what is not known, each as its host says") {
    AnnouncedSandbox busy = stage.known_as(stage.sandbox(2), SandboxState::leased);
    busy.token = 7;
    busy.highest_token = 9;
    busy.lease = {.request = {QueueStage::kInvoker, 70}, .attempt = 2};
    AnnouncedSandbox unacknowledged = stage.known_as(stage.sandbox(3), SandboxState::idle);
    unacknowledged.offer_pending = true;
    AnnouncedSandbox starting = stage.known_as(stage.sandbox(5), SandboxState::starting);
    starting.start = {.nonce = 1, .number = 1};
    REQUIRE(
        stage
            .announce(QueueStage::kHost, {stage.known_as(one, SandboxState::idle), busy, unacknowledged,
                                          stage.known_as(stage.sandbox(4), SandboxState::retiring), starting})
            .ok());
    CHECK(stage.state(one) == SandboxState::idle);
    const std::optional<HeldSandbox> held = stage.held(stage.sandbox(2));
    REQUIRE(held.has_value());
    CHECK(held->state == SandboxState::leased);
    CHECK(held->lease == busy.lease);
    CHECK(held->token == 9);
    CHECK(held->function == "thumbnail");
    CHECK(stage.state(stage.sandbox(3)) == SandboxState::gone);
    CHECK(stage.state(stage.sandbox(4)) == SandboxState::retiring);
    CHECK(stage.state(stage.sandbox(5)) == SandboxState::gone);
  }
  SECTION("announce makes a function known that nobody has resolved") {
    AnnouncedSandbox said = stage.known_as(one, SandboxState::idle);
    said.function = "other";
    REQUIRE(stage.announce(QueueStage::kHost, {said}).ok());
    const std::optional<HeldSandbox> held = stage.held(one);
    REQUIRE(held.has_value());
    CHECK(held->function == "other");
    // Deploying it decides what the sandbox is worth.
    FunctionConfig newer = config();
    newer.version = 2;
    REQUIRE(stage
                .answer(stage.ask<absl::Status>([&](auto handler) {
                  stage.queue->async_define(
                      {.function = stage.queue->resolve("other").value(), .config = newer},
                      std::move(handler));
                }))
                .ok());
    CHECK(stage.state(one) == SandboxState::retiring);
  }
  SECTION("announce answers what the queue held before, and changes no known record") {
    stage.add_idle(1);
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    const auto held = stage.announce(
        QueueStage::kHost,
        {stage.known_as(one, SandboxState::idle), stage.known_as(stage.sandbox(2), SandboxState::idle)});
    REQUIRE(held.ok());
    REQUIRE(held->size() == 1);
    CHECK(held->front().id == one);
    CHECK(held->front().state == SandboxState::leased);
    CHECK(held->front().token == lease.token());
    CHECK(held->front().lease == lease.id());
    CHECK_FALSE(held->front().suspect);
    CHECK(stage.state(one) == SandboxState::leased);
    CHECK(stage.state(stage.sandbox(2)) == SandboxState::idle);
  }
  SECTION("tokens go on from the highest that the host has seen") {
    AnnouncedSandbox said = stage.known_as(one, SandboxState::idle);
    said.highest_token = 41;
    REQUIRE(stage.announce(QueueStage::kHost, {said}).ok());
    CHECK(stage.lease(stage.acquire(stage.call(1))).token() == 42);
  }
  SECTION("a lease that was announced ends like any other") {
    AnnouncedSandbox busy = stage.known_as(one, SandboxState::leased);
    busy.token = busy.highest_token = 7;
    busy.lease = {.request = {QueueStage::kInvoker, 70}, .attempt = 1};
    REQUIRE(stage.announce(QueueStage::kHost, {busy}).ok());
    REQUIRE(stage.offer(stage.returned(busy.sandbox, 7, busy.lease, 2)).ok());
    CHECK(stage.state(one) == SandboxState::idle);
  }
  SECTION("an announced idle sandbox serves who waits") {
    auto waiting = stage.acquire(stage.call(1));
    stage.settle_down();
    stage.add_idle(1);
    CHECK(stage.lease(waiting).sandbox().id == one);
  }
  SECTION("drain: no more grants of that host's sandboxes, its idle ones retire, others serve on") {
    stage.add_idle(1);
    stage.add_idle(2);
    const SandboxId elsewhere = stage.add_idle(1, 0, QueueStage::kElsewhere);
    Lease first = stage.lease(stage.acquire(stage.call(1)));
    Lease running = stage.lease(stage.acquire(stage.call(2)));
    CHECK(first.sandbox().id == elsewhere);
    std::move(first).release();
    stage.settle_down();
    REQUIRE(running.sandbox().id == stage.sandbox(2));
    REQUIRE(stage.drain(QueueStage::kHost).ok());
    REQUIRE(stage.drain(QueueStage::kHost).ok());
    CHECK(stage.noticed(HostNotice::Kind::retire, one));
    CHECK(stage.state(one) == SandboxState::retiring);
    CHECK(stage.state(elsewhere) == SandboxState::idle);
    std::move(running).release();
    stage.settle_down();
    CHECK(stage.state(stage.sandbox(2)) == SandboxState::retiring);
    CHECK(stage.lease(stage.acquire(stage.call(3))).sandbox().id == elsewhere);
  }
  SECTION("drain: that host claims no more starts, others do") {
    auto waiting = stage.acquire(stage.call(1));
    const StartRequest start = stage.next_start();
    REQUIRE(stage.drain(QueueStage::kHost).ok());
    CHECK(absl::IsAborted(stage.claim(start.id, one)));
    CHECK(stage.make(start, stage.sandbox(1, QueueStage::kElsewhere)).ok());
    CHECK(stage.lease(waiting).start() == StartKind::cold);
  }
  SECTION("drain: its fresh sandboxes are not granted, and their waiters have starts requested anew") {
    auto waiting = stage.acquire(stage.call(1));
    const StartRequest start = stage.next_start();
    REQUIRE(stage.claim(start.id, one).ok());
    REQUIRE(stage.drain(QueueStage::kHost).ok());
    (void)stage.offer(stage.fresh(start, one));
    stage.settle_down();
    CHECK_FALSE(waiting.ready());
    const StartRequest another = stage.next_start();
    CHECK(stage.make(another, stage.sandbox(1, QueueStage::kElsewhere)).ok());
    CHECK(stage.lease(waiting).sandbox().id.host == QueueStage::kElsewhere);
  }
  SECTION("take_over: a dead host's sandboxes go, its claims are free, and waiters are covered anew") {
    REQUIRE(stage.define(config(3)).ok());
    stage.add_idle(1);
    stage.add_idle(2);
    const SandboxId elsewhere = stage.add_idle(1, 0, QueueStage::kElsewhere);
    Lease a = stage.lease(stage.acquire(stage.call(1)));
    Lease b = stage.lease(stage.acquire(stage.call(2)));
    Lease c = stage.lease(stage.acquire(stage.call(3)));
    auto waiting = stage.acquire(stage.call(4));
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].empty());  // at the cap
    REQUIRE(stage.take_over(QueueStage::kHost).ok());
    CHECK(stage.count(SandboxState::leased) == 1);
    CHECK(stage.state(elsewhere) == SandboxState::leased);
    const StartRequest start = stage.next_start();
    REQUIRE(stage.claim(start.id, stage.sandbox(8)).ok());
    REQUIRE(stage.take_over(QueueStage::kHost).ok());
    CHECK(stage.make(start, stage.sandbox(2, QueueStage::kElsewhere)).ok());
    CHECK(stage.lease(waiting).sandbox().id == stage.sandbox(2, QueueStage::kElsewhere));
    CHECK(absl::IsAborted(stage.offer(stage.fresh(start, stage.sandbox(8)))));
  }
}

inline void keeping_going(QueueStage& stage) {
  REQUIRE(stage.define(config(2)).ok());
  const auto call = [&](std::uint64_t sequence) { return stage.call(sequence, QueueStage::kOther); };

  SECTION("purge: an invoker's waiters leave the line as cancelled, its leases become suspect") {
    stage.add_idle(1);
    Lease lease = stage.lease(stage.acquire(call(1)));
    auto theirs = stage.acquire(call(2));
    auto ours = stage.acquire(stage.call(3));
    auto later = stage.acquire(call(4));
    REQUIRE(stage.purge(QueueStage::kOther).ok());
    CHECK(absl::IsCancelled(stage.answer(theirs).status()));
    CHECK(absl::IsCancelled(stage.answer(later).status()));
    CHECK_FALSE(ours.ready());
    const std::optional<HeldSandbox> held = stage.held(stage.sandbox(1));
    REQUIRE(held.has_value());
    CHECK(held->state == SandboxState::leased);
    CHECK(held->suspect);
    CHECK(stage.noticed(HostNotice::Kind::reclaim, stage.sandbox(1)));
    CHECK(stage.notices[QueueStage::kHost].back().token == lease.token());
    CHECK(stage.notices[QueueStage::kHost].back().lease == lease.id());
    // The host fences it and returns it; whoever waits is served.
    REQUIRE(stage.offer(stage.returned(lease.sandbox(), lease.token(), lease.id(), 2)).ok());
    Lease next = stage.lease(ours);
    CHECK(next.sandbox().id == stage.sandbox(1));
    CHECK_FALSE(stage.held(stage.sandbox(1))->suspect);
    REQUIRE(stage.purge(QueueStage::kOther).ok());
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
  }
  SECTION("repair returns an invoker's leases and waiters, and the starts that nobody has claimed") {
    stage.add_idle(1);
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    AcquireParams second = stage.call(2);
    second.attempt = 3;
    auto waiting = stage.acquire(second);
    const StartRequest start = stage.next_start();
    auto report = stage.answer(stage.repair(QueueStage::kInvoker));
    REQUIRE(report.ok());
    REQUIRE(report->leases.size() == 1);
    CHECK(report->leases[0].id == stage.sandbox(1));
    CHECK(report->leases[0].function == "thumbnail");
    CHECK(report->leases[0].token == lease.token());
    CHECK(report->leases[0].lease == lease.id());
    REQUIRE(report->waiters.size() == 1);
    CHECK(report->waiters[0].request == second.request);
    CHECK(report->waiters[0].attempt == 3);
    CHECK(report->waiters[0].ticket != 0);
    REQUIRE(report->unclaimed.size() == 1);
    CHECK(report->unclaimed[0].id == start.id);
    CHECK(report->unclaimed[0].function == "thumbnail");

    REQUIRE(stage.claim(start.id, stage.sandbox(2)).ok());
    CHECK(stage.answer(stage.repair(QueueStage::kInvoker))->unclaimed.empty());
    report = stage.answer(stage.repair(QueueStage::kOther));
    REQUIRE(report.ok());
    CHECK((report->leases.empty() && report->waiters.empty() && report->unclaimed.empty()));
  }
  SECTION("a start outlives the invoker it was admitted for: whoever waits gets it by repair") {
    auto theirs = stage.acquire(call(1));
    const StartRequest start = stage.next_start(QueueStage::kOther);
    auto ours = stage.acquire(stage.call(2));
    stage.settle_down();
    REQUIRE(stage.purge(QueueStage::kOther).ok());
    const auto report = stage.answer(stage.repair(QueueStage::kInvoker));
    REQUIRE(report.ok());
    bool found = false;
    for (const StartRequest& each : report->unclaimed) found = found || each.id == start.id;
    CHECK(found);
    CHECK(stage.make(start, stage.sandbox(1)).ok());
    CHECK(stage.lease(ours).start() == StartKind::cold);
  }
  SECTION("a watch that has ended is not told anything") {
    stage.watches.clear();
    stage.add_idle(1);
    {
      Lease dropped = stage.lease(stage.acquire(stage.call(1)));
    }
    auto waiting = stage.acquire(stage.call(2));
    stage.settle_down();
    CHECK(stage.starts.empty());
    CHECK(stage.notices.empty());
  }
  SECTION("a watch that ends while it is being told is not told any more on its own executor") {
    auto waiting = stage.acquire(stage.call(2));
    stage.watches.clear();  // the request may be posted already
    stage.settle_down();
    CHECK(stage.starts.empty());
  }
  SECTION("functions do not see each other's sandboxes, waiters or caps") {
    AcquireParams other = stage.call(1);
    other.function = stage.queue->resolve("rotate").value();
    REQUIRE(stage
                .answer(stage.ask<absl::Status>([&](auto handler) {
                  stage.queue->async_define({.function = other.function, .config = config(1)},
                                            std::move(handler));
                }))
                .ok());
    stage.add_idle(1);
    auto waiting = stage.acquire(other);
    const StartRequest start = stage.next_start();
    CHECK(start.function == "rotate");
    CHECK_FALSE(waiting.ready());
    CHECK(absl::IsNotFound(stage.claim(start.id, stage.sandbox(2))));
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  }
  SECTION("any completion token will do") {
    stage.add_idle(1);
    std::future<Leasing> future = stage.queue->async_acquire(stage.call(1), asio::use_future);
    REQUIRE(stage.run_until([&] { return future.wait_for(seconds(0)) == std::future_status::ready; }));
    Leasing lease = future.get();
    REQUIRE(lease.ok());
    auto later = stage.queue->async_cancel(
        {.function = stage.f, .request = {QueueStage::kInvoker, 1}, .attempt = 1}, asio::deferred);
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);  // nothing has begun
    bool told = false;
    std::move(later)([&](absl::Status status) { told = status.ok(); });
    CHECK_FALSE(told);
    REQUIRE(stage.run_until([&] { return told; }));
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  }
  SECTION("an executor with nothing but an operation to wait for does not run dry") {
    asio::io_context mine;
    int completions = 0;
    stage.queue->async_acquire(stage.call(1), asio::bind_executor(mine, [&](Leasing lease) {
                                 if (!lease.ok()) return;
                                 ++completions;
                                 std::move(*lease).async_release(asio::bind_executor(
                                     mine, [&](const absl::Status& status) { completions += status.ok(); }));
                               }));
    std::thread thread([&] { mine.run(); });
    const StartRequest start = stage.next_start();
    CHECK_FALSE(mine.stopped());
    REQUIRE(stage.make(start, stage.sandbox(1)).ok());
    CHECK(stage.run_until([&] { return mine.stopped(); }));
    mine.stop();
    thread.join();
    CHECK(completions == 2);
  }
  SECTION("a handler may call straight back in") {
    stage.add_idle(1);
    int rounds = 0;
    std::function<void(Leasing)> again = [&](Leasing lease) {
      REQUIRE(lease.ok());
      std::move(*lease).release();
      if (++rounds < 100) {
        stage.queue->async_acquire(stage.call(100 + static_cast<std::uint64_t>(rounds)),
                                   asio::bind_executor(stage.executor(0), again));
      }
    };
    stage.queue->async_acquire(stage.call(100), asio::bind_executor(stage.executor(0), again));
    CHECK(stage.run_until([&] { return rounds == 100; }));
  }
}

// From here on real threads run the shards, so nothing of the stage but its queue is used.
inline void hammering(const MakeIdleQueue& make) {
  constexpr int kThreads = 8;
  constexpr int kRounds = 300;
  constexpr std::uint64_t kSandboxes = 3;

  SECTION("eight threads: never two leases of one sandbox, tokens only grow, nothing is lost") {
    const auto clock = std::make_shared<ManualClock>();
    asio::io_context contexts[2];
    HostExecutors executors;
    for (auto& context : contexts) executors.shards.emplace_back(context.get_executor());
    executors.blocking = executors.shards.front();
    auto queue = make(executors, clock);
    REQUIRE(queue != nullptr);
    std::vector<asio::executor_work_guard<asio::io_context::executor_type>> work;
    std::vector<std::thread> shards;
    for (auto& context : contexts) {
      work.emplace_back(context.get_executor());
      shards.emplace_back([&context] { context.run(); });
    }
    const FunctionHandle f = queue->resolve("hammered").value();
    FunctionConfig rules = config(kSandboxes);
    rules.caps.max_waiters = 1000;
    REQUIRE(queue->async_define({.function = f, .config = rules}, asio::use_future).get().ok());
    std::vector<AnnouncedSandbox> said;
    for (std::uint64_t i = 0; i < kSandboxes; ++i) {
      AnnouncedSandbox one;
      one.sandbox = {.id = {.host = QueueStage::kHost, .number = i},
                     .version = 1,
                     .home_shard = static_cast<ShardIndex>(i % 2)};
      one.function = "hammered";
      one.generation = 1;
      said.push_back(one);
    }
    REQUIRE(
        queue->async_announce({.host = QueueStage::kHost, .sandboxes = said}, asio::use_future).get().ok());

    std::array<std::atomic<int>, kSandboxes> holders{};
    std::array<std::atomic<Token>, kSandboxes> tokens{};
    std::atomic<int> doubled{0};
    std::atomic<int> shrunk{0};
    std::atomic<int> leased{0};
    std::atomic<int> cancelled{0};
    std::atomic<int> unexpected{0};
    std::vector<std::thread> callers;
    for (int t = 0; t < kThreads; ++t) {
      callers.emplace_back([&, t] {
        for (int round = 1; round <= kRounds; ++round) {
          AcquireParams params;
          params.function = f;
          params.request = {.invoker = static_cast<InvokerId>(100 + t),
                            .sequence = static_cast<std::uint64_t>(round)};
          params.shard = static_cast<ShardIndex>(t % 2);
          params.deadline = clock->now() + seconds(60);
          std::future<Leasing> future = queue->async_acquire(params, asio::use_future);
          std::future<absl::Status> cancel;
          if (round % 5 == 0) {
            // Whoever takes a call back says so before it ends: only an unused lease may be put back.
            const auto called = params.request;
            if (future.wait_for(seconds(0)) != std::future_status::ready) {
              cancel =
                  queue->async_cancel({.function = f, .request = called, .attempt = 1}, asio::use_future);
              cancel.wait();
              Leasing answer = future.get();
              if (answer.ok()) {
                std::move(*answer).release();  // ended already, or never begun
                ++leased;
              } else if (absl::IsCancelled(answer.status())) {
                ++cancelled;
              } else {
                ++unexpected;
              }
              continue;
            }
          }
          Leasing answer = future.get();
          if (!answer.ok()) {
            ++unexpected;
            continue;
          }
          ++leased;
          const std::uint64_t number = answer->sandbox().id.number;
          if (holders[number].fetch_add(1) != 0) ++doubled;
          if (tokens[number].exchange(answer->token()) >= answer->token()) ++shrunk;
          holders[number].fetch_sub(1);
          std::move(*answer).release();
        }
      });
    }
    for (std::thread& caller : callers) caller.join();
    CHECK(doubled == 0);
    CHECK(shrunk == 0);
    CHECK(unexpected == 0);
    CHECK(leased + cancelled == kThreads * kRounds);
    const auto held =
        queue->async_announce({.host = QueueStage::kHost, .sandboxes = {}}, asio::use_future).get();
    REQUIRE(held.ok());
    CHECK(held->size() == kSandboxes);
    for (const HeldSandbox& one : *held) CHECK(one.state == SandboxState::idle);
    work.clear();
    for (auto& context : contexts) context.stop();
    for (std::thread& shard : shards) shard.join();
    queue.reset();
  }
}

}  // namespace faaskit::testing::contract
