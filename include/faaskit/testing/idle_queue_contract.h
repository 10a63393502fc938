// What "is an IdleQueue" means, as code. Every section is a sentence of the contract in port/idle_queue.h.
//
//     TEST_CASE("my idle queue keeps the IdleQueue contract") {
//       faaskit::testing::check_idle_queue_contract([](const HostExecutors& executors, auto clock) {
//         return make_my_queue(executors.shards.front(), clock);
//       });
//     }
//
// Two shards are there. Each section gets a queue of its own. The suite needs Catch2, version 2 or 3, which
// it includes itself; it waits for nothing but completions and never sleeps.
#pragma once

#include <array>
#include <atomic>
#include <future>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/deferred.hpp>
#include <boost/asio/use_future.hpp>

#if !defined(CATCH_VERSION_MAJOR)
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#include <catch2/catch.hpp>
#endif
#endif

#include "faaskit/testing/queue_stage.h"

namespace faaskit::testing {

namespace contract {

using std::chrono::milliseconds;
using std::chrono::seconds;
using Leasing = absl::StatusOr<Lease>;

inline bool says(const absl::Status& status, const std::string& text) {
  return status.ToString().find(text) != std::string::npos;
}

inline FunctionConfig config(std::uint32_t max_sandboxes = 16, StartPolicy policy = StartPolicy::race) {
  FunctionConfig config;
  config.caps.max_sandboxes = max_sandboxes;
  config.policy = policy;
  return config;
}

// A fresh sandbox serves the first waiter: the usual beginning.
inline Lease cold_start(QueueStage& stage, std::uint64_t sequence, std::uint64_t number) {
  auto waiting = stage.acquire(stage.call(sequence));
  REQUIRE(stage.make(stage.next_start(), stage.sandbox(number)).ok());
  return stage.lease(std::move(waiting));
}

inline void acquiring(QueueStage& stage) {
  REQUIRE(stage.define(config()).ok());

  SECTION("an idle sandbox is leased at once, and that is a warm start") {
    const SandboxId id = stage.add_idle(1);
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    CHECK(lease.sandbox().id == id);
    CHECK(lease.start() == StartKind::warm);
    CHECK(lease.id() == LeaseId{.request = {QueueStage::kInvoker, 1}, .attempt = 1});
    CHECK(stage.state(id) == SandboxState::leased);
    std::move(lease).release();
    stage.settle_down();
    CHECK(stage.state(id) == SandboxState::idle);
    CHECK(stage.starts.empty());
  }
  SECTION("a function that is not defined has no sandboxes: kNotFound names it") {
    AcquireParams params = stage.call(1);
    params.function = stage.queue->resolve("unheard-of").value();
    const Leasing answer = stage.answer(stage.acquire(params));
    CHECK(absl::IsNotFound(answer.status()));
    CHECK(says(answer.status(), "unheard-of"));
  }
  SECTION("a call without a request id is refused: two such calls would be taken for one") {
    stage.add_idle(1);
    for (int i = 0; i < 2; ++i) {
      AcquireParams params = stage.call(1);
      params.request = {};
      const Leasing answer = stage.answer(stage.acquire(params));
      CHECK(absl::IsInvalidArgument(answer.status()));
      CHECK(says(answer.status(), "thumbnail"));
    }
    CHECK_FALSE(stage.queue->try_acquire({.function = stage.f, .request = {}}).has_value());
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  }
  SECTION("a handle is the same however often its function is resolved, and bad names have none") {
    CHECK(stage.queue->resolve("thumbnail").value() == stage.f);
    CHECK_FALSE(stage.queue->resolve("thumbnail-2").value() == stage.f);
    CHECK(absl::IsInvalidArgument(stage.queue->resolve("../etc").status()));
    CHECK(absl::IsInvalidArgument(stage.queue->resolve("").status()));
  }
  SECTION("a handle says its function's name, defined or not, and also after its removal") {
    CHECK(stage.queue->name(stage.f) == "thumbnail");
    CHECK(stage.queue->name(stage.queue->resolve("unheard-of").value()) == "unheard-of");
    const std::string_view kept = stage.queue->name(stage.f);
    REQUIRE(stage.remove().ok());
    CHECK(stage.queue->name(stage.f) == "thumbnail");
    CHECK(kept == "thumbnail");
  }
  SECTION("one sandbox, many callers: exactly one wins") {
    REQUIRE(stage.define(config(1, StartPolicy::wait_only)).ok());
    stage.add_idle(1);
    std::vector<Answer<Leasing>> racers;
    for (std::uint64_t i = 1; i <= 8; ++i)
      racers.push_back(stage.acquire(stage.call(i), i % QueueStage::kShards));
    stage.settle_down();
    std::vector<Lease> won;
    std::size_t waiting = 0;
    for (auto& racer : racers) {
      if (!racer.ready()) {
        ++waiting;
      } else {
        won.push_back(stage.lease(racer));
      }
    }
    CHECK(won.size() == 1);
    CHECK(waiting == 7);
    stage.advance(seconds(10));
    for (auto& racer : racers) {
      if (racer.ready()) CHECK(absl::IsDeadlineExceeded(racer.get().status()));
    }
  }
  SECTION("the newest idle sandbox goes first") {
    for (std::uint64_t i = 1; i <= 3; ++i) stage.add_idle(i);
    Lease a = stage.lease(stage.acquire(stage.call(1)));
    Lease b = stage.lease(stage.acquire(stage.call(2)));
    CHECK(a.sandbox().id == stage.sandbox(3));
    CHECK(b.sandbox().id == stage.sandbox(2));
    std::move(a).release();
    stage.settle_down();
    CHECK(stage.lease(stage.acquire(stage.call(3))).sandbox().id == stage.sandbox(3));
  }
  SECTION("the oldest idle sandbox goes first where the function says fifo") {
    FunctionConfig fifo = config();
    fifo.order = IdleOrder::fifo;
    REQUIRE(stage.define(fifo).ok());
    for (std::uint64_t i = 1; i <= 3; ++i) stage.add_idle(i);
    Lease a = stage.lease(stage.acquire(stage.call(1)));
    Lease b = stage.lease(stage.acquire(stage.call(2)));
    CHECK(a.sandbox().id == stage.sandbox(1));
    CHECK(b.sandbox().id == stage.sandbox(2));
  }
  SECTION("the caller's own shard goes first; a sandbox of another is a cross-shard start") {
    stage.add_idle(1, 1);
    stage.add_idle(2, 0);
    AcquireParams from_shard_1 = stage.call(1);
    from_shard_1.shard = 1;
    Lease near = stage.lease(stage.acquire(from_shard_1, 1));
    CHECK(near.sandbox().id == stage.sandbox(1));
    CHECK_FALSE(near.cross_shard());
    AcquireParams again = stage.call(2);
    again.shard = 1;
    Lease far = stage.lease(stage.acquire(again, 1));
    CHECK(far.sandbox().id == stage.sandbox(2));
    CHECK(far.sandbox().home_shard == 0);
    CHECK(far.cross_shard());
  }
  SECTION("try_acquire leases what is idle, or answers nullopt and leaves no trace") {
    const TryAcquireParams params{
        .function = stage.f, .request = {QueueStage::kInvoker, 1}, .attempt = 1, .shard = 0};
    CHECK_FALSE(stage.queue->try_acquire(params).has_value());
    const SandboxId id = stage.add_idle(1);
    std::optional<Lease> lease = stage.queue->try_acquire(params);
    if (lease) {
      CHECK(lease->sandbox().id == id);
      CHECK(lease->start() == StartKind::warm);
      CHECK(lease->token() == 1);
      CHECK_FALSE(stage.queue->try_acquire(params).has_value());
      std::move(*lease).release();
    }
    stage.settle_down();
    CHECK(stage.state(id) == SandboxState::idle);
    CHECK(stage.starts.empty());
  }
  SECTION("waiters are served by priority, then by ticket") {
    REQUIRE(stage.define(config(1, StartPolicy::wait_only)).ok());
    stage.add_idle(1);
    Lease held = stage.lease(stage.acquire(stage.call(1)));
    std::vector<Answer<Leasing>> line;
    const std::array<std::int32_t, 4> priorities{5, 0, 5, -1};
    for (std::uint64_t i = 0; i < priorities.size(); ++i) {
      AcquireParams params = stage.call(10 + i);
      params.priority = priorities[i];
      line.push_back(stage.acquire(params));
    }
    std::move(held).release();
    for (const std::size_t next : {3u, 1u, 0u, 2u}) {
      Lease lease = stage.lease(line[next]);
      CHECK(lease.id().request.sequence == 10 + next);
      stage.settle_down();
      for (const std::size_t other : {0u, 1u, 2u, 3u}) CHECK_FALSE(line[other].ready());
      std::move(lease).release();
    }
  }
  SECTION("while a waiter waits, no idle sandbox of its function stays unassigned") {
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    stage.settle_down();
    stage.add_idle(1);
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
    CHECK(stage.lease(first).sandbox().id == stage.sandbox(1));
    CHECK_FALSE(second.ready());
  }
  SECTION("a caller for whom nothing comes is answered at its deadline, not before") {
    auto waiting = stage.acquire(stage.call(1));
    stage.advance(seconds(10) - milliseconds(1));
    CHECK_FALSE(waiting.ready());
    stage.advance(milliseconds(1));
    const Leasing answer = stage.answer(waiting);
    CHECK(absl::IsDeadlineExceeded(answer.status()));
    CHECK(says(answer.status(), "thumbnail"));
    // It left the line: what comes now is idle.
    stage.add_idle(1);
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  }
  SECTION("a deadline that has passed already still takes what is idle, and never waits") {
    AcquireParams late = stage.call(1);
    late.deadline = stage.clock->now();
    CHECK(absl::IsDeadlineExceeded(stage.answer(stage.acquire(late)).status()));
    stage.add_idle(1);
    late.request.sequence = 2;
    CHECK(stage.lease(stage.acquire(late)).sandbox().id == stage.sandbox(1));
  }
  SECTION("deadlines of many waiters pass one by one, in whatever order they joined") {
    REQUIRE(stage.define(config(1, StartPolicy::wait_only)).ok());
    std::vector<Answer<Leasing>> waiting;
    for (const int after : {3, 1, 2}) {
      AcquireParams params = stage.call(10 + static_cast<std::uint64_t>(after));
      params.deadline = stage.clock->now() + seconds(after);
      waiting.push_back(stage.acquire(params));
    }
    stage.advance(seconds(1));
    CHECK((!waiting[0].ready() && waiting[1].ready() && !waiting[2].ready()));
    stage.advance(seconds(1));
    CHECK((!waiting[0].ready() && waiting[2].ready()));
    stage.advance(seconds(1));
    CHECK(waiting[0].ready());
  }
  SECTION("too many waiters: refused at once, and the message says how many, and the cap") {
    FunctionConfig capped = config(1, StartPolicy::wait_only);
    capped.caps.max_waiters = 2;
    REQUIRE(stage.define(capped).ok());
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    const Leasing refused = stage.answer(stage.acquire(stage.call(3)));
    CHECK(absl::IsResourceExhausted(refused.status()));
    CHECK(says(refused.status(), "acquire thumbnail: 2 calls are waiting; max_waiters is 2"));
    CHECK_FALSE(first.ready());
    CHECK_FALSE(second.ready());
  }
  SECTION("tokens grow with leases") {
    stage.add_idle(1);
    Token last = 0;
    for (std::uint64_t i = 1; i <= 5; ++i) {
      Lease lease = stage.lease(stage.acquire(stage.call(i)));
      CHECK(lease.token() > last);
      last = lease.token();
      std::move(lease).release();
    }
  }
  SECTION("a request asked twice is answered with the same lease") {
    stage.add_idle(1);
    stage.add_idle(2);
    Lease first = stage.lease(stage.acquire(stage.call(1)));
    Lease second = stage.lease(stage.acquire(stage.call(1)));
    CHECK(first.sandbox().id == second.sandbox().id);
    CHECK(first.token() == second.token());
    CHECK(first.id() == second.id());
    CHECK(stage.count(SandboxState::idle) == 1);
    std::move(first).release();
    std::move(second).retire();  // it has ended: nothing is retired
    stage.settle_down();
    CHECK(stage.count(SandboxState::idle) == 2);
  }
  SECTION("a waiting request asked twice keeps its place; the older call is told kAborted") {
    REQUIRE(stage.define(config(1, StartPolicy::wait_only)).ok());
    auto first = stage.acquire(stage.call(1));
    auto other = stage.acquire(stage.call(2));
    auto again = stage.acquire(stage.call(1));
    CHECK(absl::IsAborted(stage.answer(first).status()));
    stage.add_idle(1);
    CHECK(stage.lease(again).id().request.sequence == 1);
    CHECK_FALSE(other.ready());
  }
}

inline void starting(QueueStage& stage) {
  REQUIRE(stage.define(config()).ok());
  const SandboxId one = stage.sandbox(1);
  const SandboxId two = stage.sandbox(2);

  SECTION("a call that finds nothing idle has a start requested, in the same step") {
    auto waiting = stage.acquire(stage.call(1));
    const StartRequest start = stage.next_start();
    CHECK(start.function == "thumbnail");
    CHECK(start.version == 1);
    CHECK(start.id.nonce != 0);
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].empty());
    CHECK_FALSE(waiting.ready());
  }
  SECTION("a start is claimed once; the claimer may repeat itself, another is told kAborted") {
    auto waiting = stage.acquire(stage.call(1));
    const StartRequest start = stage.next_start();
    CHECK(stage.claim(start.id, one).ok());
    CHECK(stage.claim(start.id, one).ok());
    const absl::Status late = stage.claim(start.id, two);
    CHECK(absl::IsAborted(late));
    CHECK(says(late, to_string(one)));
    CHECK(absl::IsNotFound(stage.claim({.nonce = start.id.nonce, .number = 999}, two)));
    CHECK(absl::IsNotFound(stage.claim({.nonce = start.id.nonce + 1, .number = start.id.number}, two)));
  }
  SECTION("a fresh sandbox serves the waiter, and that is a cold start") {
    auto waiting = stage.acquire(stage.call(1));
    REQUIRE(stage.make(stage.next_start(), one).ok());
    Lease lease = stage.lease(waiting);
    CHECK(lease.sandbox().id == one);
    CHECK(lease.start() == StartKind::cold);
    CHECK(lease.ticket() != 0);
  }
  SECTION("an offer repeated is acknowledged again and leases nothing twice") {
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    const StartRequest start = stage.next_start();
    REQUIRE(stage.make(start, one).ok());
    CHECK(stage.offer(stage.fresh(start, one)).ok());
    Lease lease = stage.lease(first);
    CHECK_FALSE(second.ready());
    CHECK(stage.count(SandboxState::leased) == 1);
  }
  SECTION("an offer by a sandbox that did not claim the start is told kAborted") {
    auto waiting = stage.acquire(stage.call(1));
    const StartRequest start = stage.next_start();
    CHECK(absl::IsAborted(stage.offer(stage.fresh(start, one))));
    REQUIRE(stage.claim(start.id, one).ok());
    CHECK(absl::IsAborted(stage.offer(stage.fresh(start, two))));
    CHECK_FALSE(waiting.ready());
    CHECK(stage.offer(stage.fresh(start, one)).ok());
    CHECK(stage.lease(waiting).sandbox().id == one);
  }
  SECTION("a returned sandbox that is not known is told kAborted; only announce inserts it") {
    CHECK(absl::IsAborted(stage.offer(stage.returned({.id = one, .version = 1}, 1, {}, 2))));
    CHECK(stage.state(one) == SandboxState::gone);
  }
  SECTION("no more starts are in flight than max_starts") {
    FunctionConfig capped = config(10);
    capped.caps.max_starts = 2;
    REQUIRE(stage.define(capped).ok());
    std::vector<Answer<Leasing>> waiting;
    for (std::uint64_t i = 1; i <= 5; ++i) waiting.push_back(stage.acquire(stage.call(i)));
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].size() == 2);
    REQUIRE(stage.make(stage.next_start(), one).ok());
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].size() == 2);  // the one left, and one more
  }
  SECTION("no more sandboxes than max_sandboxes, counted from the admitted start until reaped") {
    REQUIRE(stage.define(config(2)).ok());
    std::vector<Answer<Leasing>> waiting;
    for (std::uint64_t i = 1; i <= 5; ++i) waiting.push_back(stage.acquire(stage.call(i)));
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].size() == 2);
    REQUIRE(stage.make(stage.next_start(), one).ok());
    REQUIRE(stage.make(stage.next_start(), two).ok());
    Lease lease = stage.lease(waiting[0]);
    Lease other = stage.lease(waiting[1]);
    std::move(lease).retire();
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].empty());  // retiring still counts
    REQUIRE(stage.gone(one).ok());
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].size() == 1);
    REQUIRE(stage.gone(one).ok());
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].size() == 1);
  }
  SECTION("one busy sandbox and one caller gives stolen, and afterwards exactly two sandboxes are idle") {
    Lease busy = cold_start(stage, 1, 1);
    auto caller = stage.acquire(stage.call(2));
    const StartRequest start = stage.next_start();
    std::move(busy).release();
    Lease stolen = stage.lease(caller);
    CHECK(stolen.start() == StartKind::stolen);
    CHECK(stolen.sandbox().id == one);
    REQUIRE(stage.make(start, two).ok());  // surplus, and kept
    std::move(stolen).release();
    stage.settle_down();
    CHECK(stage.count(SandboxState::idle) == 2);
    CHECK(stage.count(SandboxState::leased) == 0);
    CHECK(stage.starts[QueueStage::kInvoker].empty());
  }
  SECTION("a fresh sandbox serves the oldest waiter, whomever it was requested for") {
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    stage.next_start();
    const StartRequest for_second = stage.next_start();
    REQUIRE(stage.make(for_second, two).ok());
    CHECK(stage.lease(first).start() == StartKind::cold);
    CHECK_FALSE(second.ready());
  }
  SECTION("at the cap a returned sandbox serves the waiter: queued") {
    REQUIRE(stage.define(config(1)).ok());
    Lease busy = cold_start(stage, 1, 1);
    auto caller = stage.acquire(stage.call(2));
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].empty());
    std::move(busy).release();
    CHECK(stage.lease(caller).start() == StartKind::queued);
  }
  SECTION("wait only: a busy sandbox is waited for, and that is queued") {
    REQUIRE(stage.define(config(8, StartPolicy::wait_only)).ok());
    Lease busy = cold_start(stage, 1, 1);  // nothing could return, so a start was requested
    auto caller = stage.acquire(stage.call(2));
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].empty());
    std::move(busy).release();
    CHECK(stage.lease(caller).start() == StartKind::queued);
  }
  SECTION("wait only: once nothing can return, a start is requested") {
    REQUIRE(stage.define(config(8, StartPolicy::wait_only)).ok());
    Lease busy = cold_start(stage, 1, 1);
    auto caller = stage.acquire(stage.call(2));
    std::move(busy).retire();
    REQUIRE(stage.make(stage.next_start(), two).ok());
    CHECK(stage.lease(caller).start() == StartKind::cold);
  }
  SECTION("a surplus start that nobody has claimed is dropped where the function says so") {
    FunctionConfig cancelling = config();
    cancelling.surplus = SurplusStarts::cancel_queued;
    REQUIRE(stage.define(cancelling).ok());
    Lease busy = cold_start(stage, 1, 1);
    auto caller = stage.acquire(stage.call(2));
    const StartRequest start = stage.next_start();
    std::move(busy).release();
    Lease stolen = stage.lease(caller);
    CHECK(absl::IsNotFound(stage.claim(start.id, two)));
  }
  SECTION("a start that needs room is granted only if somebody waits for it, or it is provisioned") {
    Lease busy = cold_start(stage, 1, 1);
    auto first = stage.acquire(stage.call(2));
    auto second = stage.acquire(stage.call(3));
    const StartRequest wanted = stage.next_start();
    const StartRequest surplus = stage.next_start();
    CHECK(stage.claim(wanted.id, two, true).ok());
    std::move(busy).release();
    Lease stolen = stage.lease(first);
    const absl::Status dropped = stage.claim(surplus.id, stage.sandbox(3), true);
    CHECK(absl::IsNotFound(dropped));
    CHECK(says(dropped, to_string(surplus.id)));
    CHECK(says(dropped, "nobody waits for it, and its host is full"));
    CHECK(stage.queue->stats(stage.f).starts_in_flight == 1);
    CHECK(stage.claim(wanted.id, two, true).ok());  // repeated
    REQUIRE(stage.offer(stage.fresh(wanted, two)).ok());
    Lease fresh = stage.lease(second);

    FunctionConfig kept = config();
    kept.provisioned = 3;
    REQUIRE(stage.define(kept).ok());
    stage.settle_down();
    CHECK(stage.claim({.nonce = surplus.id.nonce, .number = surplus.id.number + 1}, stage.sandbox(3), true)
              .ok());
  }
  SECTION("a call whose deadline passes while starts fail is told the last error") {
    AcquireParams brief = stage.call(1);
    brief.deadline = stage.clock->now() + milliseconds(200);
    auto waiting = stage.acquire(brief);
    const StartRequest start = stage.next_start();
    REQUIRE(stage.claim(start.id, one).ok());
    REQUIRE(stage.start_failed(start.id, one, absl::InternalError("exit status 3: no module named x")).ok());
    stage.advance(milliseconds(200));
    const absl::Status late = stage.answer(waiting).status();
    CHECK(absl::IsDeadlineExceeded(late));
    CHECK(says(late, "starts that failed in a row: 1, the last: INTERNAL: exit status 3: no module named x"));
  }
  SECTION("a failed start is requested again after its backoff, and only the claimer may fail it") {
    auto waiting = stage.acquire(stage.call(1));
    const StartRequest start = stage.next_start();
    REQUIRE(stage.claim(start.id, one).ok());
    CHECK(absl::IsAborted(stage.start_failed(start.id, two, absl::InternalError("not mine"))));
    REQUIRE(stage.start_failed(start.id, one, absl::InternalError("exit status 3")).ok());
    REQUIRE(stage.start_failed(start.id, one, absl::InternalError("exit status 3")).ok());  // repeated
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].empty());
    stage.advance(milliseconds(24));  // 50 ms, of which the upper half is drawn
    CHECK(stage.starts[QueueStage::kInvoker].empty());
    stage.advance(milliseconds(26));
    CHECK(stage.next_start().id != start.id);
    CHECK_FALSE(waiting.ready());
  }
  SECTION("starts that fail beyond the budget are answered to the oldest waiter, with the reason") {
    FunctionConfig strict = config();
    strict.retry.budget = 2;
    strict.caps.max_starts = 1;
    REQUIRE(stage.define(strict).ok());
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    for (std::uint64_t i = 1; i <= 2; ++i) {
      const StartRequest start = stage.next_start();
      REQUIRE(stage.claim(start.id, stage.sandbox(i)).ok());
      REQUIRE(stage
                  .start_failed(start.id, stage.sandbox(i),
                                absl::InternalError("exit status 3: no module named x"))
                  .ok());
      if (i == 1) CHECK_FALSE(first.ready());
      stage.advance(seconds(1));
    }
    const Leasing answer = stage.answer(first);
    CHECK(absl::IsUnavailable(answer.status()));
    CHECK(says(answer.status(), "thumbnail: 2 starts in a row failed"));
    CHECK(says(answer.status(), "exit status 3: no module named x"));
    // The other one goes on, and a start that works serves it.
    CHECK_FALSE(second.ready());
    REQUIRE(stage.make(stage.next_start(), stage.sandbox(3)).ok());
    CHECK(stage.lease(second).start() == StartKind::cold);
  }
  SECTION("a waiter whom a busy sandbox covers is not told of failed starts") {
    FunctionConfig strict = config();
    strict.retry.budget = 1;
    REQUIRE(stage.define(strict).ok());
    Lease busy = cold_start(stage, 1, 1);
    auto caller = stage.acquire(stage.call(2));
    const StartRequest start = stage.next_start();
    REQUIRE(stage.claim(start.id, two).ok());
    REQUIRE(stage.start_failed(start.id, two, absl::InternalError("exit status 3")).ok());
    stage.settle_down();
    CHECK_FALSE(caller.ready());
    std::move(busy).release();
    CHECK(stage.lease(caller).sandbox().id == one);
  }
  SECTION("a start that will never be made frees its place, and another is requested") {
    REQUIRE(stage.define(config(1)).ok());
    auto waiting = stage.acquire(stage.call(1));
    const StartRequest start = stage.next_start();
    REQUIRE(stage.gone(start.id).ok());
    const StartRequest other = stage.next_start();
    CHECK(other.id != start.id);
    CHECK(absl::IsNotFound(stage.claim(start.id, one)));
    CHECK(stage.make(other, one).ok());
    CHECK(stage.lease(waiting).sandbox().id == one);
  }
  SECTION("a sandbox that died between its claim and its offer frees its place") {
    REQUIRE(stage.define(config(1)).ok());
    auto waiting = stage.acquire(stage.call(1));
    const StartRequest start = stage.next_start();
    REQUIRE(stage.claim(start.id, one).ok());
    REQUIRE(stage.gone(one).ok());
    CHECK(stage.make(stage.next_start(), two).ok());
    CHECK(stage.lease(waiting).sandbox().id == two);
  }
}

