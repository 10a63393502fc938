// If these failed, a sandbox would serve beyond its time, or a stuck one would be given calls.
#include "provision/host_stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

HostedFunction with(Lifetime lifetime) {
  HostedFunction hosted;
  hosted.lifetime = lifetime;
  return hosted;
}

void provision(HostStage& stage, const std::string& name, std::uint32_t sandboxes) {
  stage.idle->async_define(
      {.function = stage.idle->resolve(name).value(), .config = {.version = 1, .provisioned = sandboxes}},
      [](absl::Status) {});
  stage.pass(100ms);
}

}  // namespace

// ---- the rule

TEST_CASE("the age at which one ends lies in the last tenth of the maximum", "[provision][lifetime]") {
  const TimePoint now{1h};
  const Lifetime lifetime{.max_age = 1000ms};
  CHECK(sandbox_rules(lifetime, now, 0).ends_at == now + 1000ms);
  CHECK(sandbox_rules(lifetime, now, 0.5).ends_at == now + 950ms);
  CHECK(sandbox_rules(lifetime, now, 0.999).ends_at > now + 900ms);
  CHECK(sandbox_rules({}, now, 0.5).ends_at == TimePoint::max());
  CHECK(sandbox_rules({.max_age = std::chrono::milliseconds::max()}, now, 0).ends_at == TimePoint::max());
  CHECK_FALSE(sandbox_rules({.ping_after = std::chrono::milliseconds::max()}, now, 0).ping_after);
}

TEST_CASE("a lifetime that cannot be is refused by field and limit", "[provision][lifetime]") {
  HostStage stage;
  const auto refused = [&](Lifetime lifetime) {
    HostedFunction hosted = with(lifetime);
    hosted.handle = stage.idle->resolve("f").value();
    hosted.spec = {.name = "f", .version = 1};
    const absl::Status status = stage.host->deploy(std::move(hosted));
    CHECK(absl::IsInvalidArgument(status));
    return std::string(status.message());
  };
  CHECK(refused({.max_age = 0ms}) == "deploy f: max_age is 0 ms; it must be positive");
  CHECK(refused({.max_uses = 0}) == "deploy f: max_uses is 0; at least 1");
  CHECK(refused({.ping_after = -1ms}) == "deploy f: ping_after is -1 ms; it must not be negative");
  CHECK(refused({.ping_timeout = 0ms}) == "deploy f: ping_timeout is 0 ms; it must be positive");
}

// ---- uses

TEST_CASE("after its last use a sandbox is ended, its caller is answered all the same",
          "[provision][lifetime]") {
  HostStage stage;
  stage.deploy("f", with({.max_uses = 2}));
  stage.call_and_answer("f");
  const SandboxId first = stage.results[0].sandbox;
  CHECK(stage.events->of("sandbox.retired").empty());
  stage.call_and_answer("f");
  CHECK(stage.results[1].sandbox == first);
  REQUIRE(stage.events->of("sandbox.retired").size() == 1);
  CHECK_THAT(stage.events->of("sandbox.retired")[0].detail,
             ContainsSubstring("it has served 2 calls; max_uses is 2"));
  stage.pass(100ms);
  CHECK(stage.host->sandboxes().empty());
  CHECK(stage.stats("f").live() == 0);
  stage.call("f");
  stage.pass(100ms);
  stage.answer();
  REQUIRE(stage.results.size() == 3);
  CHECK(stage.results[2].ok());
  CHECK(stage.results[2].sandbox != first);
  CHECK(stage.results[2].start == StartKind::cold);
}

TEST_CASE("who waits while the last use ends is served by another", "[provision][lifetime]") {
  HostStage stage;
  stage.idle->async_define({.function = stage.idle->resolve("f").value(), .config = {.version = 1}},
                           [](absl::Status) {});
  stage.deploy("f", with({.max_uses = 1}));
  FunctionConfig one;
  one.version = 1;
  one.caps.max_sandboxes = 1;
  stage.idle->async_define({.function = stage.idle->resolve("f").value(), .config = one},
                           [](absl::Status) {});
  for (int i = 0; i < 3; ++i) stage.call("f");
  for (int i = 0; i < 3; ++i) {
    stage.pass(100ms);
    stage.answer();
  }
  REQUIRE(stage.results.size() == 3);
  for (const InvocationResult& result : stage.results) CHECK(result.ok());
  CHECK(stage.script.created == 3);
}

