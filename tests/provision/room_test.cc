// If these failed, a full host would refuse what it could serve, end what is warm for nothing, or use more
// memory than it may.
#include "provision/host_stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

HostedFunction sized(std::uint64_t memory_bytes) {
  HostedFunction hosted;
  hosted.spec.limits.memory_bytes = memory_bytes;
  return hosted;
}

std::vector<std::string> live(const HostStage& stage) {
  std::vector<std::string> names;
  for (const SandboxView& view : stage.host->sandboxes()) names.push_back(view.function);
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace

// ---- who goes

TEST_CASE("at the cap of sandboxes the one used least recently goes", "[provision][room]") {
  HostStage stage({.limits = {.max_sandboxes = 3}});
  for (const char* name : {"a", "b", "c", "d"}) stage.deploy(name);
  for (const char* name : {"b", "a", "c"}) {
    stage.call_and_answer(name);
    stage.advance(1s);
  }
  stage.call_and_answer("b");  // made first, used last
  stage.call("d");
  stage.pass(100ms);
  stage.answer();
  CHECK(stage.results.back().ok());
  CHECK(live(stage) == std::vector<std::string>{"b", "c", "d"});
}

// On another shard's thread. If nobody heard of it, the start would wait for the next announcement.
TEST_CASE("what becomes idle just when a host has found nothing idle makes room", "[provision][room]") {
  HostStage stage({.limits = {.max_sandboxes = 1}});
  stage.deploy("a");
  stage.deploy("b");
  stage.call("a");
  stage.starts->on_load = [&](std::uint64_t load) {
    if (load == 0 || stage.script.calls.empty()) return;
    Channel::CallHandler done = std::move(stage.script.calls.front());
    stage.script.calls.clear();
    done({});
  };
  stage.call("b");
  REQUIRE(stage.results.size() == 1);  // that of a
  stage.starts->on_load = nullptr;
  stage.pass(100ms);
  CHECK(live(stage) == std::vector<std::string>{"b"});
}

TEST_CASE("at the memory budget those used least recently go, as many as it takes", "[provision][room]") {
  HostStage stage({.limits = {.max_memory_bytes = 100}});
  for (const char* name : {"a", "b", "c", "d"}) stage.deploy(name, sized(25));
  stage.deploy("none", sized(0));
  stage.deploy("large", sized(60));
  for (const char* name : {"none", "c", "a", "d", "b"}) {
    stage.call_and_answer(name);
    stage.advance(1s);
  }
  stage.call_and_answer("c");
  stage.call("large");
  stage.pass(100ms);
  stage.answer();
  CHECK(stage.results.back().ok());
  // What uses none of the memory would have ended in vain.
  CHECK(live(stage) == std::vector<std::string>{"c", "large", "none"});
}

TEST_CASE("a function whose one sandbox exceeds the budget is refused", "[provision][room]") {
  HostStage stage({.limits = {.max_memory_bytes = 100}});
  HostedFunction hosted = sized(101);
  hosted.handle = stage.idle->resolve("f").value();
  hosted.spec.name = "f";
  hosted.spec.version = 1;
  const absl::Status refused = stage.host->deploy(hosted);
  CHECK(absl::IsInvalidArgument(refused));
  CHECK(std::string(refused.message()) ==
        "deploy f: one sandbox may use 101 bytes of memory; all of this host together max_memory_bytes 100");
  hosted.spec.limits.memory_bytes = 100;
  CHECK(stage.host->deploy(hosted).ok());
}

TEST_CASE("a budget of nothing, or no time to make room, is no host", "[provision][room]") {
  const auto refused = [](LocalHostOptions options) {
    asio::io_context io;
    return make_local_host({.shards = {io.get_executor()}, .blocking = io.get_executor()}, {}, options)
        .status();
  };
  CHECK_THAT(std::string(refused({.limits = {.max_memory_bytes = 0}}).message()),
             ContainsSubstring("max_memory_bytes 0"));
  CHECK_THAT(std::string(refused({.limits = {.room_wait = 0ms}}).message()),
             ContainsSubstring("room_wait 0 ms"));
}

// ---- for whom

TEST_CASE("what nobody waits for ends no idle sandbox of another function", "[provision][room]") {
  HostStage stage({.limits = {.max_sandboxes = 2}});
  stage.deploy("a");
  stage.deploy("b");
  stage.call_and_answer("a");
  stage.call_and_answer("b");
  stage.call("a");
  stage.idle->hold_claims = true;
  stage.call("a");  // a start is admitted for it, which needs the room of b's
  REQUIRE(stage.idle->held.size() == 1);
  CHECK(stage.idle->claims.back().needs_room);
  stage.answer();  // and is surplus now
  stage.answer();
  stage.idle->hold_claims = false;
  stage.idle->held[0]();
  stage.pass(100ms);
  CHECK(live(stage) == std::vector<std::string>{"a", "b"});
  CHECK(stage.script.created == 2);
  CHECK(stage.stats("a").starts_in_flight == 0);
}

TEST_CASE("where there is room a start is claimed as ever", "[provision][room]") {
  HostStage stage({.limits = {.max_sandboxes = 2}});
  stage.deploy("a");
  stage.call_and_answer("a");
  REQUIRE(stage.idle->claims.size() == 1);
  CHECK_FALSE(stage.idle->claims[0].needs_room);
}

// ---- claimed, and still no room

namespace {

// "a" is idle when "b" is claimed for its room, and leased before it can be withdrawn.
struct Claimed : HostStage {
  explicit Claimed(LocalHostOptions options = {.limits = {.max_sandboxes = 1}}) : HostStage(options) {
    deploy("a");
    deploy("b");
    call_and_answer("a");
    idle->hold_claims = true;
    call("b");
    REQUIRE(idle->held.size() == 1);
    idle->hold_claims = false;
    call("a");
    idle->held[0]();
    run();
    idle->held.clear();
    REQUIRE(results.size() == 1);
    REQUIRE(idle->claims.back().needs_room);
  }
};

}  // namespace

TEST_CASE("a start that was claimed for room gets it when a sandbox becomes idle", "[provision][room]") {
  Claimed stage;
  stage.advance(5s);
  stage.answer();  // a is idle again
  stage.pass(100ms);
  stage.answer();
  REQUIRE(stage.results.size() == 3);
  CHECK(stage.results[2].ok());
  CHECK(stage.results[2].start == StartKind::cold);
  CHECK(live(stage) == std::vector<std::string>{"b"});
  CHECK(stage.idle->claims.size() == 2);  // once for each
}

TEST_CASE("a start that was claimed for room and finds none is given back in time, and comes again",
          "[provision][room]") {
  // Nothing else happens there for hours.
  Claimed stage({.limits = {.max_sandboxes = 1}, .announce_period = 10h});
  const StartId first = stage.idle->claims.back().start;
  stage.pass(9900ms, 100ms);
  CHECK(stage.stats("b").starts_admitted == 1);
  stage.pass(200ms, 100ms);
  CHECK(stage.stats("b").starts_admitted == 2);
  stage.pass(2s, 100ms);
  CHECK(stage.stats("b").waiters == 1);
  CHECK(stage.stats("b").starts_in_flight == 1);  // another one
  stage.answer();
  stage.pass(200ms);
  stage.answer();
  REQUIRE(stage.results.size() == 3);
  CHECK(stage.results[2].ok());
  CHECK(stage.idle->claims.back().start != first);
  CHECK(stage.stats("b").starts_failed == 0);
}

TEST_CASE("a start that was claimed for room goes with its function, or its version", "[provision][room]") {
  Claimed stage;
  const FunctionHandle handle = stage.idle->resolve("b").value();
  SECTION("removed") {
    REQUIRE(stage.host->remove("b").ok());
    stage.idle->async_remove({.function = handle}, [](absl::Status) {});
    stage.run();
    CHECK(stage.stats("b").starts_in_flight == 0);
    REQUIRE(stage.results.size() == 2);
    CHECK(absl::IsNotFound(stage.results[1].status));
  }
  SECTION("deployed anew") {
    HostedFunction hosted;
    hosted.handle = handle;
    hosted.spec = {.name = "b", .version = 2};
    REQUIRE(stage.host->deploy(std::move(hosted)).ok());
    stage.idle->async_define({.function = handle, .config = {.version = 2}}, [](absl::Status) {});
    stage.pass(1500ms);
    CHECK(stage.stats("b").starts_in_flight == 1);
    stage.answer();
    stage.pass(100ms);
    stage.answer();
    REQUIRE(stage.results.size() == 3);
    CHECK(stage.results[2].ok());
    CHECK(stage.results[2].version == 2);
  }
}

TEST_CASE("a stop gives back what was claimed for room", "[provision][room]") {
  Claimed stage;
  bool stopped = false;
  stage.host->async_stop(asio::bind_executor(stage.io.get_executor(), [&](absl::Status) { stopped = true; }));
  stage.pass(200ms);
  CHECK(stopped);
  CHECK(stage.script.created == 1);
  CHECK(stage.stats("b").starts_admitted == 2);  // the first is gone, and somebody waits
}

TEST_CASE("a stop waits for the answer to a claim for room", "[provision][room]") {
  HostStage stage({.limits = {.max_sandboxes = 1}});
  stage.deploy("a");
  stage.deploy("b");
  stage.call_and_answer("a");
  stage.idle->hold_claims = true;
  stage.call("b");
  REQUIRE(stage.idle->held.size() == 1);
  bool stopped = false;
  stage.host->async_stop(asio::bind_executor(stage.io.get_executor(), [&](absl::Status) { stopped = true; }));
  stage.pass(200ms);
  CHECK_FALSE(stopped);
  stage.idle->held[0]();
  stage.run();
  CHECK(stopped);
}
