// The library in one process, end to end: real processes, cgroups and sockets.
#include <sys/resource.h>

#include <atomic>
#include <set>

#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

// If this failed, no function would run at all.
TEST_CASE("a call runs a function in a sandbox and brings back what it said", "[local]") {
  Stage stage;
  stage.deploy({.name = "f"});
  InvocationResult cold = stage.invoke("f", "echo hello");
  REQUIRE(cold.status.ToString() == "OK");
  CHECK(cold.text() == "hello");
  CHECK(cold.start == StartKind::cold);
  InvocationResult warm = stage.invoke("f", "echo again");
  CHECK(warm.text() == "again");
  CHECK(warm.start == StartKind::warm);
  CHECK(warm.sandbox == cold.sandbox);
  CHECK(warm.total >= warm.run);
  InvocationResult printed = stage.invoke("f", "print to the log");
  CHECK(printed.log_tail == "to the log\n");
  CHECK(stage.invoke("f", "echo x").log_tail.empty());
}

// The worked example: without competition the second caller would wait for its own cold start.
TEST_CASE("one busy sandbox and one caller gives stolen, and afterwards exactly two are idle", "[local]") {
  Stage stage;
  stage.deploy({.name = "slow"}, std::string("import time\ntime.sleep(1)\n") + kCommands);
  REQUIRE(stage.invoke("slow", "echo warm-up").start == StartKind::cold);
  std::future<InvocationResult> busy = stage.start("slow", "hold 0.3");
  REQUIRE(eventually([&] { return stage.in_state(HostState::busy).size() == 1; }));
  InvocationResult second = stage.invoke("slow", "echo me");
  CHECK(busy.get().start == StartKind::warm);
  REQUIRE(second.ok());
  CHECK(second.start == StartKind::stolen);
  // The surplus start is finished and kept.
  REQUIRE(eventually([&] { return stage.platform->stats("slow").starts_in_flight == 0; }));
  const QueueStats stats = stage.platform->stats("slow");
  CHECK(stats.idle == 2);
  CHECK(stats.live() == 2);
  CHECK(stats.stolen == 1);
  CHECK(stats.surplus_starts == 1);
  CHECK(stats.steals_measured == 1);
  CHECK(stats.steal_saved_us > 0);
}

TEST_CASE("wait_only queues behind the busy sandbox and starts nothing", "[local]") {
  Stage stage;
  stage.deploy({.name = "f", .policy = StartPolicy::wait_only});
  REQUIRE(stage.invoke("f", "echo x").ok());
  std::future<InvocationResult> busy = stage.start("f", "hold 0.2");
  REQUIRE(eventually([&] { return stage.in_state(HostState::busy).size() == 1; }));
  CHECK(stage.invoke("f", "echo y").start == StartKind::queued);
  CHECK(busy.get().ok());
  CHECK(stage.platform->stats("f").starts_admitted == 1);
}

TEST_CASE("a function that raises has failed its call, not its sandbox", "[local]") {
  Stage stage;
  stage.deploy({.name = "f"});
  InvocationResult raised = stage.invoke("f", "raise no such thing");
  CHECK(raised.status.code() == absl::StatusCode::kUnknown);
  CHECK_THAT(std::string(raised.status.message()), ContainsSubstring("no such thing"));
  InvocationResult next = stage.invoke("f", "echo fine");
  CHECK(next.text() == "fine");
  CHECK(next.sandbox == raised.sandbox);
}

TEST_CASE("caps hold: never more sandboxes than allowed, and every call is answered", "[local]") {
  Stage stage;
  stage.deploy({.name = "f", .caps = {.max_sandboxes = 2, .max_starts = 2}});
  std::vector<std::future<InvocationResult>> calls;
  for (int i = 0; i < 40; ++i) calls.push_back(stage.start("f", "hold 0.01"));
  std::size_t most = 0;
  const auto done = [&] {
    most = std::max(most, stage.platform->sandboxes().size());
    for (auto& call : calls) {
      if (call.wait_for(0s) != std::future_status::ready) return false;
    }
    return true;
  };
  REQUIRE(eventually(done, 30s));
  for (auto& call : calls) CHECK(call.get().text() == "held");
  CHECK(most <= 2);
  CHECK(most > 0);
}