// The breaker of StartRetry.
inline void breaking(QueueStage& stage) {
  FunctionConfig rules = config();
  rules.caps.max_starts = 2;
  rules.retry.budget = 100;
  rules.retry.breaker_failures = 3;
  rules.retry.breaker_open = seconds(2);
  REQUIRE(stage.define(rules).ok());
  std::uint64_t number = 100;
  const auto fail = [&](const StartRequest& start) {
    const SandboxId id = stage.sandbox(++number);
    REQUIRE(stage.claim(start.id, id).ok());
    REQUIRE(stage.start_failed(start.id, id, absl::InternalError("exit status 3: no module named x")).ok());
  };
  const auto breaker = [&] { return stage.queue->stats(stage.f).breaker; };
  const auto refused = [&](const Answer<Leasing>& call) {
    const absl::Status status = stage.answer(call).status();
    return absl::IsUnavailable(status) && says(status, "starts in a row failed, the next try comes in ") &&
           says(status, "exit status 3: no module named x");
  };
  // Three failures, in the name of calls 1 and 2.
  const auto open = [&] {
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    fail(stage.next_start());
    fail(stage.next_start());
    stage.advance(seconds(1));
    CHECK_FALSE(first.ready());
    const StartRequest one = stage.next_start();
    const StartRequest another = stage.next_start();
    fail(one);
    CHECK(breaker() == Breaker::open);
    // The other start covers both of them.
    stage.settle_down();
    CHECK_FALSE(first.ready());
    fail(another);
    CHECK(refused(first));
    CHECK(refused(second));
  };
  const auto wait = [&] { stage.advance(milliseconds(2400)); };  // and a fifth

  SECTION("the breaker opens after so many failed starts in a row, and answers at once with the last error") {
    open();
    auto late = stage.acquire(stage.call(3));
    const absl::Status status = stage.answer(late).status();
    CHECK(says(status, "thumbnail: 4 starts in a row failed, the next try comes in 2."));
    CHECK(says(status, "exit status 3: no module named x"));
    stage.advance(milliseconds(1999));
    CHECK(refused(stage.acquire(stage.call(4))));
    CHECK(stage.starts[QueueStage::kInvoker].empty());
    CHECK(stage.queue->stats(stage.f).waiters == 0);
    CHECK(stage.queue->stats(stage.f).breaker_opened == 1);
  }
  SECTION("the breaker half-opens by itself: one start at a time, and one that succeeds closes it") {
    open();
    wait();
    auto first = stage.acquire(stage.call(3));
    auto second = stage.acquire(stage.call(4));
    const StartRequest start = stage.next_start();
    CHECK(breaker() == Breaker::half_open);
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].empty());
    REQUIRE(stage.make(start, stage.sandbox(1)).ok());
    CHECK(stage.lease(first).start() == StartKind::cold);
    CHECK(breaker() == Breaker::closed);
    REQUIRE(stage.make(stage.next_start(), stage.sandbox(2)).ok());
    (void)stage.lease(second);
    // A new row of failures begins.
    auto third = stage.acquire(stage.call(5));
    fail(stage.next_start());
    CHECK(breaker() == Breaker::closed);
    stage.advance(seconds(1));
    CHECK(stage.next_start().version == 1);
    CHECK_FALSE(third.ready());
  }
  SECTION("a start that fails opens a half-open breaker again, and all are answered") {
    open();
    wait();
    auto first = stage.acquire(stage.call(3));
    auto second = stage.acquire(stage.call(4));
    fail(stage.next_start());
    CHECK(refused(first));
    CHECK(refused(second));
    CHECK(breaker() == Breaker::open);
    CHECK(refused(stage.acquire(stage.call(5))));
    CHECK(stage.queue->stats(stage.f).breaker_opened == 2);
    wait();
    auto third = stage.acquire(stage.call(6));
    REQUIRE(stage.make(stage.next_start(), stage.sandbox(1)).ok());
    (void)stage.lease(third);
  }
  SECTION("a half-open breaker's start that vanishes is replaced by another") {
    open();
    wait();
    auto waiting = stage.acquire(stage.call(3));
    REQUIRE(stage.gone(stage.next_start().id).ok());
    const StartRequest claimed = stage.next_start();
    REQUIRE(stage.claim(claimed.id, stage.sandbox(1)).ok());
    REQUIRE(stage.gone(stage.sandbox(1)).ok());
    const StartRequest lost = stage.next_start();
    REQUIRE(stage.claim(lost.id, stage.sandbox(2, QueueStage::kElsewhere)).ok());
    REQUIRE(stage.take_over(QueueStage::kElsewhere).ok());
    REQUIRE(stage.make(stage.next_start(), stage.sandbox(3)).ok());
    CHECK(stage.lease(waiting).sandbox().id == stage.sandbox(3));
  }
  SECTION("while the breaker is open a busy sandbox covers, and idle ones serve as ever") {
    Lease busy = cold_start(stage, 10, 1);
    auto first = stage.acquire(stage.call(11));
    auto second = stage.acquire(stage.call(12));
    for (int i = 0; i < 2; ++i) {
      const StartRequest one = stage.next_start();
      const StartRequest another = stage.next_start();
      fail(one);
      fail(another);
      if (i == 0) stage.advance(seconds(1));
    }
    CHECK(breaker() == Breaker::open);
    stage.settle_down();
    CHECK_FALSE(first.ready());
    auto third = stage.acquire(stage.call(13));
    std::move(busy).release();
    Lease next = stage.lease(first);
    stage.add_idle(2);
    CHECK(stage.lease(second).sandbox().id == stage.sandbox(2));
    stage.settle_down();
    CHECK_FALSE(third.ready());
    // The last that could have served it.
    REQUIRE(stage.gone(stage.sandbox(2)).ok());
    std::move(next).retire();
    CHECK(refused(third));
  }
  SECTION("a start from before the breaker opened covers, and closes it if it succeeds") {
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    fail(stage.next_start());
    const StartRequest slow = stage.next_start();
    REQUIRE(stage.claim(slow.id, stage.sandbox(1)).ok());
    for (int i = 0; i < 2; ++i) {
      stage.advance(seconds(1));
      fail(stage.next_start());
    }
    CHECK(breaker() == Breaker::open);
    auto third = stage.acquire(stage.call(3));
    REQUIRE(stage.offer(stage.fresh(slow, stage.sandbox(1))).ok());
    (void)stage.lease(first);
    CHECK(breaker() == Breaker::closed);
    CHECK(stage.next_start().version == 1);
    CHECK_FALSE(third.ready());
  }
  SECTION("an open breaker holds back what is provisioned; half open, it is tried one at a time") {
    rules.provisioned = 2;
    REQUIRE(stage.define(rules).ok());
    const auto take = [&] {
      stage.settle_down();
      std::vector<StartRequest> all;
      for (auto& [invoker, starts] : stage.starts) all.insert(all.end(), starts.begin(), starts.end());
      stage.starts.clear();
      return all;
    };
    for (int i = 0; i < 2; ++i) {
      const std::vector<StartRequest> starts = take();
      REQUIRE(starts.size() == 2);
      for (const StartRequest& start : starts) fail(start);
      if (i == 0) stage.advance(seconds(1));
    }
    CHECK(breaker() == Breaker::open);
    stage.advance(milliseconds(1999));
    CHECK(take().empty());
    stage.advance(milliseconds(401));
    const std::vector<StartRequest> probe = take();
    REQUIRE(probe.size() == 1);
    REQUIRE(stage.make(probe[0], stage.sandbox(1)).ok());
    CHECK(take().size() == 1);
  }
  SECTION("a redeploy closes the breaker") {
    open();
    rules.version = 2;
    REQUIRE(stage.define(rules).ok());
    CHECK(breaker() == Breaker::closed);
    auto waiting = stage.acquire(stage.call(3));
    REQUIRE(stage.make(stage.next_start(), stage.sandbox(1)).ok());
    (void)stage.lease(waiting);
  }
}

