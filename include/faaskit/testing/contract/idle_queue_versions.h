// Of the IdleQueue contract: redeploys and removals.
#pragma once

#include <utility>

#include "faaskit/testing/contract/idle_queue_base.h"

namespace faaskit::testing::contract {

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

}  // namespace faaskit::testing::contract