TEST_CASE("too many waiters are refused at once, with the numbers", "[local]") {
  Stage stage;
  stage.deploy({.name = "f", .caps = {.max_sandboxes = 1, .max_starts = 1, .max_waiters = 2}});
  std::future<InvocationResult> first = stage.start("f", "hold 0.5");
  std::vector<std::future<InvocationResult>> rest;
  REQUIRE(eventually([&] { return stage.in_state(HostState::busy).size() == 1; }));
  for (int i = 0; i < 3; ++i) rest.push_back(stage.start("f", "echo x"));
  int refused = 0;
  for (auto& call : rest) {
    InvocationResult result = call.get();
    if (result.ok()) continue;
    ++refused;
    CHECK(absl::IsResourceExhausted(result.status));
    CHECK_THAT(std::string(result.status.message()), ContainsSubstring("max_waiters is 2"));
  }
  CHECK(refused == 1);
  CHECK(first.get().ok());
}

TEST_CASE("after a redeploy no call runs older code, and the old sandbox goes", "[local]") {
  Stage stage;
  stage.deploy({.name = "f"}, "def handler(payload, context): return 'one'\n");
  InvocationResult one = stage.invoke("f", "");
  CHECK(one.text() == "one");
  stage.deploy({.name = "f"}, "def handler(payload, context): return 'two'\n");
  InvocationResult two = stage.invoke("f", "");
  CHECK(two.text() == "two");
  CHECK(two.version > one.version);
  REQUIRE(eventually([&] {
    for (const SandboxView& view : stage.platform->sandboxes()) {
      if (view.id == one.sandbox) return false;
    }
    return true;
  }));
  CHECK(stage.platform->stats("f").live() == 1);
}

TEST_CASE("a call that waits can be cancelled; it takes nothing with it", "[local]") {
  Stage stage;
  stage.deploy({.name = "f", .caps = {.max_sandboxes = 1, .max_starts = 1}});
  std::future<InvocationResult> busy = stage.start("f", "hold 0.4");
  REQUIRE(eventually([&] { return stage.in_state(HostState::busy).size() == 1; }));
  asio::cancellation_signal signal;
  asio::thread_pool caller(1);
  std::promise<InvocationResult> promise;
  std::future<InvocationResult> waiting = promise.get_future();
  asio::post(caller, [&] {
    stage.platform->async_invoke(
        "f", {}, {},
        asio::bind_cancellation_slot(signal.slot(),
                                     asio::bind_executor(caller.get_executor(), [&](InvocationResult result) {
                                       promise.set_value(std::move(result));
                                     })));
  });
  REQUIRE(eventually([&] { return stage.platform->stats("f").waiters == 1; }));
  asio::post(caller, [&] { signal.emit(asio::cancellation_type::total); });
  CHECK(absl::IsCancelled(waiting.get().status));
  CHECK(stage.platform->stats("f").waiters == 0);
  CHECK(busy.get().ok());
  CHECK(stage.invoke("f", "echo ok").start == StartKind::warm);
  caller.join();
}

TEST_CASE("a payload beyond the limit is refused and harms nobody", "[local]") {
  local::PlatformOptions options;
  options.channel.max_payload_bytes = 1000;
  Stage stage(options);
  stage.deploy({.name = "f"});
  REQUIRE(stage.invoke("f", "echo x").ok());
  InvocationResult big = stage.invoke("f", std::string(1001, 'x'));
  CHECK(absl::IsInvalidArgument(big.status));
  CHECK_THAT(std::string(big.status.message()), ContainsSubstring("1001") && ContainsSubstring("1000"));
  InvocationResult next = stage.invoke("f", "echo still here");
  CHECK(next.start == StartKind::warm);
  CHECK(next.sandbox == big.sandbox);
}

