// If these failed: a host that was killed would leave processes, groups and directories behind, or somebody
// clearing up after it would take a living host's sandboxes.
#include <sys/mount.h>
#include <sys/wait.h>

#include <cstdio>

#include "guardian.h"

#include "machine.h"

namespace faaskit::cgroup {
namespace {

using testing::guardian_of;

struct DoomedHost {
  DoomedHost(const RuntimeDir& dir, const std::string& instance, const std::string& choice)
      : DoomedHost(dir.path(), instance, choice) {}
  DoomedHost(const std::string& dir, const std::string& instance, const std::string& choice) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    pid = ::fork();
    if (pid == 0) {
      ::dup2(ends[1], 1);
      ::execl(DOOMED_HOST, DOOMED_HOST, dir.c_str(), instance.c_str(), choice.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(ends[1]);
    std::string text;
    char part[256];
    ssize_t got;
    while (text.find("ready") == std::string::npos && (got = ::read(ends[0], part, sizeof part)) > 0)
      text.append(part, static_cast<std::size_t>(got));
    ::close(ends[0]);
    INFO(text);
    REQUIRE(text.find("ready") != std::string::npos);
    std::istringstream words(text);
    for (pid_t child; words >> child;) children.push_back(child);
    REQUIRE(children.size() == 3);
  }
  ~DoomedHost() { kill(); }
  void kill() {
    if (pid <= 0) return;
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
    pid = -1;
  }
  bool children_gone() const {
    for (const pid_t child : children) {
      // Orphans are reaped by whoever inherited them; a zombie is as good as gone.
      const std::string stat = text_of("/proc/" + std::to_string(child) + "/stat");
      if (!stat.empty() && stat.find(") Z ") == std::string::npos &&
          stat.find("(sleep)") != std::string::npos)
        return false;
    }
    return true;
  }
  bool children_alive() const {
    for (const pid_t child : children) {
      const std::string stat = text_of("/proc/" + std::to_string(child) + "/stat");
      if (stat.find("(sleep)") == std::string::npos || stat.find(") Z ") != std::string::npos) return false;
    }
    return true;
  }
  pid_t pid = -1;
  std::vector<pid_t> children;
};

void check_guardian(const std::string& choice) {
  need(choice == "v1" ? Choice::cgroup_v1 : Choice::cgroup_v2);
  RuntimeDir dir;
  const std::string instance = unique_instance("doom" + choice);
  DoomedHost host(dir, instance, choice);
  REQUIRE_FALSE(groups_of(instance).empty());
  host.kill();
  CHECK(eventually([&] { return host.children_gone(); }));
  CHECK(eventually([&] { return groups_of(instance).empty(); }));
  CHECK(eventually([&] { return std::filesystem::is_empty(dir.path()); }));
}

TEST_CASE("a host killed with SIGKILL leaves nothing, on v2", "[cgroup][guardian]") { check_guardian("v2"); }
TEST_CASE("a host killed with SIGKILL leaves nothing, on v1", "[cgroup][guardian]") { check_guardian("v1"); }

void check_sweep(const std::string& choice) {
  need(choice == "v1" ? Choice::cgroup_v1 : Choice::cgroup_v2);
  RuntimeDir dir;
  const std::string dead = unique_instance("dead" + choice);
  const std::string live = unique_instance("live" + choice);
  DoomedHost victim(dir, dead, choice);
  DoomedHost sibling(dir, live, choice);
  // The machine's worst: the guardian first, then its host.
  const pid_t guardian = guardian_of(victim.pid);
  REQUIRE(guardian > 1);
  ::kill(guardian, SIGKILL);
  victim.kill();
  CHECK(victim.children_alive());
  // Neither ours nor anybody's business.
  std::filesystem::create_directory(dir.path() + "/stranger");
  std::ofstream(dir.path() + "/stranger/file") << "x";

  absl::StatusOr<SweepReport> report = absl::InternalError("not run");
  // The guardian's death frees the lock only once the kernel is done with it.
  CHECK(eventually([&] {
    report = sweep(dir.path());
    return report.ok() && report->removed == 1;
  }));
  CHECK(report->failed == 0);
  CHECK(victim.children_gone());
  CHECK(groups_of(dead).empty());
  CHECK_FALSE(std::filesystem::exists(dir.path() + "/" + dead));
  CHECK(sibling.children_alive());
  CHECK_FALSE(groups_of(live).empty());
  CHECK(std::filesystem::exists(dir.path() + "/" + live + "/lock"));
  CHECK(std::filesystem::exists(dir.path() + "/stranger/file"));
  sibling.kill();
  CHECK(eventually(
      [&] { return groups_of(live).empty() && !std::filesystem::exists(dir.path() + "/" + live); }));
}

TEST_CASE("the sweep removes a dead instance and spares a live one, on v2", "[cgroup][guardian]") {
  check_sweep("v2");
}
TEST_CASE("the sweep removes a dead instance and spares a live one, on v1", "[cgroup][guardian]") {
  check_sweep("v1");
}

TEST_CASE("a name may be used again at once after its host was killed", "[cgroup][guardian]") {
  need(Choice::automatic);
  RuntimeDir dir;
  const std::string instance = unique_instance("again");
  for (int i = 0; i < 3; ++i) {
    DoomedHost host(dir, instance, "v2");
    host.kill();
  }
  auto freezer = make_freezer({.instance = instance, .runtime_dir = dir.path()});
  INFO(freezer.status().ToString());
  REQUIRE(freezer.ok());
  auto seat = (*freezer)->prepare({.name = "sb-0"});
  CHECK(seat.ok());
}

TEST_CASE("two hosts cannot share a name", "[cgroup][guardian]") {
  need(Choice::automatic);
  RuntimeDir dir;
  const std::string instance = unique_instance("twice");
  DoomedHost host(dir, instance, "v2");
  CHECK(absl::IsAlreadyExists(make_freezer({.instance = instance, .runtime_dir = dir.path()}).status()));
  CHECK(host.children_alive());
  host.kill();
  CHECK(eventually([&] { return groups_of(instance).empty() && std::filesystem::is_empty(dir.path()); }));
}

TEST_CASE("a freezer that goes kills what its seats still hold", "[cgroup][guardian]") {
  need(Choice::automatic);
  RuntimeDir dir;
  const std::string instance = unique_instance("goes");
  auto freezer = make_freezer({.instance = instance, .runtime_dir = dir.path()}).value();
  auto seat = freezer->prepare({.name = "sb-1"}).value();
  auto child = sleeper(*seat);
  freezer.reset();
  CHECK(spawner::wait_and_reap(child.pidfd.get(), 100));
  CHECK(groups_of(instance).empty());
  CHECK(std::filesystem::is_empty(dir.path()));
  CHECK(seat->kill().ok());
  CHECK(seat->remove().ok());
}

TEST_CASE("a runtime directory that others may write is refused", "[cgroup][guardian]") {
  need_root();
  RuntimeDir dir;
  REQUIRE(::chmod(dir.path().c_str(), 0777) == 0);
  CHECK(absl::IsFailedPrecondition(
      make_freezer({.instance = unique_instance("perm"), .runtime_dir = dir.path()}).status()));
}

TEST_CASE("a namesake with a runtime directory of its own is refused and left alone", "[cgroup][guardian]") {
  for (const std::string choice : {"v2", "v1"}) {
    need(choice == "v1" ? Choice::cgroup_v1 : Choice::cgroup_v2);
    RuntimeDir dir, other;
    const std::string instance = unique_instance("name");
    DoomedHost host(dir, instance, choice);
    const auto groups = groups_of(instance);
    auto second = make_freezer({.instance = instance,
                                .choice = choice == "v1" ? Choice::cgroup_v1 : Choice::cgroup_v2,
                                .runtime_dir = other.path()});
    CHECK(absl::IsAlreadyExists(second.status()));
    CHECK(std::filesystem::is_empty(other.path()));
    CHECK(host.children_alive());
    CHECK(groups_of(instance) == groups);
    host.kill();
    CHECK(eventually([&] { return groups_of(instance).empty() && std::filesystem::is_empty(dir.path()); }));
  }
}

TEST_CASE("a record that names another's group takes nothing from it", "[cgroup][guardian]") {
  need(Choice::cgroup_v2);
  RuntimeDir dir, other;
  const std::string instance = unique_instance("reco");
  DoomedHost host(dir, instance, "v2");
  const auto groups = groups_of(instance);
  // As a restart of the machine leaves it, when the runtime directory is on disk.
  const std::string stale = other.path() + "/" + instance;
  std::filesystem::create_directory(stale);
  std::ofstream(stale + "/lock") << "";
  std::ofstream(stale + "/groups") << "try:" << probe().v2 << "/faaskit-" << instance
                                   << " 0\nv2:" << probe().v2 << "/faaskit-" << instance << " 1\n";
  absl::StatusOr<SweepReport> report = sweep(other.path());
  REQUIRE(report.ok());
  CHECK(report->removed == 1);
  CHECK(std::filesystem::is_empty(other.path()));
  CHECK(host.children_alive());
  CHECK(groups_of(instance) == groups);
  host.kill();
  CHECK(eventually([&] { return groups_of(instance).empty() && std::filesystem::is_empty(dir.path()); }));
}

TEST_CASE("a relative runtime directory is refused", "[cgroup][guardian]") {
  RuntimeDir dir;
  std::filesystem::current_path(dir.path());
  for (const std::string path : {"", "run", "./run", "../run"}) {
    CHECK(absl::IsInvalidArgument(
        make_freezer({.instance = unique_instance("rel"), .choice = Choice::none, .runtime_dir = path})
            .status()));
    CHECK(absl::IsInvalidArgument(sweep(path).status()));
  }
  CHECK(std::filesystem::is_empty(dir.path()));
}

TEST_CASE("the sweep trusts no directory that others may write", "[cgroup][guardian]") {
  need_root();
  RuntimeDir dir;
  REQUIRE(::chmod(dir.path().c_str(), 0777) == 0);
  CHECK(absl::IsFailedPrecondition(sweep(dir.path()).status()));
  REQUIRE(::chmod(dir.path().c_str(), 0700) == 0);
  REQUIRE(::chown(dir.path().c_str(), 65534, 65534) == 0);
  CHECK(absl::IsFailedPrecondition(sweep(dir.path()).status()));
  CHECK(sweep(dir.path() + "/none").ok());
}

TEST_CASE("a guardian that was killed is replaced before the next sandbox", "[cgroup][guardian]") {
  need(Choice::automatic);
  RuntimeDir dir;
  auto events = std::make_shared<RecordedEvents>();
  auto freezer =
      make_freezer({.instance = unique_instance("again"), .events = events, .runtime_dir = dir.path()})
          .value();
  const pid_t first = guardian_of(::getpid());
  REQUIRE(first > 1);
  CHECK(freezer->prepare({.name = "sb-0"}).ok());
  CHECK(guardian_of(::getpid()) == first);
  REQUIRE(::kill(first, SIGKILL) == 0);
  siginfo_t info{};
  REQUIRE(::waitid(P_PID, static_cast<id_t>(first), &info, WEXITED | WNOWAIT | __WALL) == 0);
  CHECK(freezer->prepare({.name = "sb-1"}).ok());
  const pid_t second = guardian_of(::getpid());
  CHECK(second > 1);
  CHECK(second != first);
  CHECK(events->has("freezer.guardian_restarted"));
}

TEST_CASE("a process that the application forked does not delay the end", "[cgroup][guardian]") {
  need(Choice::automatic);
  RuntimeDir dir;
  auto freezer = make_freezer({.instance = unique_instance("fork"), .runtime_dir = dir.path()}).value();
  const pid_t child = ::fork();
  if (child == 0) {
    for (;;) ::pause();
  }
  const auto begin = std::chrono::steady_clock::now();
  freezer.reset();
  CHECK(std::chrono::steady_clock::now() - begin < 2s);
  CHECK(std::filesystem::is_empty(dir.path()));
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
}

TEST_CASE("what would not go is told, whoever reaped the guardian", "[cgroup][guardian]") {
  need(Choice::automatic);
  RuntimeDir dir;
  const std::string instance = unique_instance("left");
  ::signal(SIGCHLD, SIG_IGN);
  auto events = std::make_shared<RecordedEvents>();
  auto freezer = make_freezer({.instance = instance, .events = events, .runtime_dir = dir.path()}).value();
  std::filesystem::create_directories(dir.path() + "/" + instance + "/strange/deep");
  freezer.reset();
  CHECK(events->has("freezer.left_behind"));
  CHECK(groups_of(instance).empty());
  // A later sweep knows it still, and succeeds once it can.
  CHECK(sweep(dir.path())->failed == 1);
  std::filesystem::remove_all(dir.path() + "/" + instance + "/strange");
  CHECK(sweep(dir.path())->removed == 1);
  CHECK(std::filesystem::is_empty(dir.path()));
  ::signal(SIGCHLD, SIG_DFL);
}

TEST_CASE("mounts are found below a directory with blanks, links and slashes in its name",
          "[cgroup][guardian]") {
  need(Choice::cgroup_v2);
  RuntimeDir parent;
  const std::string place = parent.path() + "/with blank";
  std::filesystem::create_directory(place);
  std::filesystem::create_directory_symlink(place, parent.path() + "/link");
  REQUIRE(::mkdir((place + "/run").c_str(), 0700) == 0);
  const std::string run = parent.path() + "/link/run/";
  const std::string dead = unique_instance("mnt");
  DoomedHost victim(run, dead, "v2");
  const pid_t guardian = guardian_of(victim.pid);
  REQUIRE(guardian > 1);
  ::kill(guardian, SIGKILL);
  victim.kill();
  const std::string mount = place + "/run/" + dead + "/mnt";
  std::filesystem::create_directory(mount);
  const bool mounted = ::mount("none", mount.c_str(), "tmpfs", 0, nullptr) == 0;
  absl::StatusOr<SweepReport> report = absl::InternalError("not run");
  CHECK(eventually([&] {
    report = sweep(run);
    return report.ok() && report->removed == 1;
  }));
  if (mounted) ::umount2(mount.c_str(), MNT_DETACH);
  CHECK(std::filesystem::is_empty(place + "/run"));
  CHECK(groups_of(dead).empty());
}

}  // namespace
}  // namespace faaskit::cgroup