// ---- age

TEST_CASE("an idle sandbox ends at its age, and another takes the place of a provisioned one",
          "[provision][lifetime]") {
  HostStage stage;
  stage.deploy("f", with({.max_age = 60s}));
  provision(stage, "f", 1);
  REQUIRE(stage.host->sandboxes().size() == 1);
  const SandboxId first = stage.host->sandboxes()[0].id;
  stage.advance(53s);
  CHECK(stage.host->sandboxes()[0].id == first);
  CHECK(stage.events->of("sandbox.retired").empty());
  stage.advance(7s);
  stage.pass(100ms);
  REQUIRE(stage.events->of("sandbox.retired").size() == 1);
  CHECK_THAT(stage.events->of("sandbox.retired")[0].detail, ContainsSubstring("max_age is 60000 ms"));
  REQUIRE(stage.host->sandboxes().size() == 1);
  CHECK(stage.host->sandboxes()[0].id != first);
  CHECK(stage.stats("f").idle == 1);
}

TEST_CASE("a call that runs when its sandbox reaches its age runs to its end", "[provision][lifetime]") {
  HostStage stage;
  stage.deploy("f", with({.max_age = 10s}));
  stage.call("f");
  stage.advance(20s);
  REQUIRE(stage.host->sandboxes().size() == 1);
  CHECK(stage.host->sandboxes()[0].state == HostState::busy);
  stage.answer();
  REQUIRE(stage.results.size() == 1);
  CHECK(stage.results[0].ok());
  stage.pass(100ms);
  CHECK(stage.host->sandboxes().empty());
  CHECK(stage.events->of("sandbox.retired").size() == 1);
}

TEST_CASE("one that is too old, and whose withdrawal is lost, is withdrawn again", "[provision][lifetime]") {
  HostStage stage;
  stage.deploy("f", with({.max_age = 10s}));
  stage.call_and_answer("f");
  stage.idle->lose_withdrawals = 1;
  stage.advance(10s);
  CHECK(stage.host->sandboxes().size() == 1);
  stage.advance(1s);
  stage.pass(100ms);
  CHECK(stage.host->sandboxes().empty());
}

// ---- ping

TEST_CASE("a call after a long idle spell waits for the answer to a ping", "[provision][lifetime]") {
  HostStage stage;
  stage.deploy("f", with({.ping_after = 60s}));
  stage.call_and_answer("f");
  stage.advance(59s);
  stage.call_and_answer("f");
  CHECK(stage.script.pings == 0);
  stage.pass(1s, 5ms);
  REQUIRE(stage.host->sandboxes()[0].state == HostState::frozen);
  stage.advance(60s);
  stage.script.hold_pings = true;
  const int thaws = stage.script.thaws;
  stage.call("f");
  CHECK(stage.script.pings == 1);
  CHECK(stage.script.thaws == thaws + 1);  // or it could not answer
  CHECK(stage.script.calls.empty());
  CHECK(stage.host->sandboxes()[0].state == HostState::busy);
  stage.advance(200ms);
  stage.script.held_pings[0](absl::OkStatus());
  REQUIRE(stage.script.calls.size() == 1);
  CHECK(stage.script.thaws == thaws + 1);
  CHECK(stage.script.sent.back().timeout == 60s - 200ms);
  CHECK(stage.script.sent.back().idle_for > 60s);
  stage.advance(2s);  // the ping's time is over, the call's is not
  stage.answer();
  REQUIRE(stage.results.size() == 3);
  CHECK(stage.results[2].ok());
  CHECK(stage.results[2].start == StartKind::warm);
  CHECK(stage.results[2].attempts == 1);
}

