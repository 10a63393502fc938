// If these failed: a sandbox would run while it is taken for frozen, outlive its end, or exceed its limits.
#include <sys/wait.h>
#include <algorithm>

#include "machine.h"

namespace faaskit::cgroup {
namespace {

std::unique_ptr<Freezer> make(Choice choice, const RuntimeDir& dir, const std::string& instance) {
  absl::StatusOr<std::unique_ptr<Freezer>> freezer =
      make_freezer({.instance = instance, .choice = choice, .runtime_dir = dir.path()});
  INFO(freezer.status().ToString());
  REQUIRE(freezer.ok());
  return *std::move(freezer);
}

void check_freeze_and_thaw(Choice choice, FreezerKind kind) {
  need(choice);
  RuntimeDir dir;
  const std::string instance = unique_instance("frz");
  {
    auto freezer = make(choice, dir, instance);
    CHECK(freezer->kind() == kind);
    auto seat = freezer->prepare({.name = "sb-1"}).value();
    auto child = sleeper(*seat);
    CHECK(seat->frozen() == std::optional<bool>(false));
    for (int i = 0; i < 20; ++i) {
      REQUIRE(seat->freeze().ok());
      REQUIRE(eventually([&] { return seat->frozen() == std::optional<bool>(true); }));
      REQUIRE(seat->thaw().ok());
      REQUIRE(eventually([&] { return seat->frozen() == std::optional<bool>(false); }));
    }
    CHECK(seat->kill().ok());
    CHECK(spawner::wait_and_reap(child.pidfd.get(), 1000));
    CHECK(eventually([&] { return seat->remove().ok(); }));
    CHECK(seat->remove().ok());
    CHECK(seat->kill().ok());
  }
  CHECK(groups_of(instance).empty());
  CHECK(std::filesystem::is_empty(dir.path()));
}

TEST_CASE("v2 freezes and thaws, and says so", "[cgroup]") {
  check_freeze_and_thaw(Choice::cgroup_v2, FreezerKind::cgroup_v2);
}
TEST_CASE("v1 freezes and thaws, and says so", "[cgroup]") {
  check_freeze_and_thaw(Choice::cgroup_v1, FreezerKind::cgroup_v1);
}
TEST_CASE("stop signals freeze and thaw, and say so", "[cgroup]") {
  check_freeze_and_thaw(Choice::stop_signals, FreezerKind::stop_signals);
}

void check_frozen_dies(Choice choice) {
  need(choice);
  RuntimeDir dir;
  auto freezer = make(choice, dir, unique_instance("die"));
  // The time is the contract here. The best of a few: a busy machine may keep any one of them waiting.
  auto best = std::chrono::steady_clock::duration::max();
  for (int i = 0; i < 5; ++i) {
    auto seat = freezer->prepare({.name = "sb-" + std::to_string(i)}).value();
    auto child = sleeper(*seat);
    REQUIRE(seat->freeze().ok());
    REQUIRE(eventually([&] { return seat->frozen() == std::optional<bool>(true); }));
    const auto begin = std::chrono::steady_clock::now();
    REQUIRE(seat->kill().ok());
    REQUIRE(spawner::wait_and_reap(child.pidfd.get(), 1000));
    REQUIRE(eventually([&] { return seat->remove().ok(); }));
    best = std::min(best, std::chrono::steady_clock::now() - begin);
  }
  CHECK(best < 100ms);
}

TEST_CASE("a frozen sandbox that is destroyed is gone within 100 ms on v2", "[cgroup]") {
  check_frozen_dies(Choice::cgroup_v2);
}
TEST_CASE("a frozen sandbox that is destroyed is gone within 100 ms on v1", "[cgroup]") {
  check_frozen_dies(Choice::cgroup_v1);
}
TEST_CASE("a stopped sandbox that is destroyed is gone within 100 ms", "[cgroup]") {
  check_frozen_dies(Choice::stop_signals);
}

TEST_CASE("a stranger's SIGKILL: a frozen sandbox dies at once on v2", "[cgroup]") {
  need(Choice::cgroup_v2);
  RuntimeDir dir;
  auto freezer = make(Choice::cgroup_v2, dir, unique_instance("str2"));
  auto seat = freezer->prepare({.name = "sb-1"}).value();
  auto child = sleeper(*seat);
  REQUIRE(seat->freeze().ok());
  REQUIRE(eventually([&] { return seat->frozen() == std::optional<bool>(true); }));
  REQUIRE(::kill(child.pid, SIGKILL) == 0);
  CHECK(spawner::wait_and_reap(child.pidfd.get(), 100));
}

TEST_CASE("a stranger's SIGKILL: a frozen sandbox dies at its next thaw on v1", "[cgroup]") {
  need(Choice::cgroup_v1);
  RuntimeDir dir;
  auto freezer = make(Choice::cgroup_v1, dir, unique_instance("str1"));
  auto seat = freezer->prepare({.name = "sb-1"}).value();
  auto child = sleeper(*seat);
  REQUIRE(seat->freeze().ok());
  REQUIRE(eventually([&] { return seat->frozen() == std::optional<bool>(true); }));
  REQUIRE(::kill(child.pid, SIGKILL) == 0);
  CHECK_FALSE(spawner::wait_and_reap(child.pidfd.get(), 50));
  REQUIRE(seat->thaw().ok());
  CHECK(spawner::wait_and_reap(child.pidfd.get(), 100));
}

TEST_CASE("on v1 an empty group of the instance is kept frozen", "[cgroup]") {
  need(Choice::cgroup_v1);
  RuntimeDir dir;
  const std::string instance = unique_instance("held");
  auto freezer = make(Choice::cgroup_v1, dir, instance);
  CHECK(text_of(probe().v1_freezer + "/faaskit-" + instance + "/.held/freezer.state") == "FROZEN\n");
}

TEST_CASE("limits are written where the sandbox will be, and can be replaced", "[cgroup]") {
  need_root();
  const Layout layout = probe();
  if (layout.v1_memory.empty() || layout.v1_pids.empty() || layout.v1_cpu.empty())
    FAASKIT_SKIP("memory, pids and cpu are not v1 controllers here");
  RuntimeDir dir;
  const std::string instance = unique_instance("lim");
  auto freezer = make(Choice::automatic, dir, instance);
  CHECK(freezer->limits_source() == "memory: cgroup v1, pids: cgroup v1, cpu: cgroup v1");
  auto seat =
      freezer->prepare({.name = "sb-1", .limits = {.memory_bytes = 64 << 20, .pids = 7, .cpu_weight = 50}})
          .value();
  const auto file = [&](const std::string& parent, const std::string& name) {
    return text_of(parent + "/faaskit-" + instance + "/sb-1/" + name);
  };
  CHECK(file(layout.v1_memory, "memory.limit_in_bytes") == "67108864\n");
  CHECK(file(layout.v1_pids, "pids.max") == "7\n");
  CHECK(file(layout.v1_cpu, "cpu.shares") == "512\n");
  for (const std::uint64_t bytes : {std::uint64_t{128} << 20, std::uint64_t{32} << 20}) {
    const absl::Status status = seat->set_limits({.memory_bytes = bytes, .pids = 9, .cpu_weight = 100});
    INFO(status.ToString());
    REQUIRE(status.ok());
    CHECK(file(layout.v1_memory, "memory.limit_in_bytes") == std::to_string(bytes) + "\n");
    CHECK(file(layout.v1_pids, "pids.max") == "9\n");
    CHECK(file(layout.v1_cpu, "cpu.shares") == "1024\n");
  }
  CHECK(file(layout.v1_cpu, "cpu.cfs_quota_us") == "-1\n");
  for (const auto& [milli, quota] : {std::pair<std::optional<std::uint32_t>, std::string>{500, "50000"},
                                     {10, "1000"},
                                     {2500, "250000"},
                                     {std::nullopt, "-1"}}) {
    const absl::Status status = seat->set_limits({.cpu_max_milli = milli});
    INFO(status.ToString());
    REQUIRE(status.ok());
    CHECK(file(layout.v1_cpu, "cpu.cfs_quota_us") == quota + "\n");
    CHECK(file(layout.v1_cpu, "cpu.cfs_period_us") == "100000\n");
  }

  auto child = sleeper(*seat);
  CHECK(file(layout.v1_memory, "cgroup.procs") == std::to_string(child.pid) + "\n");
  CHECK(file(layout.v1_pids, "cgroup.procs") == std::to_string(child.pid) + "\n");
  CHECK(file(layout.v1_cpu, "cgroup.procs") == std::to_string(child.pid) + "\n");
  const SeatUsage usage = seat->usage();
  CHECK(usage.memory_source == "memory.max_usage_in_bytes");
  CHECK_FALSE(usage.oom_killed);
  seat->reset_peak();
  CHECK(absl::IsFailedPrecondition(seat->remove()));
  CHECK(seat->kill().ok());
  CHECK(spawner::wait_and_reap(child.pidfd.get(), 1000));
  CHECK(eventually([&] { return seat->remove().ok(); }));
}

TEST_CASE("memory over the limit is answered by the OOM killer, and the seat says so", "[cgroup]") {
  need_root();
  if (probe().v1_memory.empty()) FAASKIT_SKIP("no v1 memory controller");
  RuntimeDir dir;
  auto freezer = make(Choice::automatic, dir, unique_instance("oom"));
  auto seat = freezer->prepare({.name = "sb-1", .limits = {.memory_bytes = 16 << 20}}).value();
  // It stops itself, so that it grows only after it was adopted.
  auto child =
      sleeper(*seat, {"/bin/sh", "-c", "kill -STOP $$; exec dd if=/dev/zero of=/dev/null bs=64M count=1"});
  REQUIRE(eventually([&] {
    return text_of("/proc/" + std::to_string(child.pid) + "/stat").find(") T ") != std::string::npos;
  }));
  ::kill(child.pid, SIGCONT);
  int status = 0;
  CHECK(spawner::wait_and_reap(child.pidfd.get(), 5000, &status));
  CHECK(status == -1);
  CHECK(seat->usage().oom_killed);
  CHECK(seat->usage().memory_peak_bytes >= 15 << 20);
}

TEST_CASE("without cgroups: a freezer must be chosen, and stop signals work", "[cgroup]") {
  RuntimeDir dir;
  const ProbeOptions nowhere{"/nonexistent", "/nonexistent"};
  const std::string instance = unique_instance("none");
  for (const Choice choice : {Choice::automatic, Choice::cgroup_v1, Choice::cgroup_v2}) {
    auto refused =
        make_freezer({.instance = instance, .choice = choice, .runtime_dir = dir.path(), .probe = nowhere});
    CHECK(absl::IsFailedPrecondition(refused.status()));
  }
  auto freezer = make_freezer(
      {.instance = instance, .choice = Choice::stop_signals, .runtime_dir = dir.path(), .probe = nowhere});
  INFO(freezer.status().ToString());
  REQUIRE(freezer.ok());
  CHECK((*freezer)->limits_source() == "memory: missing, pids: missing, cpu: missing");
  auto seat = (*freezer)->prepare({.name = "sb-1"}).value();
  CHECK(seat->path().empty());
  CHECK(seat->cgroup_v2_fd() == -1);
  CHECK(absl::IsFailedPrecondition(seat->freeze()));
  auto child = sleeper(*seat);
  REQUIRE(seat->freeze().ok());
  CHECK(eventually([&] { return seat->frozen() == std::optional<bool>(true); }));
  CHECK(seat->usage().memory_source == "VmHWM");
  CHECK(seat->kill().ok());
  CHECK(spawner::wait_and_reap(child.pidfd.get(), 100));
  CHECK(seat->remove().ok());
}

TEST_CASE("a seat holds one descriptor once its sandbox is born", "[cgroup]") {
  need(Choice::automatic);
  RuntimeDir dir;
  auto freezer = make(Choice::automatic, dir, unique_instance("fds"));
  const auto open_fds = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                         std::filesystem::directory_iterator());
  };
  const auto before = open_fds();
  auto seat = freezer->prepare({.name = "sb-1"}).value();
  auto child = sleeper(*seat);
  CHECK(open_fds() - before == 2);  // the seat's and the child's pidfd
  (void)seat->frozen();
  (void)seat->usage();
  CHECK(open_fds() - before == 2);
  CHECK(seat->kill().ok());
  CHECK(spawner::wait_and_reap(child.pidfd.get(), 1000));
}

