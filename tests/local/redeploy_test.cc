// Versions come and go under load: no call that arrives after a deploy was acknowledged runs older code, none
// fails, and who waits keeps its place.
#include <sys/resource.h>

#include <atomic>
#include <cstdio>

#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

local::Function version_of(std::uint64_t version) {
  local::Function function;
  function.name = "f";
  function.version = version;
  function.env = {{"VERSION", std::to_string(version)}};
  function.caps = {.max_sandboxes = 16, .max_starts = 8};
  return function;
}

struct Tally {
  std::atomic<std::uint64_t> calls{0};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> stale{0};
  std::atomic<std::uint64_t> wrong{0};
};

// Each client calls, one call after another, until told to stop; `acknowledged` is read before each.
std::vector<std::thread> clients(Stage& stage, int count, const std::atomic<std::uint64_t>& acknowledged,
                                 const std::atomic<bool>& stop, Tally& tally) {
  std::vector<std::thread> threads;
  for (int i = 0; i < count; ++i) {
    threads.emplace_back([&] {
      while (!stop) {
        const std::uint64_t known = acknowledged;
        const InvocationResult result = stage.invoke("f", "version", 30s);
        ++tally.calls;
        if (!result.ok()) {
          if (++tally.failed <= 3) std::printf("failed: %s\n", result.status.ToString().c_str());
          continue;
        }
        const std::uint64_t ran = std::stoull(std::string(result.text()));
        if (ran < known) ++tally.stale;
        if (ran != result.version) ++tally.wrong;
      }
    });
  }
  return threads;
}

}  // namespace

TEST_CASE("a deploy every 100 ms under 32 clients: none runs older code, none fails",
          "[local][redeploy][slow]") {
  Stage stage;
  stage.deploy_program(version_of(1));
  std::atomic<std::uint64_t> acknowledged{1};
  std::atomic<bool> stop{false};
  Tally tally;
  std::vector<std::thread> callers = clients(stage, 32, acknowledged, stop, tally);
  const auto begun = std::chrono::steady_clock::now();
  for (std::uint64_t version = 2; version <= 51; ++version) {
    REQUIRE(eventually([&] { return std::chrono::steady_clock::now() - begun >= (version - 1) * 100ms; }));
    stage.deploy_program(version_of(version));
    acknowledged = version;
  }
  // The last one is reached, however slow the machine.
  CHECK(eventually([&] { return stage.invoke("f", "version").text() == "51"; }, 20s));
  stop = true;
  for (std::thread& caller : callers) caller.join();
  CHECK(tally.calls >= 32);
  CHECK(tally.failed == 0);
  CHECK(tally.stale == 0);
  CHECK(tally.wrong == 0);
  // What is left is of the last version, within the caps.
  REQUIRE(eventually([&] {
    const QueueStats stats = stage.platform->stats("f");
    return stats.leased == 0 && stats.retiring == 0 && stats.starts_in_flight == 0 && stats.waiters == 0 &&
           stage.platform->sandboxes().size() == stats.idle;
  }));
  for (const SandboxView& view : stage.platform->sandboxes()) CHECK(view.version == 51);
}

// Each version is older than another before it is ready.
TEST_CASE("deploys come faster than any start: who waits keeps waiting, and is served by the last in turn",
          "[local][redeploy]") {
  Stage stage;
  const auto slow = [](std::uint64_t version) {
    local::Function function = version_of(version);
    function.env.emplace_back("INIT", "slow 200");
    function.caps = {.max_sandboxes = 1, .max_starts = 1};
    return function;
  };
  stage.deploy_program(slow(1));
  std::vector<std::pair<int, std::string>> answers;  // on the one shard
  std::atomic<int> answered{0};
  constexpr int kCalls = 16;
  for (int i = 0; i < kCalls; ++i) {
    const std::string_view text = "version";
    const auto* const bytes = reinterpret_cast<const std::byte*>(text.data());
    stage.platform->async_invoke("f", Bytes(bytes, bytes + text.size()), {.timeout = 60s},
                                 [&, i](InvocationResult result) {
                                   answers.emplace_back(i, result.ok() ? result.text() : "failed");
                                   ++answered;
                                 });
  }
  const auto begun = std::chrono::steady_clock::now();
  for (std::uint64_t version = 2; version <= 21; ++version) {
    REQUIRE(eventually([&] { return std::chrono::steady_clock::now() - begun >= (version - 1) * 40ms; }));
    stage.deploy_program(slow(version));
  }
  REQUIRE(eventually([&] { return answered == kCalls; }, 60s));
  // One may be ready in a pause of a slow machine; all after it are served by it, or later ones.
  for (int i = 0; i < kCalls; ++i) {
    CHECK(answers[static_cast<std::size_t>(i)].first == i);
    CHECK(answers[static_cast<std::size_t>(i)].second != "failed");
  }
  CHECK(answers.back().second == "21");
  CHECK(stage.platform->stats("f").starts_failed == 0);
  CHECK(stage.platform->stats("f").breaker == Breaker::closed);
}

