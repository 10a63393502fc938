// If these failed: a host that was killed would leave processes, groups and directories behind, or somebody
// clearing up after it would take a living host's sandboxes.
#include <sys/wait.h>

#include <cstdio>

#include "machine.h"

namespace faaskit::cgroup {
namespace {

struct DoomedHost {
  DoomedHost(const RuntimeDir& dir, const std::string& instance, const std::string& choice) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    pid = ::fork();
    if (pid == 0) {
      ::dup2(ends[1], 1);
      ::execl(DOOMED_HOST, DOOMED_HOST, dir.path().c_str(), instance.c_str(), choice.c_str(), nullptr);
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
      if (!stat.empty() && stat.find(") Z ") == std::string::npos && stat.find("(sleep)") != std::string::npos) return false;
    }
    return true;
  }
  bool children_alive() const {
    for (const pid_t child : children)
      if (text_of("/proc/" + std::to_string(child) + "/stat").find("(sleep)") == std::string::npos) return false;
    return true;
  }
  pid_t pid = -1;
  std::vector<pid_t> children;
};

pid_t guardian_of(pid_t host) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string stat = text_of(entry.path().string() + "/stat");
    if (stat.find("(faaskit-guard) ") == std::string::npos) continue;
    std::istringstream rest(stat.substr(stat.rfind(')') + 1));
    std::string state;
    pid_t parent = 0;
    rest >> state >> parent;
    if (parent == host) return static_cast<pid_t>(std::stol(stat));
  }
  return -1;
}

void check_guardian(const std::string& choice) {
  need(choice == "v1" ? Choice::cgroup_v1 : Choice::cgroup_v2);
  RuntimeDir dir;
  const std::string instance = unique_instance("doom" + choice);
  DoomedHost host(dir, instance, choice);
  REQUIRE_FALSE(groups_of(instance).empty());
  const auto begin = std::chrono::steady_clock::now();
  host.kill();
  CHECK(eventually([&] { return host.children_gone(); }));
  CHECK(eventually([&] { return groups_of(instance).empty(); }));
  CHECK(eventually([&] { return std::filesystem::is_empty(dir.path()); }));
  CHECK(std::chrono::steady_clock::now() - begin < 1s);
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
  CHECK(eventually([&] { return groups_of(live).empty() && !std::filesystem::exists(dir.path() + "/" + live); }));
}

TEST_CASE("the sweep removes a dead instance and spares a live one, on v2", "[cgroup][guardian]") { check_sweep("v2"); }
TEST_CASE("the sweep removes a dead instance and spares a live one, on v1", "[cgroup][guardian]") { check_sweep("v1"); }

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
  CHECK(absl::IsFailedPrecondition(make_freezer({.instance = unique_instance("perm"), .runtime_dir = dir.path()}).status()));
}

}  // namespace
}  // namespace faaskit::cgroup
