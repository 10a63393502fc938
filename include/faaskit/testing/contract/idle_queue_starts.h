// Of the IdleQueue contract: starts, for calls and for what is provisioned, and what becomes of those that
// fail.
#pragma once

#include <utility>
#include <vector>

#include "faaskit/testing/contract/idle_queue_base.h"

namespace faaskit::testing::contract {

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

}  // namespace faaskit::testing::contract