inline void settling(QueueStage& stage) {
  REQUIRE(stage.define(config()).ok());
  const SandboxId id = stage.add_idle(1);

  SECTION("a lease dropped on the floor retires its sandbox") {
    {
      Lease dropped = stage.lease(stage.acquire(stage.call(1)));
    }
    stage.settle_down();
    CHECK(stage.state(id) == SandboxState::retiring);
    CHECK(stage.noticed(HostNotice::Kind::retire, id));
  }
  SECTION("a retired sandbox is never leased again, and is counted until its host reports it gone") {
    stage.lease(stage.acquire(stage.call(1))).operator=(stage.lease(stage.acquire(stage.call(1))));
    stage.settle_down();
    CHECK(stage.state(id) == SandboxState::retiring);
    auto waiting = stage.acquire(stage.call(2));
    stage.settle_down();
    CHECK_FALSE(waiting.ready());
    CHECK(absl::IsAborted(stage.offer(stage.returned({.id = id, .version = 1}, 9, {}, 9))));
    CHECK(stage.state(id) == SandboxState::retiring);
    REQUIRE(stage.gone(id).ok());
    CHECK(stage.state(id) == SandboxState::gone);
  }
  SECTION("settling a lease that was moved from ends nothing") {
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    Lease moved = std::move(lease);
    std::move(lease).retire();  // NOLINT(bugprone-use-after-move): what is tested
    {
      Lease gone = std::move(lease);
    }  // NOLINT
    stage.settle_down();
    CHECK(stage.state(id) == SandboxState::leased);
    std::move(moved).release();
    stage.settle_down();
    CHECK(stage.state(id) == SandboxState::idle);
  }
  SECTION("assigning over a lease retires what it was for") {
    stage.add_idle(2);
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    const SandboxId first = lease.sandbox().id;
    lease = stage.lease(stage.acquire(stage.call(2)));
    const SandboxId second = lease.sandbox().id;
    std::move(lease).release();
    stage.settle_down();
    CHECK(stage.state(first) == SandboxState::retiring);
    CHECK(stage.state(second) == SandboxState::idle);
  }
  SECTION("async_release says when it is recorded") {
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    const absl::Status told = stage.answer(stage.ask<absl::Status>(
        [&](auto handler) { std::move(lease).async_release(std::move(handler)); }, 1));
    CHECK(told.ok());
    CHECK(stage.state(id) == SandboxState::idle);
  }
  SECTION("a lease may outlive its queue") {
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    Lease other = stage.lease(stage.acquire(stage.call(1)));
    stage.watches.clear();
    auto keep = std::move(stage.queue);
    keep.reset();
    CHECK(lease.sandbox().id == id);
    std::move(lease).release();
    // `other` is dropped at the end of its scope.
    CHECK(stage.broken_rules().empty());
    return;
  }
  SECTION("a refused lease leaves its sandbox disputed: counted, neither idle nor leased") {
    REQUIRE(stage.define(config(1)).ok());
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    const Sandbox sandbox = lease.sandbox();
    const Token refused = lease.token();
    std::move(lease).refuse();
    stage.settle_down();
    CHECK(stage.state(id) == SandboxState::disputed);
    auto waiting = stage.acquire(stage.call(2));
    stage.settle_down();
    CHECK_FALSE(waiting.ready());
    CHECK(stage.starts[QueueStage::kInvoker].empty());  // at the cap

    SECTION("its host's next offer settles it, with tokens beyond all that its host has seen") {
      Offer word = stage.returned(sandbox, refused, {}, 2);
      word.highest_token = refused + 5;
      REQUIRE(stage.offer(word).ok());
      Lease next = stage.lease(waiting);
      CHECK(next.sandbox().id == id);
      CHECK(next.token() > refused + 5);
    }
    SECTION("an offer from before the host saw the refused token does not settle it") {
      Offer word = stage.returned(sandbox, 0, {}, 2);
      word.highest_token = refused - 1;
      REQUIRE(stage.offer(word).ok());
      stage.settle_down();
      CHECK(stage.state(id) == SandboxState::disputed);
    }
    SECTION("its host's next announcement settles it") {
      AnnouncedSandbox said = stage.known_as(id, SandboxState::idle);
      said.generation = 2;
      said.highest_token = refused + 5;
      REQUIRE(stage.announce(QueueStage::kHost, {said}).ok());
      CHECK(stage.lease(waiting).token() > refused + 5);
    }
    SECTION("its host's report that it is gone settles it") {
      REQUIRE(stage.gone(id).ok());
      CHECK(stage.make(stage.next_start(), stage.sandbox(2)).ok());
      CHECK(stage.lease(waiting).sandbox().id == stage.sandbox(2));
    }
  }
  SECTION("both report an ended lease, host first: the second is a no-op") {
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    const Sandbox sandbox = lease.sandbox();
    const Token token = lease.token();
    const LeaseId name = lease.id();
    REQUIRE(stage.offer(stage.returned(sandbox, token, name, 2)).ok());
    CHECK(stage.state(id) == SandboxState::idle);
    Lease next = stage.lease(stage.acquire(stage.call(2)));
    std::move(lease).retire();
    CHECK(stage.settle(id, token, name, Outcome::retired).ok());
    stage.settle_down();
    CHECK(stage.state(id) == SandboxState::leased);
    std::move(next).release();
    stage.settle_down();
    CHECK(stage.state(id) == SandboxState::idle);
  }
  SECTION("both report an ended lease, invoker first: the second is a no-op") {
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    const Sandbox sandbox = lease.sandbox();
    const Token token = lease.token();
    const LeaseId name = lease.id();
    std::move(lease).release();
    Lease next = stage.lease(stage.acquire(stage.call(2)));
    REQUIRE(stage.offer(stage.returned(sandbox, token, name, 2)).ok());
    stage.settle_down();
    CHECK(stage.state(id) == SandboxState::leased);
    REQUIRE(stage.offer(stage.returned(sandbox, next.token(), next.id(), 3)).ok());
    CHECK(stage.state(id) == SandboxState::idle);
  }
  SECTION("an old offer, repeated late, leases nothing") {
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    const Offer old = stage.returned(lease.sandbox(), lease.token(), lease.id(), 2);
    REQUIRE(stage.offer(old).ok());
    Lease next = stage.lease(stage.acquire(stage.call(2)));
    auto waiting = stage.acquire(stage.call(3));
    REQUIRE(stage.offer(old).ok());
    stage.settle_down();
    CHECK_FALSE(waiting.ready());
    CHECK(stage.state(id) == SandboxState::leased);
  }
  SECTION("settling by names is idempotent, and a stale one ends nothing") {
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    CHECK(stage.settle(id, lease.token() + 1, lease.id(), Outcome::reusable).ok());
    CHECK(stage.settle(id, lease.token(), {.request = lease.id().request, .attempt = 2}, Outcome::reusable)
              .ok());
    CHECK(stage.settle(stage.sandbox(99), lease.token(), lease.id(), Outcome::reusable).ok());
    CHECK(stage.state(id) == SandboxState::leased);
    CHECK(stage.settle(id, lease.token(), lease.id(), Outcome::reusable).ok());
    CHECK(stage.state(id) == SandboxState::idle);
    CHECK(stage.settle(id, lease.token(), lease.id(), Outcome::retired).ok());
    CHECK(stage.state(id) == SandboxState::idle);
  }
  SECTION("try_offer is async_offer without waiting, or answers nullopt") {
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    const OfferParams params{.function = stage.f,
                             .offer = stage.returned(lease.sandbox(), lease.token(), lease.id(), 2)};
    const std::optional<absl::Status> told = stage.queue->try_offer(params);
    stage.settle_down();
    CHECK(stage.state(id) == (told ? SandboxState::idle : SandboxState::leased));
    if (told) CHECK(told->ok());
  }
  SECTION("withdraw takes an idle sandbox, and leaves it retiring until it is reaped") {
    REQUIRE(stage.withdraw(id).ok());
    CHECK(stage.state(id) == SandboxState::retiring);
    CHECK(stage.withdraw(id).ok());
    auto waiting = stage.acquire(stage.call(1));
    stage.settle_down();
    CHECK_FALSE(waiting.ready());
    REQUIRE(stage.gone(id).ok());
    CHECK(stage.state(id) == SandboxState::gone);
    CHECK(absl::IsNotFound(stage.withdraw(id)));
  }
  SECTION("withdraw does not take a leased sandbox: kFailedPrecondition says what it is") {
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    const absl::Status refused = stage.withdraw(id);
    CHECK(absl::IsFailedPrecondition(refused));
    CHECK(says(refused, to_string(id)));
    CHECK(says(refused, "leased"));
    CHECK(stage.state(id) == SandboxState::leased);
  }
}

