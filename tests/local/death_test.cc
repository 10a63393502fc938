// Sandboxes die in every way: callers get answers, pools heal, and nothing of unknown state serves again.
#include <algorithm>

#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

local::PlatformOptions with(local::FreezerChoice freezer, FreezePolicy policy = FreezePolicy::after_grace) {
  local::PlatformOptions options;
  options.freezer = freezer;
  options.host.freeze = policy;
  return options;
}

pid_t pid_of(const Stage& stage, const SandboxId& id) {
  for (const SandboxView& view : stage.platform->sandboxes()) {
    if (view.id == id) return view.pid;
  }
  return -1;
}

}  // namespace

TEST_CASE("a busy sandbox is killed: its caller hears why, and the function goes on", "[local][death]") {
  Stage stage;
  stage.deploy({.name = "f"});
  std::future<InvocationResult> call = stage.start("f", "hold 10");
  // It has begun: one killed before that moves on to another sandbox, and is not an error.
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 1; }));
  const SandboxView victim = stage.in_state(HostState::busy)[0];
  REQUIRE(::kill(victim.pid, SIGKILL) == 0);
  REQUIRE(call.wait_for(5s) == std::future_status::ready);
  InvocationResult result = call.get();
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring("signal 9"));
  InvocationResult next = stage.invoke("f", "echo on");
  CHECK(next.text() == "on");
  CHECK(next.sandbox != result.sandbox);
}

TEST_CASE("two busy sandboxes are killed at a cap of two: the next call is served", "[local][death]") {
  Stage stage;
  stage.deploy({.name = "f", .caps = {.max_sandboxes = 2, .max_starts = 2}});
  std::vector<std::future<InvocationResult>> calls;
  for (int i = 0; i < 2; ++i) calls.push_back(stage.start("f", "hold 10"));
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 2; }));
  for (const SandboxView& view : stage.in_state(HostState::busy)) ::kill(view.pid, SIGKILL);
  for (auto& call : calls) CHECK(absl::IsUnavailable(call.get().status));
  CHECK(stage.invoke("f", "echo on").text() == "on");
}

TEST_CASE("the only idle sandbox is killed: the next call succeeds", "[local][death]") {
  for (const auto freezer : {local::FreezerChoice::cgroup_v2, local::FreezerChoice::cgroup_v1,
                             local::FreezerChoice::stop_signals, local::FreezerChoice::none}) {
    Stage stage(with(freezer));
    stage.deploy({.name = "f"});
    const pid_t pid = pid_of(stage, stage.invoke("f", "echo x").sandbox);
    REQUIRE(::kill(pid, SIGKILL) == 0);
    CHECK(stage.invoke("f", "echo on").text() == "on");
  }
}

TEST_CASE("a frozen sandbox that is destroyed is gone within 100 ms, on v2 and v1", "[local][death]") {
  for (const auto freezer : {local::FreezerChoice::cgroup_v2, local::FreezerChoice::cgroup_v1}) {
    Stage stage(with(freezer));
    stage.deploy({.name = "f"});
    // The time is the contract here. The best of a few: a busy machine may keep any one of them waiting.
    auto best = std::chrono::steady_clock::duration::max();
    for (int i = 0; i < 5; ++i) {
      const SandboxId id = stage.invoke("f", "echo x").sandbox;
      REQUIRE(eventually([&] { return stage.all_frozen(1); }));
      const pid_t pid = pid_of(stage, id);
      const auto begun = std::chrono::steady_clock::now();
      REQUIRE(stage.platform->host().destroy(id).ok());
      REQUIRE(eventually([&] { return !exists(pid); }));
      best = std::min(best, std::chrono::steady_clock::now() - begun);
      REQUIRE(eventually([&] { return stage.platform->sandboxes().empty(); }));
    }
    CHECK(best < 100ms);
  }
}

