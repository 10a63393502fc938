// What the simulation has found, each as the shortest story that shows it. If one of these failed, the
// symptom in its name would be back.
#include "catch.hpp"
#include "faaskit/core/function_queue.h"
#include "faaskit/provision/start_machine.h"

namespace faaskit::simulation {
namespace {

using Effects = FunctionQueue::Effects;
using Waiter = FunctionQueue::Waiter;

constexpr FunctionQueue::TimePoint kNow{std::chrono::hours(1)};
constexpr InvokerId kInvoker = 7;
constexpr HostId kHost = 1;
constexpr SandboxId kSandbox{.host = kHost, .number = 1};

struct Story {
  Story() { CHECK(queue.define(FunctionConfig{}, kNow, effects).ok()); }
  // The start that was admitted for it.
  StartId acquire(Waiter& waiter) {
    CHECK(queue.acquire(waiter, kNow, effects).outcome == FunctionQueue::AcquireOutcome::queued);
    return only_start();
  }
  StartId only_start() {
    REQUIRE(effects.starts.size() == 1);
    const StartId id = effects.starts.front().id;
    last_for = effects.starts_for;
    effects.clear();
    return id;
  }
  FunctionQueue queue{"f", 99, 1};
  Effects effects;
  InvokerId last_for = 0;
};

Waiter waiter(InvokerId invoker, std::uint64_t sequence) {
  Waiter made;
  made.request = {.invoker = invoker, .sequence = sequence};
  return made;
}

}  // namespace

TEST_CASE("a start that nobody claimed waited for ever once its carrier was gone", "[simulation]") {
  Story story;
  Waiter first = waiter(kInvoker, 1);
  const StartId start = story.acquire(first);
  SECTION("the carrier was purged while another waits") {
    Waiter second = waiter(kInvoker + 1, 1);
    CHECK(story.acquire(second) != start);
    CHECK(story.queue.purge(kInvoker, kNow, story.effects).size() == 1);
    REQUIRE(story.effects.starts.size() == 2);
    CHECK(story.effects.starts.front().id == start);
    CHECK(story.effects.starts_for == kInvoker + 1);
  }
  SECTION("nobody waited then, and somebody comes now") {
    CHECK(story.queue.purge(kInvoker, kNow, story.effects).size() == 1);
    CHECK(story.effects.starts.empty());
    Waiter later = waiter(kInvoker + 1, 1);
    CHECK(story.acquire(later) == start);
    CHECK(story.last_for == kInvoker + 1);
  }
  SECTION("the host that claimed it died") {
    REQUIRE(story.queue.claim(start, kSandbox).ok());
    story.queue.take_over(kHost, kNow, story.effects);
    CHECK(story.only_start() == start);
  }
  SECTION("the host that had it in its queue drains") {
    story.queue.drain(kHost, kNow, story.effects);
    CHECK(story.only_start() == start);
  }
}

TEST_CASE("an announcement overtaken by its sandbox's end brought the sandbox back", "[simulation]") {
  Story story;
  Waiter first = waiter(kInvoker, 1);
  const StartId start = story.acquire(first);
  REQUIRE(story.queue.claim(start, kSandbox).ok());
  REQUIRE(story.queue.cancel(first.request, 1, kNow, story.effects) == &first);
  const Offer offer{.sandbox = {.id = kSandbox, .version = 1},
                    .generation = 1,
                    .start = start,
                    .token = 0,
                    .lease = {},
                    .highest_token = 0};
  REQUIRE(story.queue.offer(offer, kNow, story.effects).ok());
  story.queue.gone(kSandbox, kNow, story.effects);

  AnnouncedSandbox said;
  said.sandbox = offer.sandbox;
  said.function = "f";
  said.state = SandboxState::idle;
  said.generation = 1;
  story.queue.announce(kHost, {said}, kNow, story.effects);
  CHECK(story.queue.find(kSandbox) == nullptr);
  CHECK(story.queue.stats().live() == 0);
}

TEST_CASE("a late duplicate in line could not be cancelled for want of its function's name", "[simulation]") {
  Story story;
  Waiter first = waiter(kInvoker, 1);
  story.acquire(first);
  RepairReport report;
  story.queue.repair(kInvoker, kNow, report, story.effects);
  REQUIRE(report.waiters.size() == 1);
  CHECK(report.waiters.front().function == "f");
}

TEST_CASE("a late duplicate of a start took its sandbox's place at its host for ever", "[simulation]") {
  StartMachine machine({.max_sandboxes = 1});
  const StartRequest start{.id = {.nonce = 9, .number = 1}, .function = "f", .version = 1};
  REQUIRE(machine.arrived(start));
  REQUIRE(machine.next().kind == StartMachine::Next::Kind::begin);
  machine.ready(start.id);
  CHECK(!machine.arrived(start));
  machine.reaped(start.id, true, false);
  CHECK(machine.counted() == 0);
  const StartRequest another{.id = {.nonce = 9, .number = 2}, .function = "f", .version = 1};
  REQUIRE(machine.arrived(another));
  CHECK(machine.next().kind == StartMachine::Next::Kind::begin);
}

}  // namespace faaskit::simulation