TEST_CASE("without an answer to the ping the call moves on, and the sandbox is ended",
          "[provision][lifetime]") {
  HostStage stage;
  stage.deploy("f", with({.ping_after = 60s, .ping_timeout = 1s}));
  stage.call_and_answer("f");
  const SandboxId stuck = stage.results[0].sandbox;
  stage.advance(62s);
  stage.script.hold_pings = true;
  Invocation invocation;
  invocation.payload = Bytes(3, std::byte{7});
  stage.call("f", std::move(invocation));
  REQUIRE(stage.script.held_pings.size() == 1);
  bool silent = false;
  SECTION("it is silent") {
    stage.advance(999ms);
    CHECK(stage.script.created == 1);
    stage.advance(1ms);
    silent = true;
  }
  SECTION("its line is cut") { stage.script.held_pings[0](absl::UnavailableError("reset")); }
  SECTION("it dies") {
    ::eventfd_write(stage.script.end.get(), 1);
    stage.run();
  }
  SECTION("it is destroyed") {
    REQUIRE(stage.host->destroy(stuck).ok());
    stage.run();
  }
  REQUIRE(stage.events->of("sandbox.no_pong").size() == (silent ? 1 : 0));
  if (silent) {
    CHECK_THAT(stage.events->of("sandbox.no_pong")[0].detail,
               ContainsSubstring("no answer to a ping within 1000 ms after 62 s idle"));
  }
  stage.pass(100ms);
  REQUIRE(stage.script.calls.size() == 1);
  CHECK(stage.script.sent.back().payload == Bytes(3, std::byte{7}));
  stage.script.held_pings[0](absl::OkStatus());  // too late: nothing comes of it
  CHECK(stage.script.calls.size() == 1);
  stage.answer();
  REQUIRE(stage.results.size() == 2);
  CHECK(stage.results[1].ok());
  CHECK(stage.results[1].attempts == 2);
  CHECK(stage.results[1].sandbox != stuck);
  REQUIRE(stage.host->sandboxes().size() == 1);
  CHECK(stage.host->sandboxes()[0].id != stuck);
}

TEST_CASE("a deadline that comes before the ping is given up: one answer, in time", "[provision][lifetime]") {
  HostStage stage;
  stage.deploy("f", with({.ping_after = 60s, .ping_timeout = 10min}));
  stage.call_and_answer("f");
  stage.advance(62s);
  stage.script.hold_pings = true;
  stage.call("f");
  stage.advance(60s);
  REQUIRE(stage.results.size() == 2);
  CHECK(absl::IsDeadlineExceeded(stage.results[1].status));
  CHECK_THAT(std::string(stage.results[1].status.message()),
             ContainsSubstring("no answer to a ping within 60000 ms after 62 s idle"));
  stage.pass(100ms);
  CHECK(stage.host->sandboxes().empty());
}

TEST_CASE("pings can be switched off", "[provision][lifetime]") {
  HostStage stage;
  stage.deploy("f", with({.ping_after = std::nullopt}));
  stage.call_and_answer("f");
  stage.advance(9min);
  stage.call_and_answer("f");
  CHECK(stage.script.pings == 0);
}

// ---- ended before it started

TEST_CASE("a start that the host application ends has not failed", "[provision][lifetime]") {
  HostStage stage;
  stage.script.hold_hellos = true;
  stage.deploy("f");
  stage.call("f");
  stage.pass(100ms);
  REQUIRE(stage.host->sandboxes().size() == 1);
  CHECK(stage.host->sandboxes()[0].state == HostState::starting);
  REQUIRE(stage.host->destroy(stage.host->sandboxes()[0].id).ok());
  stage.script.hold_hellos = false;
  stage.pass(100ms);
  CHECK(stage.stats("f").starts_failed == 0);
  CHECK(stage.events->of("start.failed").empty());
  stage.answer();  // by another: no backoff stood before it
  REQUIRE(stage.results.size() == 1);
  CHECK(stage.results[0].ok());
  CHECK(stage.script.created == 2);
}

TEST_CASE("a start that a stop ends has not failed", "[provision][lifetime]") {
  HostStage stage;
  stage.script.hold_hellos = true;
  stage.deploy("f");
  stage.call("f");
  stage.pass(100ms);
  bool stopped = false;
  stage.host->async_stop(asio::bind_executor(stage.io.get_executor(), [&](absl::Status) { stopped = true; }));
  stage.pass(100ms);
  CHECK(stopped);
  CHECK(stage.stats("f").starts_failed == 0);
  CHECK(stage.events->of("start.failed").empty());
}