TEST_CASE("a v2-frozen sandbox killed by a stranger dies at once and is noticed", "[local][death]") {
  Stage stage(with(local::FreezerChoice::cgroup_v2));
  stage.deploy({.name = "f"});
  const SandboxId id = stage.invoke("f", "echo x").sandbox;
  REQUIRE(eventually([&] { return stage.all_frozen(1); }));
  const pid_t pid = pid_of(stage, id);
  REQUIRE(::kill(pid, SIGKILL) == 0);
  REQUIRE(eventually([&] { return stage.platform->sandboxes().empty(); }));
  CHECK_FALSE(exists(pid));
  InvocationResult next = stage.invoke("f", "echo on");
  CHECK(next.text() == "on");
  CHECK(next.attempts == 1);
}

TEST_CASE("a v1-frozen sandbox killed by a stranger dies at its next thaw, and that call moves on unseen",
          "[local][death]") {
  Stage stage(with(local::FreezerChoice::cgroup_v1));
  stage.deploy({.name = "f"});
  const SandboxId id = stage.invoke("f", "echo x").sandbox;
  REQUIRE(eventually([&] { return stage.all_frozen(1); }));
  const pid_t pid = pid_of(stage, id);
  REQUIRE(::kill(pid, SIGKILL) == 0);
  CHECK(exists(pid));  // the kernel keeps it until the thaw
  InvocationResult moved = stage.invoke("f", "echo moved");
  CHECK(moved.status.ToString() == "OK");
  CHECK(moved.text() == "moved");
  CHECK(moved.sandbox != id);
  CHECK(moved.attempts >= 2);
  REQUIRE(eventually([&] { return !exists(pid); }));
}

TEST_CASE("a call past its deadline is answered then, and its sandbox never serves again", "[local][death]") {
  Stage stage;
  stage.deploy({.name = "f"});
  const SandboxId id = stage.invoke("f", "echo x").sandbox;
  InvocationResult late = stage.invoke("f", "hold 10", 200ms);
  CHECK(absl::IsDeadlineExceeded(late.status));
  CHECK(late.sandbox == id);
  CHECK(late.total < 5s);
  InvocationResult next = stage.invoke("f", "echo on");
  CHECK(next.text() == "on");
  CHECK(next.sandbox != id);
}

TEST_CASE("a function that ends its own process in a call: its exit status reaches the caller",
          "[local][death]") {
  Stage stage;
  stage.deploy({.name = "f"});
  InvocationResult result = stage.invoke("f", "exit 7");
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring("status 7"));
}

TEST_CASE("the memory limit kills, and the caller is told that it was that", "[local][death]") {
  Stage stage;
  stage.deploy({.name = "f", .limits = {.memory_bytes = 64ull << 20}});
  REQUIRE(stage.invoke("f", "grab 8").text() == "grabbed");
  InvocationResult result = stage.invoke("f", "grab 200");
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring("out of memory"));
}

TEST_CASE("init that fails: every waiter is answered, with exit status and the end of stderr",
          "[local][death]") {
  Stage stage;
  stage.deploy(
      {.name = "f", .caps = {.max_sandboxes = 4, .max_starts = 4}, .retry = {.budget = 2, .backoff = 10ms}},
      "import os\nos.write(2, b'cannot find the widget\\n')\nos._exit(3)\n");
  std::vector<std::future<InvocationResult>> calls;
  for (int i = 0; i < 4; ++i) calls.push_back(stage.start("f", "echo x", 15s));
  for (auto& call : calls) {
    REQUIRE(call.wait_for(20s) == std::future_status::ready);
    InvocationResult result = call.get();
    CHECK(absl::IsUnavailable(result.status));
    CHECK_THAT(std::string(result.status.message()),
               ContainsSubstring("cannot find the widget") && ContainsSubstring("status 3"));
  }
  REQUIRE(eventually([&] { return stage.platform->sandboxes().empty(); }));
  CHECK(stage.platform->stats("f").live() == 0);
  // A later deploy that works is served.
  stage.deploy({.name = "f"});
  CHECK(stage.invoke("f", "echo mended").text() == "mended");
}