inline void cancelling(QueueStage& stage) {
  REQUIRE(stage.define(config(1, StartPolicy::wait_only)).ok());
  asio::cancellation_signal signal;
  const auto cancellable = [&](AcquireParams params) {
    return stage.ask_with<Leasing>(
        [&](auto handler) { stage.queue->async_acquire(params, std::move(handler)); },
        [&](auto handler) { return asio::bind_cancellation_slot(signal.slot(), std::move(handler)); });
  };

  SECTION("every type of cancellation but none ends the wait, and consumes nothing") {
    const auto type = GENERATE(asio::cancellation_type::terminal, asio::cancellation_type::partial,
                               asio::cancellation_type::total, asio::cancellation_type::all);
    auto waiting = cancellable(stage.call(1));
    stage.settle_down();
    signal.emit(asio::cancellation_type::none);
    stage.settle_down();
    CHECK_FALSE(waiting.ready());
    signal.emit(type);
    CHECK_FALSE(waiting.ready());  // not inline
    CHECK(absl::IsCancelled(stage.answer(waiting).status()));
    stage.add_idle(1);
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  }
  SECTION("a cancel that comes after the grant gives a lease or nothing, never neither") {
    auto waiting = cancellable(stage.call(1));
    stage.settle_down();
    // Granted by the announcement; its completion may still be on its way when the signal comes.
    auto announced = stage.ask<absl::StatusOr<std::vector<HeldSandbox>>>([&](auto handler) {
      stage.queue->async_announce(
          {.host = QueueStage::kHost, .sandboxes = {stage.known_as(stage.sandbox(1), SandboxState::idle)}},
          std::move(handler));
    });
    signal.emit(asio::cancellation_type::terminal);
    REQUIRE(stage.answer(announced).ok());
    Leasing answer = stage.answer(waiting);
    stage.settle_down();
    if (answer.ok()) {
      CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
      std::move(*answer).release();
      stage.settle_down();
    } else {
      CHECK(absl::IsCancelled(answer.status()));
    }
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  }
  SECTION("a signal after the completion touches nothing") {
    stage.add_idle(1);
    Lease lease = stage.lease(cancellable(stage.call(1)));
    signal.emit(asio::cancellation_type::terminal);
    stage.settle_down();
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
  }
  SECTION("cancel by request id takes a request out of line; the others keep their order") {
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    auto third = stage.acquire(stage.call(3));
    REQUIRE(stage.cancel(2).ok());
    CHECK(absl::IsCancelled(stage.answer(second).status()));
    REQUIRE(stage.cancel(2).ok());
    stage.add_idle(1);
    Lease lease = stage.lease(first);
    std::move(lease).release();
    CHECK(stage.lease(third).id().request.sequence == 3);
  }
  SECTION("a lease that overtook the cancel is put back") {
    stage.add_idle(1);
    Lease lease = stage.lease(stage.acquire(stage.call(1)));
    REQUIRE(stage.cancel(1).ok());
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
    std::move(lease).retire();  // what the canceller still holds ends nothing
    stage.settle_down();
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  }
  SECTION("a cancel of an older attempt changes nothing") {
    AcquireParams newer = stage.call(1);
    newer.attempt = 2;
    auto waiting = stage.acquire(newer);
    REQUIRE(stage.cancel(1, 1).ok());
    stage.settle_down();
    CHECK_FALSE(waiting.ready());
    stage.add_idle(1);
    Lease lease = stage.lease(waiting);
    REQUIRE(stage.cancel(1, 1).ok());
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
  }
}

