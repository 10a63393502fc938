// If these failed, a death would be found late or not at all, or cost more than the sandbox that died.
#include "provision/host_stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

void provision(HostStage& stage, std::uint32_t sandboxes) {
  stage.idle->async_define(
      {.function = stage.idle->resolve("f").value(), .config = {.version = 1, .provisioned = sandboxes}},
      [](absl::Status) {});
  stage.run();
}

void die(const UniqueFd& end) { REQUIRE(::eventfd_write(end.get(), 1) == 0); }

}  // namespace

// No clock moves in these: what is noticed is noticed by an event.

TEST_CASE("the death of an idle sandbox is noticed when it happens", "[provision][death]") {
  HostStage stage({.freeze = GENERATE(FreezePolicy::never, FreezePolicy::at_once)});
  stage.deploy("f");
  stage.call_and_answer("f");
  stage.advance(10ms);
  const HostState before = stage.host->sandboxes()[0].state;
  CHECK((before == HostState::idle || before == HostState::frozen));
  die(stage.script.end);
  stage.run();
  CHECK(stage.host->sandboxes().empty());
  CHECK(stage.stats("f").live() == 0);
  REQUIRE(stage.events->of("sandbox.died").size() == 1);
  CHECK_THAT(stage.events->of("sandbox.died")[0].detail, ContainsSubstring("killed by signal 9"));
}

TEST_CASE("the death of a starting sandbox is noticed when it happens, and its caller gets another",
          "[provision][death]") {
  HostStage stage;
  stage.script.hold_hellos = true;
  stage.deploy("f");
  stage.call("f");
  REQUIRE(stage.host->sandboxes().size() == 1);
  die(stage.script.end);
  stage.run();
  CHECK(stage.host->sandboxes().empty());
  CHECK(stage.stats("f").starts_failed == 1);
  stage.script.hold_hellos = false;
  stage.pass(100ms);  // the backoff
  stage.answer();
  REQUIRE(stage.results.size() == 1);
  CHECK(stage.results[0].ok());
}

TEST_CASE("the death of a busy sandbox is answered as soon as its line says that it is cut",
          "[provision][death]") {
  HostStage stage;
  stage.deploy("f");
  stage.call("f");
  die(stage.script.end);
  stage.run();
  CallResult cut;
  cut.status = absl::UnavailableError("reset");
  stage.answer(std::move(cut));
  REQUIRE(stage.results.size() == 1);
  CHECK(absl::IsUnavailable(stage.results[0].status));
  CHECK_THAT(std::string(stage.results[0].status.message()),
             ContainsSubstring("killed by signal 9") && ContainsSubstring("reset"));
  CHECK(stage.host->sandboxes().empty());
}

TEST_CASE("a line that never says so costs the caller of a dead sandbox no more than a moment",
          "[provision][death]") {
  HostStage stage;
  stage.deploy("f");
  stage.call("f");
  die(stage.script.end);
  stage.advance(50ms);
  REQUIRE(stage.results.size() == 1);
  CHECK(absl::IsUnavailable(stage.results[0].status));
  stage.script.calls.clear();
}

TEST_CASE("what is provisioned is there again after all of it has died at once", "[provision][death]") {
  HostStage stage;
  stage.deploy("f");
  provision(stage, 3);
  REQUIRE(stage.stats("f").idle == 3);
  for (int again = 0; again < 3; ++again) {
    const std::vector<UniqueFd> ends = std::exchange(stage.script.ends, {});
    REQUIRE(ends.size() == 3);
    for (const UniqueFd& end : ends) die(end);
    stage.run();
    // At once the first time; what dies again before it has served anybody is made after a pause.
    CHECK(stage.stats("f").idle == (again == 0 ? 3 : 0));
    stage.advance(200ms);
    CHECK(stage.stats("f").idle == 3);
    CHECK(stage.host->sandboxes().size() == 3);
  }
  CHECK(stage.script.created == 12);
}

TEST_CASE("what is provisioned is there again after it was destroyed, and after starts that died",
          "[provision][death]") {
  HostStage stage;
  stage.deploy("f");
  provision(stage, 2);
  REQUIRE(stage.stats("f").idle == 2);
  stage.script.hold_hellos = true;
  for (const SandboxView& view : stage.host->sandboxes()) REQUIRE(stage.host->destroy(view.id).ok());
  stage.script.ends.clear();
  stage.run();
  for (int again = 0; again < 2; ++again) {
    const std::vector<UniqueFd> ends = std::exchange(stage.script.ends, {});
    REQUIRE_FALSE(ends.empty());
    for (const UniqueFd& end : ends) die(end);
    stage.pass(300ms);
  }
  stage.script.hold_hellos = false;
  for (auto& hello : std::exchange(stage.script.hellos, {})) hello();
  stage.pass(1s);
  CHECK(stage.stats("f").idle == 2);
  CHECK(stage.stats("f").starts_failed == 4);
}

// cgroup v1: what is killed while it is frozen dies at its thaw, and nobody hears of it before.
TEST_CASE("one that was killed while frozen is found at its thaw, and the call moves on",
          "[provision][death]") {
  HostStage stage;
  HostedFunction hosted;
  const bool pinged = GENERATE(false, true);
  if (pinged) hosted.lifetime.ping_after = 10s;
  stage.deploy("f", std::move(hosted));
  stage.call_and_answer("f");
  stage.pass(100ms, 5ms);
  stage.advance(20s);
  REQUIRE(stage.host->sandboxes()[0].state == HostState::frozen);
  stage.script.die_at_thaw = true;
  stage.script.hold_pings = true;
  stage.call("f");
  if (!pinged) {
    CallResult reset;
    reset.status = absl::UnavailableError("reset");
    reset.never_began = true;
    stage.answer(std::move(reset));
  }
  stage.script.hold_pings = false;
  stage.answer();
  REQUIRE(stage.results.size() == 2);
  CHECK(stage.results[1].ok());
  CHECK(stage.results[1].attempts == 2);
  CHECK(stage.script.sent.size() == (pinged ? 2 : 3));
}