TEST_CASE("who replaces a sandbox that died in its seat is in all of its groups", "[cgroup]") {
  for (const Choice choice : {Choice::cgroup_v2, Choice::cgroup_v1}) {
    need(choice);
    RuntimeDir dir;
    auto freezer = make(choice, dir, unique_instance("two"));
    auto seat = freezer->prepare({.name = "sb-1"}).value();
    spawner::kill_and_reap(sleeper(*seat));
    auto second = sleeper(*seat);
    REQUIRE(seat->freeze().ok());
    REQUIRE(eventually([&] { return seat->frozen() == std::optional<bool>(true); }));
    CHECK(absl::IsFailedPrecondition(seat->remove()));
    CHECK(seat->kill().ok());
    CHECK(spawner::wait_and_reap(second.pidfd.get(), 1000));
    CHECK(eventually([&] { return seat->remove().ok(); }));
  }
}

TEST_CASE("names that could mean another place are refused", "[cgroup]") {
  RuntimeDir dir;
  for (const std::string name : {"", "a/b", "..", "A", "a b", "x.y"})
    CHECK(absl::IsInvalidArgument(make_freezer({.instance = name, .runtime_dir = dir.path()}).status()));
  CHECK(std::filesystem::is_empty(dir.path()));
  need(Choice::automatic);
  auto freezer = make(Choice::automatic, dir, unique_instance("nam"));
  for (const std::string name : {"", "a/b", "..", ".held", "a b"})
    CHECK(absl::IsInvalidArgument(freezer->prepare({.name = name}).status()));
  auto seat = freezer->prepare({.name = "sb-1"}).value();
  CHECK(absl::IsAlreadyExists(freezer->prepare({.name = "sb-1"}).status()));
  CHECK(seat->remove().ok());
}

