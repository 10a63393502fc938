#include "catch.hpp"

#include <memory>
#include <random>
#include <set>
#include <vector>

#include "faaskit/memory/idle_queue.h"
#include "faaskit/testing/faulty_idle_queue.h"
#include "faaskit/testing/queue_stage.h"

using namespace faaskit;
using faaskit::testing::Answer;
using faaskit::testing::Fault;
using faaskit::testing::FaultyIdleQueue;
using faaskit::testing::Operation;
using faaskit::testing::QueueStage;
using std::chrono::seconds;

namespace {

using Leasing = absl::StatusOr<Lease>;

struct FaultyStage {
  FaultyIdleQueue* network = nullptr;
  QueueStage stage{[this](const HostExecutors& executors, std::shared_ptr<Clock> clock) {
    auto faulty = std::make_unique<FaultyIdleQueue>(
        memory::make_idle_queue(executors.shards.front(), {.clock = std::move(clock), .shards = 2, .seed = 7})
            .value());
    network = faulty.get();
    return faulty;
  }};
  FaultyStage() {
    FunctionConfig config;
    config.caps.max_sandboxes = 4;
    REQUIRE(stage.define(config).ok());
  }
};

}  // namespace

// Faults that are not what they say would test something else than a lossy network.
TEST_CASE("a lost request did not happen, and repeating it is safe", "[testing]") {
  FaultyStage world;
  QueueStage& stage = world.stage;
  stage.add_idle(1);
  world.network->on_next(Operation::acquire, Fault::request_lost);
  CHECK(absl::IsUnavailable(stage.answer(stage.acquire(stage.call(1))).status()));
  CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  CHECK(stage.lease(stage.acquire(stage.call(1))).sandbox().id == stage.sandbox(1));
  CHECK(world.network->injected() == 1);
}

TEST_CASE("a lost reply did happen: repeating gives the same lease, repair lists it, cancel puts it back",
          "[testing]") {
  FaultyStage world;
  QueueStage& stage = world.stage;
  stage.add_idle(1);
  world.network->on_next(Operation::acquire, Fault::reply_lost);
  CHECK(absl::IsUnavailable(stage.answer(stage.acquire(stage.call(1))).status()));
  CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
  auto report = stage.answer(stage.repair(QueueStage::kInvoker));
  REQUIRE(report.ok());
  REQUIRE(report->leases.size() == 1);
  CHECK(report->leases[0].lease.request.sequence == 1);

  Lease lease = stage.lease(stage.acquire(stage.call(1)));
  CHECK(lease.sandbox().id == stage.sandbox(1));
  CHECK(lease.token() == 1);
  REQUIRE(stage.cancel(1).ok());
  CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
}

TEST_CASE("every lost reply of a host's word is repeated and changes nothing", "[testing]") {
  FaultyStage world;
  QueueStage& stage = world.stage;
  auto waiting = stage.acquire(stage.call(1));
  const StartRequest start = stage.next_start();
  world.network->on_next(Operation::claim, Fault::reply_lost);
  CHECK(absl::IsUnavailable(stage.claim(start.id, stage.sandbox(1))));
  CHECK(stage.claim(start.id, stage.sandbox(1)).ok());
  world.network->on_next(Operation::offer, Fault::reply_lost);
  CHECK(absl::IsUnavailable(stage.offer(stage.fresh(start, stage.sandbox(1)))));
  Lease lease = stage.lease(waiting);
  CHECK(stage.offer(stage.fresh(start, stage.sandbox(1))).ok());
  CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
}

TEST_CASE("a removal that is lost did not happen, and one that is late leaves alone what came after it",
          "[testing]") {
  FaultyStage world;
  QueueStage& stage = world.stage;
  stage.add_idle(1);
  world.network->on_next(Operation::remove, Fault::request_lost);
  CHECK(absl::IsUnavailable(stage.remove(1)));
  CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  world.network->on_next(Operation::remove, Fault::late);
  CHECK(stage.remove(1).ok());
  CHECK(stage.state(stage.sandbox(1)) == SandboxState::retiring);
  FunctionConfig next;
  next.version = 2;
  REQUIRE(stage.define(next).ok());
  CHECK(world.network->deliver_late() == 1);
  stage.settle_down();
  stage.add_idle(2, 0, QueueStage::kHost, 2);
  CHECK(stage.lease(stage.acquire(stage.call(1))).sandbox().id == stage.sandbox(2));
}