TEST_CASE("a call that runs through a redeploy finishes in its own version", "[local][redeploy]") {
  Stage stage;
  stage.deploy_program(version_of(1));
  std::future<InvocationResult> old = stage.start("f", "since 1000");
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 1; }));
  stage.deploy_program(version_of(2));
  CHECK(stage.invoke("f", "version").text() == "2");
  const InvocationResult result = old.get();
  CHECK(result.text() == "1");
  CHECK(result.version == 1);
}

TEST_CASE("who waits at the cap keeps its place through a redeploy, and gets the new version",
          "[local][redeploy]") {
  Stage stage;
  local::Function first = version_of(1);
  first.caps = {.max_sandboxes = 1, .max_starts = 1};
  stage.deploy_program(first);
  std::future<InvocationResult> busy = stage.start("f", "since 1000");
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 1; }));
  // Answered on the one shard, in the order in which the one sandbox served them.
  std::vector<std::pair<int, std::string>> answers;
  std::atomic<int> answered{0};
  for (int i = 0; i < 5; ++i) {
    const std::string_view text = "version";
    const auto* const bytes = reinterpret_cast<const std::byte*>(text.data());
    stage.platform->async_invoke("f", Bytes(bytes, bytes + text.size()), {}, [&, i](InvocationResult result) {
      answers.emplace_back(i, result.text());
      ++answered;
    });
    REQUIRE(eventually([&] { return stage.platform->stats("f").waiters == static_cast<unsigned>(i) + 1; }));
  }
  local::Function second = version_of(2);
  second.caps = first.caps;
  stage.deploy_program(second);
  CHECK(stage.platform->stats("f").waiters == 5);
  REQUIRE(eventually([&] { return answered == 5; }));
  for (int i = 0; i < 5; ++i) CHECK(answers[static_cast<std::size_t>(i)] == std::pair(i, std::string("2")));
  CHECK(busy.get().text() == "1");
}

TEST_CASE("a function is deleted under load: who waits hears so, what runs finishes, nothing is left",
          "[local][redeploy]") {
  Stage stage;
  local::Function function = version_of(1);
  function.caps = {.max_sandboxes = 2, .max_starts = 2};
  stage.deploy_program(function);
  std::vector<std::future<InvocationResult>> running;
  for (int i = 0; i < 2; ++i) running.push_back(stage.start("f", "since 1000"));
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 2; }));
  std::vector<std::future<InvocationResult>> waiting;
  for (int i = 0; i < 50; ++i) waiting.push_back(stage.start("f", "version"));
  REQUIRE(eventually([&] { return stage.platform->stats("f").waiters == 50; }));
  REQUIRE(stage.platform->remove("f").ToString() == "OK");
  for (auto& call : waiting) CHECK(absl::IsNotFound(call.get().status));
  CHECK(absl::IsNotFound(stage.invoke("f", "version").status));
  for (auto& call : running) CHECK(call.get().text() == "1");
  REQUIRE(eventually([&] { return stage.platform->sandboxes().empty(); }));
  // No version that was there already; a larger one serves.
  function.runtime = "exec";
  function.code_path = FAASKIT_COMMANDED_WORKER;
  CHECK(absl::IsAborted(stage.platform->deploy(function)));
  stage.deploy_program(version_of(2));
  CHECK(stage.invoke("f", "version").text() == "2");
}

TEST_CASE("deleted and deployed again and again under load: each call has one answer, and only these",
          "[local][redeploy]") {
  Stage stage;
  std::atomic<bool> stop{false};
  std::atomic<int> answered{0};
  std::atomic<int> missing{0};
  std::atomic<int> other{0};
  stage.deploy_program(version_of(1));
  std::vector<std::thread> callers;
  for (int i = 0; i < 16; ++i) {
    callers.emplace_back([&] {
      while (!stop) {
        const InvocationResult result = stage.invoke("f", "version");
        if (result.ok()) {
          ++answered;
        } else if (absl::IsNotFound(result.status)) {
          ++missing;
        } else if (++other <= 3) {
          std::printf("other: %s\n", result.status.ToString().c_str());
        }
      }
    });
  }
  for (std::uint64_t version = 2; version <= 21; ++version) {
    const int before = answered;
    REQUIRE(eventually([&] { return answered > before; }));
    REQUIRE(stage.platform->remove("f").ok());
    stage.deploy_program(version_of(version));
  }
  CHECK(eventually([&] { return stage.invoke("f", "version").text() == "21"; }));
  stop = true;
  for (std::thread& caller : callers) caller.join();
  CHECK(other == 0);
  REQUIRE(stage.platform->remove("f").ok());
  REQUIRE(eventually([&] { return stage.platform->sandboxes().empty(); }));
}
