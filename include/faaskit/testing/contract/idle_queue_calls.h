// Of the IdleQueue contract: how calls lease, wait, give back, give up and come again.
#pragma once

#include <array>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>

#include "faaskit/testing/contract/idle_queue_base.h"

namespace faaskit::testing::contract {

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
    const bool of_another = GENERATE(false, true);  // what it says is said of another lease
    Lease lost = stage.lease(stage.acquire(stage.call(1)));
    AcquireParams restart = stage.call(1);
    restart.attempt = 2;
    restart.previous = previous;
    restart.previous_sandbox = stage.sandbox(of_another ? 9 : 1);
    restart.previous_token = lost.token();
    auto again = stage.acquire(restart);
    stage.settle_down();
    if (previous == Outcome::reusable || of_another) {
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

}  // namespace faaskit::testing::contract