inline void restarting(QueueStage& stage) {
  REQUIRE(stage.define(config(1, StartPolicy::wait_only)).ok());
  stage.add_idle(1);

  SECTION("a ticket kept through a restart keeps its place in line") {
    Lease busy = stage.lease(stage.acquire(stage.call(1)));
    auto early = stage.acquire(stage.call(2));
    auto late = stage.acquire(stage.call(3));
    std::move(busy).release();
    Lease lease = stage.lease(early);
    const Sandbox sandbox = lease.sandbox();
    const Ticket ticket = lease.ticket();
    const Token refused = lease.token();
    CHECK(ticket != 0);
    std::move(lease).refuse();
    AcquireParams restart = stage.call(2);
    restart.attempt = 2;
    restart.ticket = ticket;
    restart.previous = Outcome::refused;
    auto again = stage.acquire(restart);
    stage.settle_down();
    REQUIRE(stage.offer(stage.returned(sandbox, refused, {}, 2)).ok());
    Lease second = stage.lease(again);
    CHECK(second.id().attempt == 2);
    CHECK(second.ticket() == ticket);
    CHECK_FALSE(late.ready());
  }
  SECTION("a newer attempt disposes of the lease of an older one as it says") {
    const Outcome previous = GENERATE(Outcome::reusable, Outcome::refused);
    Lease lost = stage.lease(stage.acquire(stage.call(1)));
    AcquireParams restart = stage.call(1);
    restart.attempt = 2;
    restart.previous = previous;
    auto again = stage.acquire(restart);
    stage.settle_down();
    if (previous == Outcome::reusable) {
      Lease lease = stage.lease(again);
      CHECK(lease.token() > lost.token());
      std::move(lost).retire();  // it has ended
      stage.settle_down();
      CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
    } else {
      CHECK_FALSE(again.ready());
      CHECK(stage.state(stage.sandbox(1)) == SandboxState::disputed);
    }
  }
  SECTION("an older attempt that comes late is told kAborted") {
    AcquireParams newer = stage.call(1);
    newer.attempt = 3;
    Lease lease = stage.lease(stage.acquire(newer));
    AcquireParams older = stage.call(1);
    older.attempt = 2;
    CHECK(absl::IsAborted(stage.answer(stage.acquire(older)).status()));
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);

    newer.request.sequence = 2;
    auto waiting = stage.acquire(newer);
    older.request.sequence = 2;
    CHECK(absl::IsAborted(stage.answer(stage.acquire(older)).status()));
    CHECK_FALSE(waiting.ready());
  }
  SECTION("a kept ticket is not refused by the cap on waiters") {
    FunctionConfig capped = config(1, StartPolicy::wait_only);
    capped.caps.max_waiters = 1;
    REQUIRE(stage.define(capped).ok());
    Lease busy = stage.lease(stage.acquire(stage.call(1)));
    auto other = stage.acquire(stage.call(2));
    AcquireParams restart = stage.call(3);
    restart.attempt = 2;
    restart.ticket = 1;
    auto kept = stage.acquire(restart);
    stage.settle_down();
    CHECK_FALSE(kept.ready());
    CHECK(absl::IsResourceExhausted(stage.answer(stage.acquire(stage.call(4))).status()));
  }
  SECTION("two requests that bring the same kept ticket both wait") {
    Lease busy = stage.lease(stage.acquire(stage.call(1)));
    std::vector<Answer<Leasing>> both;
    for (const std::uint64_t sequence : {2u, 3u}) {
      AcquireParams restart = stage.call(sequence);
      restart.attempt = 2;
      restart.ticket = 1;
      both.push_back(stage.acquire(restart));
    }
    stage.settle_down();
    std::move(busy).release();
    Lease first = stage.lease(both[0]);
    std::move(first).release();
    CHECK(stage.lease(both[1]).id().request.sequence == 3);
  }
  SECTION("a kept ticket raises the counter: nobody who comes later is before it") {
    Lease busy = stage.lease(stage.acquire(stage.call(1)));
    AcquireParams restart = stage.call(2);
    restart.attempt = 2;
    restart.ticket = 1000;
    auto kept = stage.acquire(restart);
    auto later = stage.acquire(stage.call(3));
    stage.settle_down();
    std::move(busy).release();
    Lease first = stage.lease(kept);
    std::move(first).release();
    CHECK(stage.lease(later).ticket() > 1000);
  }
}