TEST_CASE("a second seat of a name leaves the first alone", "[cgroup]") {
  for (const Choice choice : {Choice::cgroup_v2, Choice::cgroup_v1}) {
    need(choice);
    RuntimeDir dir;
    auto freezer = make(choice, dir, unique_instance("dup"));
    auto seat = freezer->prepare({.name = "sb-1"}).value();
    auto child = sleeper(*seat);
    CHECK(absl::IsAlreadyExists(freezer->prepare({.name = "sb-1"}).status()));
    CHECK_FALSE(spawner::wait_and_reap(child.pidfd.get(), 50));
    CHECK(seat->freeze().ok());
    CHECK(eventually([&] { return seat->frozen() == std::optional<bool>(true); }));
    CHECK(seat->kill().ok());
    CHECK(spawner::wait_and_reap(child.pidfd.get(), 1000));
  }
}

TEST_CASE("who may make no groups can still choose stop signals or none", "[cgroup]") {
  need_root();
  RuntimeDir dir;
  REQUIRE(::chown(dir.path().c_str(), 65534, 65534) == 0);
  Nobody nobody;
  auto refused = make_freezer(
      {.instance = unique_instance("nob"), .choice = Choice::cgroup_v2, .runtime_dir = dir.path()});
  CHECK_FALSE(refused.ok());
  for (const Choice choice : {Choice::stop_signals, Choice::none}) {
    auto events = std::make_shared<RecordedEvents>();
    auto made = make_freezer(
        {.instance = unique_instance("nob"), .choice = choice, .events = events, .runtime_dir = dir.path()});
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    auto freezer = *std::move(made);
    CHECK(freezer->missing_limits() == "memory, pids, cpu");
    if (probe().kind != Layout::Kind::none) CHECK(events->has("freezer.group_missing"));
    CHECK(events->has("freezer.limit_missing"));
    auto seat = freezer->prepare({.name = "sb-1"}).value();
    CHECK(seat->cgroup_v2_fd() == -1);
    auto child = sleeper(*seat);
    CHECK(seat->freeze().ok());
    if (choice == Choice::stop_signals)
      CHECK(eventually([&] { return seat->frozen() == std::optional<bool>(true); }));
    CHECK(seat->kill().ok());
    CHECK(spawner::wait_and_reap(child.pidfd.get(), 1000));
    CHECK(seat->remove().ok());
  }
  CHECK(std::filesystem::is_empty(dir.path()));
}

