// If these failed, a host would lose a warm sandbox, a start or a death, or end before it is done.
#include "provision/host_stage.h"

using namespace faaskit;
using namespace faaskit::testing;

TEST_CASE("at the host's cap a function's own warm sandbox is not evicted to make another",
          "[provision][host]") {
  HostStage stage({.limits = {.max_sandboxes = 1}});
  stage.deploy("f");
  stage.call_and_answer("f");
  REQUIRE(stage.host->sandboxes().size() == 1);
  const SandboxId warm = stage.host->sandboxes()[0].id;
  stage.call("f");
  stage.call("f");  // a start is admitted for it
  stage.answer();
  stage.answer();
  REQUIRE(stage.results.size() == 3);
  for (const InvocationResult& result : stage.results) CHECK(result.sandbox == warm);
  stage.pass(12s, 100ms);
  REQUIRE(stage.host->sandboxes().size() == 1);
  CHECK(stage.host->sandboxes()[0].id == warm);
  CHECK(stage.script.created == 1);
}

TEST_CASE("one that may not evict its own does not stand before another function", "[provision][host]") {
  HostStage stage({.limits = {.max_sandboxes = 1}});
  stage.deploy("a");
  stage.deploy("b");
  stage.call_and_answer("a");
  stage.call("a");
  stage.call("a");
  stage.answer();
  stage.answer();  // its surplus start still waits at the host
  stage.call("b");
  stage.pass(200ms);
  stage.answer();
  REQUIRE(stage.results.size() == 4);
  CHECK(stage.results.back().ok());
}

TEST_CASE("a victim that dies while its withdrawal is lost is counted once", "[provision][host]") {
  HostStage stage({.limits = {.max_sandboxes = 1}});
  stage.deploy("a");
  stage.deploy("b");
  stage.call_and_answer("a");
  stage.idle->hold_withdrawals = true;
  stage.call("b");
  REQUIRE(stage.idle->held.size() == 1);
  REQUIRE(stage.host->destroy(stage.host->sandboxes()[0].id).ok());
  stage.pass(100ms);
  stage.idle->held[0]();
  stage.run();
  stage.answer();
  CHECK(stage.results.back().ok());
}

TEST_CASE("descriptors that the loop refuses: the sandbox is ended, reaped and reported",
          "[provision][host]") {
  HostStage stage;
  stage.script.watchable = false;
  stage.deploy("f");
  for (int i = 0; i < 10; ++i) stage.call("f");
  stage.pass(20s, 20ms);
  CHECK(stage.host->sandboxes().empty());
  REQUIRE_FALSE(stage.events->of("start.failed").empty());
  CHECK_THAT(stage.events->of("start.failed")[0].detail, ContainsSubstring("watch the end of"));
  // Of which there may be too few for a minute: nothing that a function did.
  CHECK(stage.stats("f").starts_failed >= FunctionConfig{}.retry.breaker_failures);
  CHECK(stage.stats("f").breaker_opened == 0);
}

TEST_CASE("a start of what this host does not know is reported, once per start", "[provision][host]") {
  HostStage stage;
  stage.deploy("f");
  const auto push = [&](std::uint64_t number, const std::string& function, Version version) {
    PushParams params{
        .host = stage.host->id(),
        .start = {.id = {.nonce = 1, .number = number}, .function = function, .version = version}};
    stage.starts->async_push(std::move(params), [](absl::Status) {});
    stage.run();
  };
  push(1, "f", 2);
  push(1, "f", 2);
  push(2, "stranger", 1);
  push(3, "f", 0);  // older: the queue will hear of the redeploy
  const std::vector<Event> events = stage.events->of("start.unknown_version");
  REQUIRE(events.size() == 2);
  CHECK_THAT(events[0].detail, ContainsSubstring("version 2 is asked for, and this host knows version 1"));
  CHECK(events[1].function == "stranger");
  CHECK(stage.script.created == 0);
}

TEST_CASE("the longest durations do not wrap", "[provision][host]") {
  HostStage stage(
      {.grace = std::chrono::milliseconds::max(), .announce_period = std::chrono::milliseconds::max()});
  stage.deploy("f", std::chrono::milliseconds::max());
  stage.call_and_answer("f");
  stage.advance(1h);
  REQUIRE(stage.host->sandboxes().size() == 1);
  CHECK(stage.host->sandboxes()[0].state == HostState::idle);
  CHECK(stage.idle->announced.empty());
}

TEST_CASE("a claim that is granted after the stop began is given back, and the stop waits for it",
          "[provision][host]") {
  HostStage stage;
  stage.deploy("f");
  stage.idle->hold_claims = true;
  stage.call("f");
  REQUIRE(stage.idle->held.size() == 1);
  stage.idle->hold_claims = false;
  bool stopped = false;
  // Its own drain would refuse the claim: this one is decided before.
  stage.idle->held[0]();
  stage.host->async_stop(asio::bind_executor(stage.io.get_executor(), [&](absl::Status) { stopped = true; }));
  stage.run();
  CHECK(stopped);
  CHECK(stage.script.created == 0);
  CHECK(stage.stats("f").starts_in_flight <= 1);  // at most the one admitted anew
}