inline void deploying(QueueStage& stage) {
  REQUIRE(stage.define(config()).ok());
  FunctionConfig next = config();
  next.version = 2;

  SECTION("rules are checked, and the message says which is wrong") {
    FunctionConfig bad = config();
    bad.version = 0;
    CHECK(absl::IsInvalidArgument(stage.define(bad)));
    bad = config(0);
    CHECK(absl::IsInvalidArgument(stage.define(bad)));
    CHECK(says(stage.define(bad), "max_sandboxes 0"));
    bad = config();
    bad.caps.max_starts = 0;
    CHECK(says(stage.define(bad), "max_starts 0"));
    bad = config();
    bad.retry.breaker_failures = 0;
    CHECK(absl::IsInvalidArgument(stage.define(bad)));
    CHECK(says(stage.define(bad), "breaker_failures 0"));
    for (const auto open : {milliseconds(0), milliseconds(-1), milliseconds(86'400'001)}) {
      bad = config();
      bad.retry.breaker_open = open;
      CHECK(absl::IsInvalidArgument(stage.define(bad)));
      CHECK(says(stage.define(bad), "breaker_open " + std::to_string(open.count()) + " ms"));
    }
  }
  SECTION("an older version is told kAborted, an equal one only changes the rules") {
    REQUIRE(stage.define(next).ok());
    CHECK(absl::IsAborted(stage.define(config())));
    stage.add_idle(1, 0, QueueStage::kHost, 2);
    REQUIRE(stage.define(next).ok());
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  }
  SECTION("after a redeploy was acknowledged no call runs older code: idle and returned ones retire") {
    stage.add_idle(1);
    stage.add_idle(2);
    Lease running = stage.lease(stage.acquire(stage.call(1)));
    const SandboxId busy = running.sandbox().id;
    const SandboxId idle = busy == stage.sandbox(1) ? stage.sandbox(2) : stage.sandbox(1);
    REQUIRE(stage.define(next).ok());
    CHECK(stage.noticed(HostNotice::Kind::retire, idle));
    CHECK(stage.state(idle) == SandboxState::retiring);
    CHECK(stage.state(busy) == SandboxState::leased);  // it may finish

    auto caller = stage.acquire(stage.call(2));
    std::move(running).release();
    stage.settle_down();
    CHECK_FALSE(caller.ready());
    CHECK(stage.noticed(HostNotice::Kind::retire, busy));
    const StartRequest start = stage.next_start();
    CHECK(start.version == 2);
    REQUIRE(stage.make(start, stage.sandbox(3)).ok());
    CHECK(stage.lease(caller).sandbox().version == 2);
  }
  SECTION("a sandbox of an older version that is announced is not leased either") {
    REQUIRE(stage.define(next).ok());
    stage.add_idle(1, 0, QueueStage::kHost, 1);
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::retiring);
  }
  SECTION("waiters keep their places through a redeploy, and starts of the new version are requested") {
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    const StartRequest old_claimed = stage.next_start();
    const StartRequest old_unclaimed = stage.next_start();
    REQUIRE(stage.claim(old_claimed.id, stage.sandbox(1)).ok());
    REQUIRE(stage.define(next).ok());
    CHECK(absl::IsNotFound(stage.claim(old_unclaimed.id, stage.sandbox(2))));
    // What the old version's start is worth is nothing: both waiters are covered by the new one's.
    stage.settle_down();
    CHECK(stage.starts[QueueStage::kInvoker].size() == 2);
    (void)stage.offer(stage.fresh(old_claimed, stage.sandbox(1)));
    stage.settle_down();
    CHECK_FALSE(first.ready());
    CHECK(stage.state(stage.sandbox(1)) == SandboxState::retiring);
    const StartRequest start = stage.next_start();
    CHECK(start.version == 2);
    REQUIRE(stage.make(start, stage.sandbox(3)).ok());
    CHECK(stage.lease(first).sandbox().version == 2);
    CHECK_FALSE(second.ready());
  }
  SECTION("a busy sandbox of an older version covers nobody: failed starts are answered") {
    FunctionConfig strict = next;
    strict.retry.budget = 1;
    stage.add_idle(1);
    Lease running = stage.lease(stage.acquire(stage.call(1)));
    REQUIRE(stage.define(strict).ok());
    auto caller = stage.acquire(stage.call(2));
    const StartRequest start = stage.next_start();
    REQUIRE(stage.claim(start.id, stage.sandbox(2)).ok());
    REQUIRE(stage.start_failed(start.id, stage.sandbox(2), absl::InternalError("exit status 3")).ok());
    CHECK(absl::IsUnavailable(stage.answer(caller).status()));
  }
  SECTION("failed starts of the old version are not held against the new one") {
    FunctionConfig strict = config();
    strict.retry.budget = 1;
    strict.caps.max_starts = 1;
    REQUIRE(stage.define(strict).ok());
    auto first = stage.acquire(stage.call(1));
    const StartRequest start = stage.next_start();
    REQUIRE(stage.claim(start.id, stage.sandbox(1)).ok());
    strict.version = 2;
    strict.caps.max_starts = 2;
    REQUIRE(stage.define(strict).ok());
    REQUIRE(stage.start_failed(start.id, stage.sandbox(1), absl::InternalError("old code")).ok());
    stage.settle_down();
    CHECK_FALSE(first.ready());
    CHECK(stage.next_start().version == 2);
  }
}