TEST_CASE("at the host's cap an idle sandbox of another function makes room", "[local]") {
  local::PlatformOptions options;
  options.host.limits.max_sandboxes = 2;
  Stage stage(options);
  for (const char* name : {"a", "b", "c"}) stage.deploy({.name = name});
  const SandboxId oldest = stage.invoke("a", "echo x").sandbox;
  REQUIRE(stage.invoke("b", "echo x").ok());
  REQUIRE(stage.invoke("c", "echo x").ok());
  const std::vector<SandboxView> left = stage.platform->sandboxes();
  CHECK(left.size() <= 2);
  for (const SandboxView& view : left) CHECK(view.id != oldest);
  CHECK(stage.platform->stats("a").live() == 0);
  CHECK(stage.invoke("a", "echo back").text() == "back");
}

TEST_CASE("an idle sandbox is destroyed when its keep-alive has passed", "[local]") {
  Stage stage;
  stage.deploy({.name = "f", .keep_alive = 100ms});
  REQUIRE(stage.invoke("f", "echo x").ok());
  REQUIRE(eventually([&] { return stage.platform->sandboxes().empty(); }));
  CHECK(stage.platform->stats("f").live() == 0);
  CHECK(stage.invoke("f", "echo y").start == StartKind::cold);
}

TEST_CASE("many callers on several shards: every answer is the caller's own", "[local]") {
  local::PlatformOptions options;
  options.shards = 3;
  Stage stage(options);
  stage.deploy({.name = "f", .caps = {.max_sandboxes = 4, .max_starts = 4}});
  std::vector<std::thread> callers;
  std::atomic<int> wrong{0};
  std::atomic<int> right{0};
  for (int c = 0; c < 6; ++c) {
    callers.emplace_back([&, c] {
      for (int i = 0; i < 100; ++i) {
        const std::string mine = std::to_string(c) + "/" + std::to_string(i);
        InvocationResult result = stage.invoke("f", "echo " + mine);
        (result.ok() && result.text() == mine ? right : wrong).fetch_add(1);
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(right == 600);
  CHECK(wrong == 0);
  const QueueStats stats = stage.platform->stats("f");
  CHECK(stats.warm + stats.cold + stats.stolen + stats.queued == 600);
}

TEST_CASE("what is asked wrongly is answered with what is wrong", "[local]") {
  Stage stage;
  CHECK(absl::IsNotFound(stage.invoke("nobody", "").status));
  CHECK(absl::IsInvalidArgument(stage.platform->deploy({.name = "Bad Name"})));
  CHECK(absl::IsNotFound(
      stage.platform->deploy({.name = "f", .code_path = "/nonexistent/x.py", .handler = "x:handler"})));
  const std::string file = stage.folder.write("g.py", kCommands);
  CHECK(
      absl::IsInvalidArgument(stage.platform->deploy({.name = "g", .runtime = "cobol", .code_path = file})));
  CHECK(absl::IsInvalidArgument(local::make_platform({.shards = 0}).status()));
  local::PlatformOptions bad;
  bad.instance = "../escape";
  CHECK(absl::IsInvalidArgument(local::make_platform(bad).status()));
}

TEST_CASE("stop ends everything and leaves nothing", "[local]") {
  std::set<pid_t> pids;
  std::set<std::string> groups;
  {
    Stage stage;
    // Some run, some wait for a sandbox.
    stage.deploy({.name = "f", .caps = {.max_sandboxes = 2, .max_starts = 2}});
    std::vector<std::future<InvocationResult>> calls;
    for (int i = 0; i < 6; ++i) calls.push_back(stage.start("f", "hold 15", 60s));
    REQUIRE(eventually([&] { return stage.in_state(HostState::busy).size() >= 2; }));
    for (const SandboxView& view : stage.platform->sandboxes()) {
      if (view.pid > 0) pids.insert(view.pid);
      if (!view.cgroup.empty()) groups.insert(view.cgroup);
    }
    CHECK(stage.platform->stop().ToString() == "OK");
    CHECK(stage.platform->sandboxes().empty());
    CHECK(absl::IsCancelled(stage.invoke("f", "echo x").status));
    for (auto& call : calls) {
      REQUIRE(call.wait_for(5s) == std::future_status::ready);
      CHECK(absl::IsCancelled(call.get().status));
    }
  }
  REQUIRE(!pids.empty());
  for (const pid_t pid : pids) CHECK_FALSE(exists(pid));
  for (const std::string& group : groups) CHECK_FALSE(std::filesystem::exists(group));
}

TEST_CASE("a redeploy that is refused leaves the version that works as it is", "[local]") {
  Stage stage;
  stage.deploy({.name = "f"});
  const std::string file = stage.folder.write("worse.py", kCommands);
  CHECK(absl::IsInvalidArgument(stage.platform->deploy(
      {.name = "f", .code_path = file, .handler = "worse:handler", .caps = {.max_sandboxes = 0}})));
  CHECK(absl::IsInvalidArgument(stage.platform->deploy(
      {.name = "f", .code_path = file, .handler = "worse:handler", .retry = {.budget = 0}})));
  CHECK(absl::IsNotFound(stage.platform->deploy(
      {.name = "f", .code_path = "/nonexistent.py", .handler = "nonexistent:handler"})));
  CHECK(stage.invoke("f", "echo fine").text() == "fine");
}

TEST_CASE("versions are the caller's to count, or the platform's; never an old one again", "[local]") {
  Stage stage;
  stage.deploy({.name = "f"});
  CHECK(stage.invoke("f", "echo x").version == 1);
  stage.deploy({.name = "f", .version = 7});
  CHECK(stage.invoke("f", "echo x").version == 7);
  stage.deploy({.name = "f"});
  CHECK(stage.invoke("f", "echo x").version == 8);
  stage.deploy({.name = "g"});
  CHECK(stage.invoke("g", "echo x").version == 1);
  const std::string file = stage.folder.write("old.py", kCommands);
  const absl::Status old =
      stage.platform->deploy({.name = "f", .version = 8, .code_path = file, .handler = "old:handler"});
  CHECK(absl::IsAborted(old));
  CHECK_THAT(std::string(old.message()), ContainsSubstring("version 8, but 8 was there already"));
}

TEST_CASE("a function that is removed answers nobody, lets what runs finish, and may come back", "[local]") {
  Stage stage;
  stage.deploy({.name = "f", .caps = {.max_sandboxes = 2, .max_starts = 2}});
  stage.deploy({.name = "other"});
  REQUIRE(stage.invoke("other", "echo x").ok());
  // One runs, one is idle.
  std::future<InvocationResult> first = stage.start("f", "hold 0.1");
  std::future<InvocationResult> busy = stage.start("f", "hold 0.5");
  REQUIRE(first.get().ok());
  REQUIRE(stage.platform->remove("f").ToString() == "OK");
  CHECK(absl::IsNotFound(stage.invoke("f", "echo x").status));
  CHECK(absl::IsNotFound(stage.platform->remove("f")));
  CHECK(busy.get().text() == "held");
  REQUIRE(eventually([&] { return stage.platform->sandboxes().size() == 1; }));
  CHECK(stage.platform->sandboxes()[0].function == "other");
  stage.deploy({.name = "f"}, "def handler(payload, context): return 'back'\n");
  const InvocationResult back = stage.invoke("f", "");
  CHECK(back.text() == "back");
  CHECK(back.version == 2);
  CHECK(stage.invoke("other", "echo x").start == StartKind::warm);
}

TEST_CASE("who waits for a function that is removed is told so", "[local]") {
  Stage stage;
  stage.deploy({.name = "f", .caps = {.max_sandboxes = 1, .max_starts = 1}});
  std::future<InvocationResult> busy = stage.start("f", "hold 0.5");
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 1; }));
  std::future<InvocationResult> waits = stage.start("f", "echo x");
  REQUIRE(eventually([&] { return stage.platform->stats("f").waiters == 1; }));
  REQUIRE(stage.platform->remove("f").ok());
  CHECK(absl::IsNotFound(waits.get().status));
  CHECK(busy.get().ok());
}

TEST_CASE("provisioned sandboxes are there before anybody calls, come back, and outlive the keep-alive",
          "[local]") {
  Stage stage;
  stage.deploy({.name = "f", .keep_alive = 50ms, .provisioned = 2});
  REQUIRE(eventually([&] { return stage.platform->stats("f").idle == 2; }));
  CHECK(stage.invoke("f", "echo x").start == StartKind::warm);
  const std::vector<SandboxView> before = stage.platform->sandboxes();
  REQUIRE(before.size() == 2);
  REQUIRE(eventually([&] {
    for (const SandboxView& view : stage.platform->sandboxes()) {
      if (view.age < 1s) return false;
    }
    return true;
  }));
  for (std::size_t i = 0; i < 2; ++i) CHECK(stage.platform->host().destroy(before[i].id).ok());
  REQUIRE(eventually([&] {
    const std::vector<SandboxView> now = stage.platform->sandboxes();
    return stage.platform->stats("f").idle == 2 && now.size() == 2 && now[0].id != before[0].id &&
           now[0].id != before[1].id && now[1].id != before[0].id && now[1].id != before[1].id;
  }));
  REQUIRE(stage.platform->remove("f").ok());
  REQUIRE(eventually([&] { return stage.platform->sandboxes().empty(); }));
}

TEST_CASE("the host's network is for functions of platforms that allow it", "[local]") {
  Stage stage;
  const std::string file = stage.folder.write("f.py", kCommands);
  const absl::Status refused = stage.platform->deploy(
      {.name = "f", .code_path = file, .handler = "f:handler", .network = Network::host});
  CHECK(absl::IsFailedPrecondition(refused));
  CHECK_THAT(std::string(refused.message()), ContainsSubstring("allow_host_network"));
  local::PlatformOptions options;
  options.allow_host_network = true;
  Stage open(options);
  open.deploy({.name = "f", .network = Network::host});
}

TEST_CASE("destroying a platform answers every call that waits", "[local]") {
  std::atomic<int> answered{0};
  std::atomic<int> cancelled{0};
  {
    local::PlatformOptions options;
    options.shards = 3;
    Stage stage(options);
    stage.deploy({.name = "f", .caps = {.max_sandboxes = 1, .max_starts = 1}});
    std::future<InvocationResult> busy = stage.start("f", "hold 20", 60s);
    REQUIRE(eventually([&] { return stage.logs->count("holding") == 1; }));
    for (int i = 0; i < 300; ++i) {
      stage.platform->async_invoke("f", {}, {}, [&](const InvocationResult& result) {
        ++answered;
        if (absl::IsCancelled(result.status)) ++cancelled;
      });
    }
  }
  CHECK(answered == 300);
  CHECK(cancelled == 300);
}

TEST_CASE("for ever may be asked for: the largest durations do not wrap", "[local]") {
  Stage stage;
  stage.deploy({.name = "f", .keep_alive = std::chrono::milliseconds::max()});
  CHECK(stage.invoke("f", "echo x", std::chrono::milliseconds::max()).text() == "x");
  CHECK(stage.invoke("f", "echo y", std::chrono::milliseconds::max()).start == StartKind::warm);
  REQUIRE(eventually([&] { return stage.all_frozen(1); }));
  CHECK(stage.platform->stop(std::chrono::milliseconds::max()).ok());
}

TEST_CASE("out of descriptors: a platform is refused by name, and the process lives", "[local]") {
  need_root();
#ifdef __SANITIZE_ADDRESS__
  FAASKIT_SKIP("the sanitizers need descriptors of their own to look at an exception");
#endif
  rlimit limit{};
  REQUIRE(::getrlimit(RLIMIT_NOFILE, &limit) == 0);
  const rlimit saved = limit;
  limit.rlim_cur = 60;
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &limit) == 0);
  local::PlatformOptions options;
  options.shards = 64;
  const auto begun = std::chrono::steady_clock::now();
  const absl::Status status = local::make_platform(options).status();
  const auto took = std::chrono::steady_clock::now() - begun;
  REQUIRE(::setrlimit(RLIMIT_NOFILE, &saved) == 0);
  CHECK(absl::IsResourceExhausted(status));
  CHECK(took < 5s);  // it waits for nothing on a loop that never had a thread
}