TEST_CASE("starting sandboxes are killed: the calls that wait for them are served all the same",
          "[local][death]") {
  Stage stage;
  stage.deploy({.name = "f"}, std::string("import time\ntime.sleep(0.5)\n") + kCommands);
  std::future<InvocationResult> call = stage.start("f", "echo survived");
  REQUIRE(eventually([&] {
    auto starting = stage.in_state(HostState::starting);
    return !starting.empty() && starting[0].pid > 0 && ::kill(starting[0].pid, SIGKILL) == 0;
  }));
  CHECK(call.get().text() == "survived");
}

TEST_CASE("however a busy sandbox dies, its caller hears how, and the function goes on", "[local][death]") {
  struct Death {
    const char* payload;
    const char* word;
  };
  const auto death =
      GENERATE(Death{"segfault", "killed by signal 11"}, Death{"abort", "killed by signal "},
               Death{"exit 0", "exited with status 0"}, Death{"exit 7", "exited with status 7"},
               Death{"grab 200", "out of memory: the limit is 67108864 bytes"});
  CAPTURE(death.payload);
  Stage stage;
  stage.deploy_program({.name = "f", .limits = {.memory_bytes = 64ull << 20}});
  const InvocationResult result = stage.invoke("f", death.payload);
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring(death.word));
  CHECK(result.attempts == 1);  // it began, and begins nowhere else
  const InvocationResult next = stage.invoke("f", "echo on");
  CHECK(next.text() == "on");
  CHECK(next.sandbox != result.sandbox);
}

TEST_CASE("busy sandboxes are killed under their calls: each caller is answered, each time",
          "[local][death]") {
  Stage stage;
  stage.deploy_program({.name = "f"});
  for (int i = 1; i <= 20; ++i) {
    std::future<InvocationResult> call = stage.start("f", "hold 60000", 60s);
    REQUIRE(eventually([&] { return stage.logs->count("holding") == i; }));
    REQUIRE(::kill(stage.in_state(HostState::busy).at(0).pid, SIGKILL) == 0);
    const InvocationResult result = call.get();
    CHECK(absl::IsUnavailable(result.status));
    CHECK_THAT(std::string(result.status.message()), ContainsSubstring("signal 9"));
  }
  CHECK(stage.invoke("f", "echo on").text() == "on");
}

TEST_CASE("the sandbox that others wait for is killed: they get starts, and no error", "[local][death]") {
  Stage stage;
  stage.deploy_program({.name = "f", .caps = {.max_sandboxes = 1, .max_starts = 1}});
  std::future<InvocationResult> busy = stage.start("f", "hold 60000", 60s);
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 1; }));
  std::vector<std::future<InvocationResult>> waiting;
  for (int i = 0; i < 5; ++i) waiting.push_back(stage.start("f", "echo " + std::to_string(i)));
  REQUIRE(eventually([&] { return stage.platform->stats("f").waiters == 5; }));
  CHECK(stage.platform->stats("f").starts_in_flight == 0);
  REQUIRE(::kill(stage.in_state(HostState::busy).at(0).pid, SIGKILL) == 0);
  CHECK(absl::IsUnavailable(busy.get().status));
  for (std::size_t i = 0; i < waiting.size(); ++i) CHECK(waiting[i].get().text() == std::to_string(i));
}

TEST_CASE("twice at a cap of two everything is killed, and both times the next calls are served",
          "[local][death]") {
  Stage stage;
  stage.deploy_program({.name = "f", .caps = {.max_sandboxes = 2, .max_starts = 2}});
  for (int round = 1; round <= 2; ++round) {
    std::vector<std::future<InvocationResult>> calls;
    for (int i = 0; i < 2; ++i) calls.push_back(stage.start("f", "hold 60000", 60s));
    REQUIRE(eventually([&] { return stage.logs->count("holding") == 2 * round; }));
    for (const SandboxView& view : stage.in_state(HostState::busy)) ::kill(view.pid, SIGKILL);
    // These come while the dead still count.
    std::vector<std::future<InvocationResult>> next;
    for (int i = 0; i < 4; ++i) next.push_back(stage.start("f", "echo on"));
    for (auto& call : calls) CHECK(absl::IsUnavailable(call.get().status));
    for (auto& call : next) CHECK(call.get().text() == "on");
  }
}