inline void removing(QueueStage& stage) {
  const FunctionHandle unheard = stage.queue->resolve("unheard-of").value();
  REQUIRE(stage.define(config(4)).ok());
  const SandboxId one = stage.sandbox(1);
  const SandboxId two = stage.sandbox(2);
  const auto redefine = [&](Version version, std::uint32_t max_sandboxes = 4) {
    FunctionConfig next = config(max_sandboxes);
    next.version = version;
    return stage.define(next);
  };

  SECTION("a function that was never defined cannot be removed: kNotFound names it") {
    stage.f = unheard;
    const absl::Status answer = stage.remove();
    CHECK(absl::IsNotFound(answer));
    CHECK(says(answer, "unheard-of"));
  }
  SECTION("who waits for a removed function is answered kNotFound now, who comes later at once") {
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    stage.settle_down();
    REQUIRE(stage.remove().ok());
    for (auto* waiting : {&first, &second}) {
      const Leasing answer = stage.answer(*waiting);
      CHECK(absl::IsNotFound(answer.status()));
      CHECK(says(answer.status(), "function thumbnail was removed"));
    }
    const Leasing later = stage.answer(stage.acquire(stage.call(3)));
    CHECK(absl::IsNotFound(later.status()));
    CHECK(says(later.status(), "function thumbnail was removed"));
    CHECK(stage.remove().ok());
  }
  SECTION("the idle sandboxes of a removed function retire, and their hosts are told") {
    stage.add_idle(1);
    stage.add_idle(2, 0, QueueStage::kElsewhere);
    REQUIRE(stage.remove().ok());
    CHECK(stage.noticed(HostNotice::Kind::retire, one));
    CHECK(stage.noticed(HostNotice::Kind::retire, stage.sandbox(2, QueueStage::kElsewhere)));
    CHECK(stage.count(SandboxState::retiring) == 2);
    CHECK_FALSE(stage.queue->try_acquire({.function = stage.f, .request = {QueueStage::kInvoker, 1}}));
    stage.add_idle(3);
    CHECK(stage.state(stage.sandbox(3)) == SandboxState::retiring);
  }
  SECTION("a running call of a removed function ends in peace, and its sandbox retires then") {
    stage.add_idle(1);
    stage.add_idle(2);
    Lease by_invoker = stage.lease(stage.acquire(stage.call(1)));
    Lease by_host = stage.lease(stage.acquire(stage.call(2)));
    REQUIRE(stage.remove().ok());
    CHECK(stage.count(SandboxState::leased) == 2);
    const SandboxId returned = by_host.sandbox().id;
    CHECK(stage.offer(stage.returned(by_host.sandbox(), by_host.token(), by_host.id(), 2)).ok());
    CHECK(stage.state(returned) == SandboxState::retiring);
    const SandboxId released = by_invoker.sandbox().id;
    std::move(by_invoker).release();
    CHECK(stage.noticed(HostNotice::Kind::retire, released));
    CHECK(stage.noticed(HostNotice::Kind::retire, returned));
    CHECK(stage.state(released) == SandboxState::retiring);
  }
  SECTION("a removed function's unclaimed starts are dropped; a claimed one's sandbox is told kAborted") {
    auto first = stage.acquire(stage.call(1));
    auto second = stage.acquire(stage.call(2));
    const StartRequest claimed = stage.next_start();
    const StartRequest unclaimed = stage.next_start();
    REQUIRE(stage.claim(claimed.id, one).ok());
    REQUIRE(stage.remove().ok());
    CHECK(absl::IsNotFound(stage.claim(unclaimed.id, two)));
    const absl::Status refused = stage.offer(stage.fresh(claimed, one));
    CHECK(absl::IsAborted(refused));
    CHECK(says(refused, "function thumbnail was removed"));
    CHECK(stage.queue->stats(stage.f).starts_in_flight == 1);
    CHECK(stage.gone(one).ok());
    CHECK(stage.queue->stats(stage.f).starts_in_flight == 0);
  }
  SECTION("only a version larger than every earlier one makes a removed function live again") {
    REQUIRE(redefine(3).ok());
    REQUIRE(stage.remove().ok());
    CHECK(absl::IsAborted(redefine(2)));
    CHECK(absl::IsAborted(redefine(3)));
    CHECK(absl::IsNotFound(stage.answer(stage.acquire(stage.call(1))).status()));
    CHECK(redefine(4).ok());
    stage.add_idle(1, 0, QueueStage::kHost, 4);
    CHECK(stage.lease(stage.acquire(stage.call(2))).sandbox().version == 4);
  }
  SECTION("a removal that comes late leaves a larger version alone, and lets no smaller one back") {
    REQUIRE(redefine(3).ok());
    CHECK(stage.remove(2).ok());
    stage.add_idle(1, 0, QueueStage::kHost, 3);
    CHECK(stage.state(one) == SandboxState::idle);
    CHECK(stage.remove(5).ok());
    CHECK(stage.state(one) == SandboxState::retiring);
    CHECK(absl::IsAborted(redefine(5)));
    CHECK(redefine(6).ok());
  }
  SECTION("what is left of a removed function counts against the caps of its next version") {
    stage.add_idle(1);
    REQUIRE(stage.remove().ok());
    REQUIRE(redefine(2, 1).ok());
    auto waiting = stage.acquire(stage.call(1));
    stage.settle_down();
    CHECK(stage.starts.empty());
    REQUIRE(stage.gone(one).ok());
    const StartRequest start = stage.next_start();
    CHECK(start.version == 2);
    REQUIRE(stage.make(start, two).ok());
    CHECK(stage.lease(waiting).sandbox().id == two);
  }
  SECTION("tickets go on after a removal: who comes back with one is before those who come new") {
    auto early = stage.acquire(stage.call(1));
    REQUIRE(stage.remove().ok());
    CHECK(absl::IsNotFound(stage.answer(early).status()));
    REQUIRE(redefine(2).ok());
    stage.starts.clear();
    auto fresh = stage.acquire(stage.call(2));
    AcquireParams again = stage.call(1);
    again.attempt = 2;
    again.ticket = 1;
    auto back = stage.acquire(again);
    REQUIRE(stage.make(stage.next_start(), one).ok());
    Lease lease = stage.lease(back);
    CHECK(lease.id().request.sequence == 1);
    CHECK_FALSE(fresh.ready());
    REQUIRE(stage.make(stage.next_start(), two).ok());
    CHECK(stage.lease(fresh).ticket() == 2);
  }
}