TEST_CASE("a stop waits for the answer to a claim", "[provision][host]") {
  HostStage stage;
  stage.deploy("f");
  stage.idle->hold_claims = true;
  stage.call("f");
  REQUIRE(stage.idle->held.size() == 1);
  bool stopped = false;
  stage.host->async_stop(asio::bind_executor(stage.io.get_executor(), [&](absl::Status) { stopped = true; }));
  stage.run();
  CHECK_FALSE(stopped);
  stage.idle->held[0]();
  stage.run();
  CHECK(stopped);
  CHECK(stage.script.created == 0);
}

TEST_CASE("one that was reaped is not announced while its groups are removed", "[provision][host]") {
  HostStage stage({.announce_period = 1s});
  stage.deploy("f");
  stage.call_and_answer("f");
  stage.script.removable = false;
  REQUIRE(stage.host->destroy(stage.host->sandboxes()[0].id).ok());
  stage.run();
  stage.idle->announced.clear();
  stage.pass(1100ms);
  REQUIRE_FALSE(stage.idle->announced.empty());
  REQUIRE(stage.host->sandboxes().size() == 1);
  CHECK(stage.idle->announced[0].sandboxes.empty());
}

TEST_CASE("a deadline that passes while a death waits for its cause: one answer", "[provision][host]") {
  HostStage stage;
  stage.script.mortal = false;
  stage.deploy("f");
  stage.call("f");
  stage.pass(59'980ms, 20ms);
  CallResult cut;
  cut.status = absl::UnavailableError("reset");
  stage.answer(std::move(cut));
  CHECK(stage.results.empty());
  stage.pass(40ms);
  REQUIRE(stage.results.size() == 1);
  CHECK(absl::IsUnavailable(stage.results[0].status));
  CHECK_THAT(std::string(stage.results[0].status.message()), ContainsSubstring("reset"));
  ::eventfd_write(stage.script.end.get(), 1);
  stage.pass(100ms);
  CHECK(stage.results.size() == 1);
  CHECK(stage.host->sandboxes().empty());
}

TEST_CASE("a freeze that failed is tried again", "[provision][host]") {
  HostStage stage({.freeze = GENERATE(FreezePolicy::at_once, FreezePolicy::after_grace)});
  stage.script.fail_freezes = 2;
  stage.deploy("f");
  stage.call_and_answer("f");
  stage.pass(1s);
  CHECK(stage.host->sandboxes()[0].state == HostState::frozen);
  CHECK(stage.events->of("freezer.failed").size() == 2);
}

TEST_CASE("a freeze whose state cannot be read is asked about again", "[provision][host]") {
  HostStage stage;
  stage.script.unreadable = 2;
  stage.deploy("f");
  stage.call_and_answer("f");
  stage.pass(200ms, 1ms);
  CHECK(stage.host->sandboxes()[0].state == HostState::frozen);
}

TEST_CASE("an expiry that could not be told is told again a second later", "[provision][host]") {
  HostStage stage;
  stage.deploy("f", 1min);
  stage.call_and_answer("f");
  stage.idle->lose_withdrawals = 1;
  stage.advance(1min);
  CHECK(stage.host->sandboxes().size() == 1);
  stage.advance(1s);
  stage.pass(100ms);
  CHECK(stage.host->sandboxes().empty());
}

// Somebody pays for the sandboxes that are to be there; neither time nor a neighbour may take them.
TEST_CASE("what is provisioned is made without a call, and outlives its keep-alive and a full host",
          "[provision][host]") {
  HostStage stage({.limits = {.max_sandboxes = 1}});
  stage.deploy("kept", 1min);
  stage.deploy("other");
  const auto provision = [&](std::uint32_t sandboxes) {
    FunctionConfig config;
    config.provisioned = sandboxes;
    stage.idle->async_define({.function = stage.idle->resolve("kept").value(), .config = config},
                             [](absl::Status) {});
    stage.run();
  };
  provision(1);
  stage.pass(100ms);
  REQUIRE(stage.host->sandboxes().size() == 1);
  const SandboxId kept = stage.host->sandboxes()[0].id;
  stage.call("other");
  stage.pass(200ms);
  stage.advance(1min);
  stage.pass(100ms);
  REQUIRE(stage.host->sandboxes().size() == 1);
  CHECK(stage.host->sandboxes()[0].id == kept);
  REQUIRE(stage.results.size() == 1);  // nothing came for the other function
  CHECK_FALSE(stage.results[0].ok());

  provision(0);
  stage.advance(1min);
  stage.pass(100ms);
  CHECK(stage.stats("kept").idle == 0);
}

TEST_CASE("limits that are not enforced are no process isolation", "[provision][host]") {
  HostStage stage;
  stage.script.missing_limits = "memory, pids";
  HostedFunction hosted;
  hosted.handle = stage.idle->resolve("f").value();
  hosted.spec = {.name = "f", .version = 1};
  const absl::Status refused = stage.host->deploy(hosted);
  CHECK(absl::IsFailedPrecondition(refused));
  CHECK_THAT(std::string(refused.message()), ContainsSubstring("memory, pids"));
  CHECK_THAT(std::string(refused.message()), ContainsSubstring("minimum_isolation partial would accept it"));
  hosted.spec.minimum_isolation = Isolation::partial;
  CHECK(stage.host->deploy(hosted).ok());
}

TEST_CASE("a host that is given up without a stop lets go of everything", "[provision][host]") {
  HostStage stage;
  stage.deploy("f");
  stage.call_and_answer("f");
  stage.call("f");  // runs
  REQUIRE(stage.script.seats == 1);
  stage.invoker.reset();
  stage.host.reset();
  CHECK(stage.script.seats == 0);
}

TEST_CASE("a start that waits at the host goes with its function", "[provision][host]") {
  HostStage stage({.limits = {.max_sandboxes = 1}});
  stage.deploy("a");
  stage.deploy("b");
  stage.call("a");  // runs: the cap is reached, and nothing is idle
  stage.call("b");
  REQUIRE(stage.host->remove("b").ok());
  stage.run();
  stage.answer();
  stage.pass(200ms);
  CHECK(stage.script.created == 1);
  CHECK(stage.events->of("start.unknown_version").empty());
}

// ---- what starts in vain

TEST_CASE("a function that is removed while its sandbox starts: the sandbox is ended at once",
          "[provision][host]") {
  HostStage stage;
  stage.script.hold_hellos = true;
  stage.deploy("f");
  stage.call("f");
  stage.pass(100ms);
  REQUIRE(stage.host->sandboxes().size() == 1);
  const FunctionHandle handle = stage.idle->resolve("f").value();
  SECTION("the queue hears of it first") {
    stage.idle->async_remove({.function = handle}, [](absl::Status) {});
    stage.run();
    REQUIRE(stage.host->remove("f").ok());
  }
  SECTION("the host hears of it first") {
    REQUIRE(stage.host->remove("f").ok());
    stage.pass(50ms);
    stage.idle->async_remove({.function = handle}, [](absl::Status) {});
  }
  stage.pass(100ms);
  CHECK(stage.host->sandboxes().empty());
  CHECK(stage.stats("f").starts_in_flight == 0);
  REQUIRE(stage.results.size() == 1);
  CHECK(absl::IsNotFound(stage.results[0].status));
  CHECK(stage.events->of("start.failed").empty());
  CHECK(stage.events->of("start.unknown_version").empty());
}

TEST_CASE("a start that is claimed while its function is removed is given back", "[provision][host]") {
  HostStage stage;
  stage.deploy("f");
  stage.idle->hold_claims = true;
  stage.call("f");
  REQUIRE(stage.idle->held.size() == 1);
  REQUIRE(stage.host->remove("f").ok());
  stage.run();
  stage.idle->hold_claims = false;
  stage.idle->held[0]();
  stage.pass(100ms);
  CHECK(stage.script.created == 0);
  CHECK(stage.events->of("start.unknown_version").empty());
}

TEST_CASE("a redeploy ends what still starts of the older version, and the new one takes its place",
          "[provision][host]") {
  HostStage stage;
  stage.script.hold_hellos = true;
  stage.deploy("f");
  FunctionConfig config{.version = 1};
  config.caps.max_sandboxes = 1;
  const FunctionHandle handle = stage.idle->resolve("f").value();
  stage.idle->async_define({.function = handle, .config = config}, [](absl::Status) {});
  stage.call("f");
  stage.pass(100ms);
  REQUIRE(stage.host->sandboxes().size() == 1);
  stage.script.hold_hellos = false;
  HostedFunction next;
  next.handle = handle;
  next.spec = {.name = "f", .version = 2};
  REQUIRE(stage.host->deploy(std::move(next)).ok());
  config.version = 2;
  stage.idle->async_define({.function = handle, .config = config}, [](absl::Status) {});
  stage.pass(1500ms);
  stage.answer();
  REQUIRE(stage.results.size() == 1);
  CHECK(stage.results[0].ok());
  CHECK(stage.results[0].version == 2);
  REQUIRE(stage.host->sandboxes().size() == 1);
  CHECK(stage.stats("f").starts_failed == 0);
  CHECK(stage.events->of("start.unknown_version").empty());
}