TEST_CASE("busy, idle, frozen and starting ones are killed at once: only calls that ran hear of it",
          "[local][death]") {
  for (const auto freezer : {local::FreezerChoice::cgroup_v2, local::FreezerChoice::cgroup_v1}) {
    local::PlatformOptions options = with(freezer);
    options.shards = 2;
    Stage stage(std::move(options));
    stage.deploy_program({.name = "f"});
    stage.deploy_program({.name = "slow", .env = {{"INIT", "slow 300"}}});
    std::vector<std::future<InvocationResult>> first;
    for (int i = 0; i < 3; ++i) first.push_back(stage.start("f", "hold 50"));
    for (auto& call : first) CHECK(call.get().text() == "held");
    REQUIRE(eventually([&] { return stage.all_frozen(3); }));
    const int held = stage.logs->count("holding");
    std::future<InvocationResult> busy = stage.start("f", "hold 60000", 60s);
    REQUIRE(eventually([&] { return stage.logs->count("holding") == held + 1; }));
    std::future<InvocationResult> starting = stage.start("slow", "echo survived");
    REQUIRE(eventually([&] { return !stage.in_state(HostState::starting).empty(); }));
    REQUIRE(eventually([&] { return stage.in_state(HostState::starting).at(0).pid > 0; }));
    std::vector<pid_t> pids;
    for (const SandboxView& view : stage.platform->sandboxes()) pids.push_back(view.pid);
    CHECK(pids.size() == 4);
    for (const pid_t pid : pids) REQUIRE(::kill(pid, SIGKILL) == 0);
    // None of these has begun before the deaths: none hears of them.
    std::vector<std::future<InvocationResult>> next;
    for (int i = 0; i < 8; ++i) next.push_back(stage.start("f", "echo on"));
    CHECK(absl::IsUnavailable(busy.get().status));
    CHECK(starting.get().text() == "survived");
    for (auto& call : next) CHECK(call.get().text() == "on");
    REQUIRE(eventually(
        [&] { return std::none_of(pids.begin(), pids.end(), [](pid_t pid) { return exists(pid); }); }));
  }
}

TEST_CASE("what is starting is killed again and again: the budget's end is told, with the signal",
          "[local][death]") {
  Stage stage;
  stage.deploy_program({.name = "f", .env = {{"INIT", "hang"}}, .retry = {.budget = 3, .backoff = 1ms}});
  std::future<InvocationResult> call = stage.start("f", "echo x");
  REQUIRE(eventually([&] {
    for (const SandboxView& view : stage.in_state(HostState::starting)) {
      if (view.pid > 0) ::kill(view.pid, SIGKILL);
    }
    return call.wait_for(0s) == std::future_status::ready;
  }));
  const InvocationResult result = call.get();
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()),
             ContainsSubstring("3 starts in a row failed") && ContainsSubstring("killed by signal 9"));
}

TEST_CASE("what is provisioned comes back after its processes were killed, again and again",
          "[local][death]") {
  Stage stage;
  stage.deploy_program({.name = "f", .provisioned = 3});
  const auto idle = [&] {
    return stage.platform->stats("f").idle == 3 && stage.platform->sandboxes().size() == 3;
  };
  REQUIRE(eventually(idle));
  std::vector<SandboxId> dead;
  for (int round = 0; round < 5; ++round) {
    for (const SandboxView& view : stage.platform->sandboxes()) {
      dead.push_back(view.id);
      REQUIRE(::kill(view.pid, SIGKILL) == 0);
    }
    REQUIRE(eventually([&] {
      const std::vector<SandboxView> now = stage.platform->sandboxes();
      return idle() && std::none_of(now.begin(), now.end(), [&](const SandboxView& view) {
               return std::find(dead.begin(), dead.end(), view.id) != dead.end();
             });
    }));
  }
  CHECK(stage.invoke("f", "echo x").start == StartKind::warm);
}