TEST_CASE("limits that are missing are said to be", "[cgroup]") {
  need(Choice::cgroup_v2);
  const Layout layout = probe();
  if (layout.v1_memory.empty() || layout.v1_pids.empty())
    FAASKIT_SKIP("memory and pids are not v1 controllers here");
  RuntimeDir dir;
  CHECK(make(Choice::automatic, dir, unique_instance("all"))->missing_limits().empty());
  // The same machine, without its v1 hierarchies: v2 has no controller to give.
  std::ofstream(dir.path() + "/mounts")
      << "41 31 0:38 / " << layout.v2_mount << " rw,relatime - cgroup2 cgroup2 rw\n";
  auto events = std::make_shared<RecordedEvents>();
  auto freezer = make_freezer({.instance = unique_instance("mis"),
                               .events = events,
                               .runtime_dir = dir.path(),
                               .probe = {dir.path() + "/mounts", "/proc/self/cgroup"}});
  INFO(freezer.status().ToString());
  REQUIRE(freezer.ok());
  CHECK((*freezer)->missing_limits() == "memory, pids, cpu");
  CHECK((*freezer)->limits_source() == "memory: missing, pids: missing, cpu: missing");
  CHECK(events->has("freezer.limit_missing"));
}

}  // namespace
}  // namespace faaskit::cgroup