inline void provisioning(QueueStage& stage) {
  const auto keeping = [](std::uint32_t provisioned, std::uint32_t max_sandboxes = 4) {
    FunctionConfig kept = config(max_sandboxes);
    kept.provisioned = provisioned;
    return kept;
  };
  // Whichever watch they came to.
  const auto take = [&] {
    stage.settle_down();
    std::vector<StartRequest> all;
    for (auto& [invoker, starts] : stage.starts) all.insert(all.end(), starts.begin(), starts.end());
    stage.starts.clear();
    return all;
  };
  const auto make = [&](const std::vector<StartRequest>& starts, std::uint64_t number) {
    for (const StartRequest& start : starts) REQUIRE(stage.make(start, stage.sandbox(number++)).ok());
  };

  SECTION("no more can be provisioned than may exist: kInvalidArgument has both figures") {
    const absl::Status wrong = stage.define(keeping(5, 4));
    CHECK(absl::IsInvalidArgument(wrong));
    CHECK(says(wrong, "provisioned 5"));
    CHECK(says(wrong, "max_sandboxes 4"));
  }
  SECTION("what is provisioned is started though nobody waits, within max_starts") {
    FunctionConfig two_at_once = keeping(3);
    two_at_once.caps.max_starts = 2;
    REQUIRE(stage.define(two_at_once).ok());
    const std::vector<StartRequest> first = take();
    REQUIRE(first.size() == 2);
    make(first, 1);
    const std::vector<StartRequest> rest = take();
    REQUIRE(rest.size() == 1);
    make(rest, 3);
    CHECK(take().empty());
    CHECK(stage.count(SandboxState::idle) == 3);
    CHECK(stage.lease(stage.acquire(stage.call(1))).start() == StartKind::warm);
  }
  SECTION("a start that was provisioned serves who waits when it is ready, and that is cold") {
    REQUIRE(stage.define(keeping(1)).ok());
    const std::vector<StartRequest> kept = take();
    REQUIRE(kept.size() == 1);
    auto waiting = stage.acquire(stage.call(1));
    CHECK(take().size() == 1);  // the same again, for the one who waits now
    make(kept, 1);
    Lease lease = stage.lease(waiting);
    CHECK(lease.start() == StartKind::cold);
    CHECK(stage.queue->stats(stage.f).starts_admitted == 1);
  }
  SECTION("one that was provisioned and is gone is made again; so is one that its host takes back") {
    REQUIRE(stage.define(keeping(1)).ok());
    make(take(), 1);
    REQUIRE(stage.gone(stage.sandbox(1)).ok());
    make(take(), 2);
    REQUIRE(stage.withdraw(stage.sandbox(2)).ok());
    make(take(), 3);
    {
      Lease dropped = stage.lease(stage.acquire(stage.call(1)));
    }
    CHECK(take().size() == 1);
  }
  SECTION("keep-alive and eviction leave what is provisioned: kFailedPrecondition has both figures") {
    REQUIRE(stage.define(keeping(2)).ok());
    make(take(), 1);
    for (const WithdrawReason reason : {WithdrawReason::keep_alive, WithdrawReason::eviction}) {
      const absl::Status kept = stage.withdraw(stage.sandbox(1), reason);
      CHECK(absl::IsFailedPrecondition(kept));
      CHECK(says(kept, "2 of thumbnail are live; provisioned is 2"));
    }
    stage.add_idle(3);
    CHECK(stage.withdraw(stage.sandbox(3), WithdrawReason::keep_alive).ok());
    CHECK(absl::IsFailedPrecondition(stage.withdraw(stage.sandbox(2), WithdrawReason::keep_alive)));
    REQUIRE(stage.define(keeping(0)).ok());
    CHECK(stage.withdraw(stage.sandbox(2), WithdrawReason::keep_alive).ok());
    CHECK(stage.withdraw(stage.sandbox(1), WithdrawReason::eviction).ok());
    CHECK(take().empty());
  }
  SECTION("after a redeploy the new version is provisioned, as what is old makes room") {
    REQUIRE(stage.define(keeping(2, 2)).ok());
    make(take(), 1);
    FunctionConfig next = keeping(2, 2);
    next.version = 2;
    REQUIRE(stage.define(next).ok());
    CHECK(take().empty());
    for (std::uint64_t old = 1; old <= 2; ++old) {
      REQUIRE(stage.gone(stage.sandbox(old)).ok());
      const std::vector<StartRequest> starts = take();
      REQUIRE(starts.size() == 1);
      CHECK(starts[0].version == 2);
      make(starts, 10 + old);
    }
    CHECK(stage.count(SandboxState::idle) == 2);
  }
  SECTION("provisioned starts that fail are tried again after their backoff, for ever, and nobody is told") {
    REQUIRE(stage.define(keeping(1)).ok());
    const FunctionConfig rules = keeping(1);
    for (std::uint64_t i = 1; i <= rules.retry.budget + 3; ++i) {
      const std::vector<StartRequest> starts = take();
      REQUIRE(starts.size() == 1);
      REQUIRE(stage.claim(starts[0].id, stage.sandbox(i)).ok());
      REQUIRE(stage.start_failed(starts[0].id, stage.sandbox(i), absl::UnavailableError("exit 1")).ok());
      CHECK(take().empty());
      stage.advance(rules.retry.max_backoff);
    }
    make(take(), 100);
    CHECK(stage.count(SandboxState::idle) == 1);
  }
  SECTION("a provisioned start that nobody claims is carried again, to a watch that is there") {
    REQUIRE(stage.define(keeping(1)).ok());
    const std::vector<StartRequest> lost = take();
    REQUIRE(lost.size() == 1);
    stage.watches.erase(stage.watches.begin());  // of the first invoker
    stage.advance(seconds(1));
    std::vector<StartRequest> again = take();
    REQUIRE(again.size() == 1);
    CHECK(again[0].id == lost[0].id);
    stage.advance(seconds(1));
    again = take();
    REQUIRE(again.size() == 1);
    make(again, 1);
    stage.advance(seconds(3));
    CHECK(take().empty());
  }
  SECTION("what is surplus to waiters but provisioned is not dropped when it is claimed") {
    FunctionConfig kept = keeping(1);
    kept.surplus = SurplusStarts::cancel_queued;
    REQUIRE(stage.define(kept).ok());
    make(take(), 1);
    CHECK(stage.count(SandboxState::idle) == 1);
  }
  SECTION("a removed function has nothing provisioned, and has it again when it is defined again") {
    REQUIRE(stage.define(keeping(1)).ok());
    CHECK(take().size() == 1);
    REQUIRE(stage.remove().ok());
    stage.advance(seconds(5));
    CHECK(take().empty());
    FunctionConfig next = keeping(1);
    next.version = 2;
    REQUIRE(stage.define(next).ok());
    CHECK(take().size() == 1);
  }
}

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

}  // namespace contract

inline void check_idle_queue_contract(const MakeIdleQueue& make) {
  const auto on_stage = [&](auto act) {
    QueueStage stage(make);
    act(stage);
    const std::vector<std::string> none;
    CHECK(stage.broken_rules() == none);
  };
  SECTION("acquiring") { on_stage(contract::acquiring); }
  SECTION("starting") { on_stage(contract::starting); }
  SECTION("breaking") { on_stage(contract::breaking); }
  SECTION("settling") { on_stage(contract::settling); }
  SECTION("cancelling") { on_stage(contract::cancelling); }
  SECTION("restarting") { on_stage(contract::restarting); }
  SECTION("deploying") { on_stage(contract::deploying); }
  SECTION("removing") { on_stage(contract::removing); }
  SECTION("provisioning") { on_stage(contract::provisioning); }
  SECTION("hosting") { on_stage(contract::hosting); }
  SECTION("keeping going") { on_stage(contract::keeping_going); }
  SECTION("threads") { contract::hammering(make); }
}

}  // namespace faaskit::testing