TEST_CASE("a call past its deadline takes its own sandbox with it, and no other", "[local][death]") {
  Stage stage;
  stage.deploy_program({.name = "f"});
  stage.deploy_program({.name = "other"});
  REQUIRE(stage.invoke("other", "echo x").ok());
  std::future<InvocationResult> lasting = stage.start("f", "hold 1500");
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 1; }));
  const InvocationResult late = stage.invoke("f", "hold 60000", 300ms);
  CHECK(absl::IsDeadlineExceeded(late.status));
  CHECK_THAT(std::string(late.status.message()), ContainsSubstring("no answer by its deadline"));
  CHECK(late.total >= 300ms);
  const InvocationResult undisturbed = lasting.get();
  CHECK(undisturbed.text() == "held");
  CHECK(undisturbed.sandbox != late.sandbox);
  CHECK(stage.invoke("other", "echo x").start == StartKind::warm);
  REQUIRE(eventually([&] { return stage.platform->sandboxes().size() == 2; }));
}

TEST_CASE("a call that waits past its deadline is answered then, and consumes nothing", "[local][death]") {
  Stage stage;
  stage.deploy_program({.name = "f", .caps = {.max_sandboxes = 1, .max_starts = 1}});
  std::future<InvocationResult> busy = stage.start("f", "hold 1500");
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 1; }));
  const InvocationResult late = stage.invoke("f", "echo x", 200ms);
  CHECK(absl::IsDeadlineExceeded(late.status));
  CHECK(late.sandbox.host == 0);
  CHECK(stage.platform->stats("f").waiters == 0);
  const InvocationResult held = busy.get();
  CHECK(held.text() == "held");
  CHECK(stage.invoke("f", "echo y").sandbox == held.sandbox);
}

TEST_CASE("a sandbox killed before it has read its call: the call moves on and runs once", "[local][death]") {
  Stage stage(with(local::FreezerChoice::cgroup_v2, FreezePolicy::never));
  stage.deploy({.name = "f"});
  const SandboxId id = stage.invoke("f", "echo x").sandbox;
  const pid_t pid = pid_of(stage, id);
  // Stopped by a stranger, it cannot read; then it is killed with the call in its socket.
  REQUIRE(::kill(pid, SIGSTOP) == 0);
  std::future<InvocationResult> call = stage.start("f", "print once");
  REQUIRE(eventually([&] { return stage.in_state(HostState::busy).size() == 1; }));
  REQUIRE(::kill(pid, SIGKILL) == 0);
  InvocationResult result = call.get();
  CHECK(result.status.ToString() == "OK");
  CHECK(result.sandbox != id);
  CHECK(result.attempts >= 2);
  CHECK(stage.logs->count("once") == 1);
}

TEST_CASE("a function that floods its log is bounded, and what was lost is counted", "[local][death]") {
  local::PlatformOptions options;
  options.host.max_log_bytes = 1000;
  Stage stage(options);
  stage.deploy({.name = "f"}, R"(
import sys
def handler(payload, context):
    for i in range(100): print("x" * 999)
    print("the end")
    return "done"
)");
  InvocationResult result = stage.invoke("f", "");
  REQUIRE(result.text() == "done");
  CHECK(result.log_tail.size() <= 4096);
  CHECK_THAT(result.log_tail, Catch::Matchers::EndsWith("the end\n"));
  CHECK(stage.logs->text().size() <= 1000);
  CHECK(stage.logs->lost() == 100 * 1000 + 8 - 1000);
}
