// The library's view against the kernel's own files, under load.
#include <atomic>

#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

// What the kernel says of a cgroup, read here without the library. -1: the file is gone.
int kernel_says_frozen(const std::string& cgroup) {
  std::string word;
  if (std::ifstream v2(cgroup + "/cgroup.events"); v2) {
    while (v2 >> word) {
      int value = 0;
      if (word == "frozen" && v2 >> value) return value;
    }
    return -1;
  }
  if (std::ifstream v1(cgroup + "/freezer.state"); v1 >> word) return word == "FROZEN" ? 1 : 0;
  return -1;
}

struct Counts {
  int compared = 0;
  int frozen = 0;
  int busy = 0;
  int frozen_but_running = 0;
  int busy_but_frozen = 0;
};

// Compares every sandbox whose state and generation were the same before and after the file was read.
Counts compare_under_load(local::FreezerChoice freezer, FreezePolicy policy) {
  local::PlatformOptions options;
  options.shards = 2;
  options.freezer = freezer;
  options.host.freeze = policy;
  options.host.grace = 2ms;
  Stage stage(options);
  stage.deploy({.name = "f", .caps = {.max_sandboxes = 6, .max_starts = 6}});
  std::atomic<bool> stop{false};
  std::atomic<int> failed{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      // Short and long calls, with pauses in which sandboxes freeze.
      for (int i = 0; !stop; ++i) {
        if (!stage.invoke("f", (i + c) % 3 == 0 ? "hold 0.006" : "echo x").ok()) ++failed;
        const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds((i * 7 + c * 3) % 12);
        while (std::chrono::steady_clock::now() < until) std::this_thread::yield();
      }
    });
  }
  Counts counts;
  const auto deadline = std::chrono::steady_clock::now() + 40s;
  while ((counts.compared < 1000 || counts.frozen < 200 || counts.busy < 200) &&
         std::chrono::steady_clock::now() < deadline) {
    const std::vector<SandboxView> before = stage.platform->sandboxes();
    for (const SandboxView& view : before) {
      if (view.state != HostState::frozen && view.state != HostState::busy) continue;
      const int says = kernel_says_frozen(view.cgroup);
      if (says < 0) continue;
      for (const SandboxView& after : stage.platform->sandboxes()) {
        if (after.id != view.id || after.generation != view.generation || after.state != view.state) continue;
        ++counts.compared;
        if (view.state == HostState::frozen) {
          ++counts.frozen;
          if (says != 1) ++counts.frozen_but_running;
        } else {
          ++counts.busy;
          if (says != 0) ++counts.busy_but_frozen;
        }
      }
    }
  }
  stop = true;
  for (std::thread& caller : callers) caller.join();
  CHECK(failed == 0);
  std::printf("compared %d (frozen %d, busy %d): frozen but running %d, busy but frozen %d\n",
              counts.compared, counts.frozen, counts.busy, counts.frozen_but_running, counts.busy_but_frozen);
  return counts;
}

void check(const Counts& counts) {
  CHECK(counts.compared >= 1000);
  CHECK(counts.frozen >= 200);
  CHECK(counts.busy >= 200);
  CHECK(counts.frozen_but_running == 0);
  CHECK(counts.busy_but_frozen == 0);
}

}  // namespace

TEST_CASE("none marked frozen runs, none marked busy is frozen: v2, after grace", "[local][kernel]") {
  check(compare_under_load(local::FreezerChoice::cgroup_v2, FreezePolicy::after_grace));
}
TEST_CASE("none marked frozen runs, none marked busy is frozen: v2, at once", "[local][kernel]") {
  check(compare_under_load(local::FreezerChoice::cgroup_v2, FreezePolicy::at_once));
}
TEST_CASE("none marked frozen runs, none marked busy is frozen: v1, after grace", "[local][kernel]") {
  check(compare_under_load(local::FreezerChoice::cgroup_v1, FreezePolicy::after_grace));
}

TEST_CASE("the host's own check of the kernel agrees", "[local][kernel]") {
  Stage stage;
  stage.deploy({.name = "f"});
  const SandboxId id = stage.invoke("f", "echo x").sandbox;
  REQUIRE(eventually([&] { return stage.all_frozen(1); }));
  const auto check = stage.platform->host().check_kernel(id);
  REQUIRE(check);
  CHECK(check->frozen);
  CHECK(check->before.generation == check->after.generation);
}
