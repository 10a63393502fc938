// If these failed, sandboxes would serve beyond what their function allows, a stuck one would keep its
// callers, or a host would promise more memory than it may.
#include <algorithm>

#include "stage.h"

using namespace faaskit;
using namespace faaskit::testing;

TEST_CASE("a sandbox that is stuck does not answer a ping, and its call moves on unseen",
          "[local][lifetime]") {
  local::PlatformOptions options;
  options.host.freeze = FreezePolicy::never;
  Stage stage(options);
  local::Function function{.name = "f"};
  function.lifetime.ping_after = 1ms;
  function.lifetime.ping_timeout = 200ms;
  stage.deploy(std::move(function));
  REQUIRE(stage.invoke("f", "echo a").text() == "a");
  const SandboxView stuck = stage.platform->sandboxes().at(0);
  REQUIRE(::kill(stuck.pid, SIGSTOP) == 0);
  const auto since = std::chrono::steady_clock::now();
  REQUIRE(eventually([&] { return std::chrono::steady_clock::now() - since > 2ms; }));
  const InvocationResult moved = stage.invoke("f", "echo b");
  CHECK(moved.text() == "b");
  CHECK(moved.attempts == 2);
  CHECK(moved.sandbox != stuck.id);
  CHECK(eventually([&] { return !exists(stuck.pid); }));
  CHECK(stage.events->of("sandbox.no_pong").size() == 1);
  // A healthy one answers, and stays.
  const auto again = std::chrono::steady_clock::now();
  REQUIRE(eventually([&] { return std::chrono::steady_clock::now() - again > 2ms; }));
  const InvocationResult warm = stage.invoke("f", "echo c");
  CHECK(warm.text() == "c");
  CHECK(warm.sandbox == moved.sandbox);
}

TEST_CASE("a sandbox that has reached its age ends when it is idle, and what is provisioned is made anew",
          "[local][lifetime]") {
  Stage stage;
  local::Function function{.name = "f"};
  function.lifetime.max_age = 300ms;
  function.provisioned = 1;
  stage.deploy(std::move(function));
  REQUIRE(eventually([&] { return stage.platform->stats("f").idle == 1; }));
  const SandboxId first = stage.platform->sandboxes().at(0).id;
  // Longer than its age: a call that runs is not cut short.
  const InvocationResult held = stage.invoke("f", "hold 0.6");
  CHECK(held.text() == "held");
  CHECK(eventually([&] {
    const std::vector<SandboxView> now = stage.platform->sandboxes();
    return stage.platform->stats("f").idle == 1 && now.size() == 1 && now[0].id != first;
  }));
  CHECK_FALSE(stage.events->of("sandbox.retired").empty());
}

TEST_CASE("a memory budget holds: the least recently used make room, and what never fits is refused",
          "[local][lifetime]") {
  local::PlatformOptions options;
  options.host.limits.max_memory_bytes = 400ull << 20;
  Stage stage(options);
  const auto sized = [](const std::string& name, std::uint64_t mebibytes) {
    local::Function function{.name = name};
    function.limits.memory_bytes = mebibytes << 20;
    return function;
  };
  for (const char* name : {"a", "b", "c"}) stage.deploy(sized(name, 128));
  for (const char* name : {"a", "b", "c", "a"}) REQUIRE(stage.invoke(name, "echo x").text() == "x");
  REQUIRE(stage.platform->sandboxes().size() == 3);
  // 256 MiB beside one of 128: the two used longest ago go.
  stage.deploy(sized("d", 256));
  const InvocationResult big = stage.invoke("d", "echo y");
  INFO(big.status.ToString());
  CHECK(big.text() == "y");
  std::vector<std::string> left;
  for (const SandboxView& view : stage.platform->sandboxes()) left.push_back(view.function);
  std::sort(left.begin(), left.end());
  CHECK(left == std::vector<std::string>{"a", "d"});
  const std::string file = stage.folder.write("e.py", kCommands);
  local::Function never = sized("e", 401);
  never.code_path = file;
  never.handler = "e:handler";
  const absl::Status refused = stage.platform->deploy(std::move(never));
  CHECK(absl::IsInvalidArgument(refused));
}