TEST_CASE("duplicated and late repeats of every operation are answered once and change nothing",
          "[testing]") {
  const Fault fault = GENERATE(Fault::duplicated, Fault::late);
  FaultyStage world;
  QueueStage& stage = world.stage;
  for (int operation = 0; operation <= static_cast<int>(Operation::repair); ++operation) {
    if (static_cast<Operation>(operation) == Operation::define) continue;  // had its turn
    world.network->on_next(static_cast<Operation>(operation), fault);
  }
  auto waiting = stage.acquire(stage.call(1));
  stage.settle_down();
  const StartRequest start = stage.next_start();
  REQUIRE(stage.make(start, stage.sandbox(1)).ok());
  Lease lease = stage.lease(waiting);
  CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
  world.network->deliver_late();
  stage.settle_down();
  CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
  CHECK(stage.settle(stage.sandbox(1), lease.token(), lease.id(), Outcome::reusable).ok());
  CHECK(stage.state(stage.sandbox(1)) == SandboxState::idle);
  Lease next = stage.lease(stage.acquire(stage.call(2)));
  world.network->deliver_late();
  stage.settle_down();
  CHECK(stage.state(stage.sandbox(1)) == SandboxState::leased);
  CHECK(stage.count(SandboxState::leased) == 1);
  CHECK(stage.broken_rules().empty());
}

// The order of tests is what a careful client of a lossy queue does; the queue must bring it through.
TEST_CASE("a client that repeats gets through any seeded mix of faults", "[testing]") {
  const std::uint64_t seed = GENERATE(range<std::uint64_t>(1, 31));
  INFO("seed " << seed);
  FaultyStage world;
  QueueStage& stage = world.stage;
  world.network->disturb(seed, {.request_lost = 150, .reply_lost = 150, .duplicated = 100, .late = 100});
  std::mt19937_64 random(seed);
  const auto insist = [&](auto operation) {
    for (int i = 0; i < 200; ++i) {
      absl::Status status = operation();
      if (!absl::IsUnavailable(status)) return status;
    }
    return absl::InternalError("never got through");
  };
  std::uint64_t next_sandbox = 100;
  std::map<SandboxId, std::uint64_t> generation;
  std::set<SandboxId> busy;
  std::map<SandboxId, Token> seen;
  for (std::uint64_t sequence = 1; sequence <= 60; ++sequence) {
    // An invoker: repeats until it has a lease; a host makes what is asked for meanwhile.
    std::optional<Lease> lease;
    std::optional<Answer<Leasing>> waiting;
    for (int turn = 0; turn < 400 && !lease; ++turn) {
      if (!waiting) waiting = stage.acquire(stage.call(sequence));
      stage.settle_down();
      auto& starts = stage.starts[QueueStage::kInvoker];
      absl::StatusOr<RepairReport> report = stage.answer(stage.repair(QueueStage::kInvoker));
      if (report.ok()) starts.insert(starts.end(), report->unclaimed.begin(), report->unclaimed.end());
      while (!starts.empty()) {
        const StartRequest start = stage.next_start();
        const SandboxId id = stage.sandbox(next_sandbox++);
        const absl::Status claimed = insist([&] { return stage.claim(start.id, id); });
        if (!claimed.ok()) continue;
        REQUIRE(insist([&] { return stage.offer(stage.fresh(start, id)); }).ok());
        generation[id] = 1;
      }
      if (random() % 8 == 0) world.network->deliver_late();
      if (!waiting->ready()) continue;
      Leasing answer = waiting->take();
      waiting.reset();
      if (answer.ok()) {
        lease = *std::move(answer);
      } else {
        REQUIRE(absl::IsUnavailable(answer.status()));
      }
    }
    REQUIRE(lease.has_value());
    const Sandbox sandbox = lease->sandbox();
    CHECK(seen[sandbox.id] < lease->token());
    seen[sandbox.id] = lease->token();
    const Offer word = stage.returned(sandbox, lease->token(), lease->id(), ++generation[sandbox.id]);
    if (random() % 2 == 0) {
      std::move(*lease).release();
      if (random() % 2 == 0) REQUIRE(insist([&] { return stage.offer(word); }).ok());
    } else {
      REQUIRE(insist([&] { return stage.offer(word); }).ok());
      std::move(*lease).release();
    }
  }
  world.network->disturb(seed, {});
  world.network->deliver_late();
  stage.settle_down();
  CHECK(world.network->injected() > 20);
  CHECK(stage.count(SandboxState::leased) == 0);
  CHECK(stage.count(SandboxState::idle) == generation.size());
  CHECK(generation.size() <= 4);
  CHECK(stage.broken_rules().empty());
}
