// If these failed: a host would look for its groups where there are none, or outside those given to it.
#include <fstream>

#include "cgroup/place.h"
#include "machine.h"

namespace faaskit::cgroup {
namespace {

struct FakeMachine {
  explicit FakeMachine(const std::string& mounts, const std::string& membership = "0::/\n") {
    std::ofstream(dir.path() + "/mounts") << mounts;
    std::ofstream(dir.path() + "/membership") << membership;
    options.mountinfo = dir.path() + "/mounts";
    options.membership = dir.path() + "/membership";
  }
  RuntimeDir dir;
  ProbeOptions options;
};

TEST_CASE("a machine without cgroups has none", "[cgroup][layout]") {
  FakeMachine machine("22 27 0:21 / /proc rw,relatime - proc proc rw\n");
  CHECK(probe(machine.options).kind == Layout::Kind::none);
  CHECK(probe({"/nonexistent", "/nonexistent"}).kind == Layout::Kind::none);
}

TEST_CASE("v2 alone, v1 alone and both are told apart", "[cgroup][layout]") {
  const std::string v2 = "41 31 0:38 / /fake/unified rw,relatime - cgroup2 cgroup2 rw\n";
  const std::string v1 =
      "32 31 0:29 / /fake/cpu,cpuacct rw shared:3 - cgroup cgroup rw,cpu,cpuacct\n"
      "35 31 0:32 / /fake/memory rw - cgroup cgroup rw,memory\n"
      "37 31 0:34 / /fake/freezer rw - cgroup cgroup rw,freezer\n"
      "39 31 0:36 / /fake/pids rw - cgroup cgroup rw,pids\n"
      "40 31 0:37 / /fake/systemd rw - cgroup cgroup rw,name=systemd\n";
  FakeMachine only_v2(v2), only_v1(v1), both(v1 + v2);
  CHECK(probe(only_v2.options).kind == Layout::Kind::v2);
  CHECK(probe(only_v2.options).v2 == "/fake/unified");
  CHECK(probe(only_v1.options).kind == Layout::Kind::v1);
  CHECK(probe(only_v1.options).v1_cpu == "/fake/cpu,cpuacct");
  const Layout hybrid = probe(both.options);
  CHECK(hybrid.kind == Layout::Kind::hybrid);
  CHECK(hybrid.v1_freezer == "/fake/freezer");
  CHECK(hybrid.v1_memory == "/fake/memory");
  CHECK(hybrid.v1_pids == "/fake/pids");
}

TEST_CASE("groups are made in the process's own group, where it can be seen", "[cgroup][layout]") {
  RuntimeDir dir;
  const std::string mount = dir.path() + "/mem ory";
  std::filesystem::create_directories(mount + "/app/one");
  const std::string escaped = dir.path() + "/mem\\040ory";
  const auto memory_of = [&](const std::string& root, const std::string& member) {
    FakeMachine machine("35 31 0:32 " + root + " " + escaped + " rw - cgroup cgroup rw,memory\n",
                        "4:memory:" + member + "\n0::/\n");
    return probe(machine.options).v1_memory;
  };
  CHECK(memory_of("/", "/app/one") == mount + "/app/one");
  CHECK(memory_of("/", "/") == mount);
  // A container that sees only its own part, by bind mount.
  CHECK(memory_of("/docker/x", "/docker/x/app/one") == mount + "/app/one");
  CHECK(memory_of("/docker/x", "/docker/x") == mount);
  CHECK(memory_of("/docker/x", "/docker/xyz") == mount);
  // Not to be seen from here.
  CHECK(memory_of("/", "/../outside") == mount);
  CHECK(memory_of("/", "/gone") == mount);
}

// A hierarchy of plain files. Where `holds_processes`, enabling a controller is refused, as the kernel does.
void fake_group(const std::string& path, const std::string& available, const std::string& enabled,
                bool holds_processes) {
  std::filesystem::create_directories(path);
  std::ofstream(path + "/cgroup.procs") << "";
  std::ofstream(path + "/cgroup.controllers") << available << "\n";
  if (holds_processes) {
    std::filesystem::create_directory(path + "/cgroup.subtree_control");
  } else {
    std::ofstream(path + "/cgroup.subtree_control") << enabled << "\n";
  }
}

TEST_CASE("v2 groups are made where memory and pids can be given to them", "[cgroup][layout]") {
  RuntimeDir dir;
  const std::string top = dir.path() + "/top";
  const std::vector<std::string> wanted = {"memory", "pids"};
  Layout layout;
  layout.v2_mount = top;
  // A login by systemd: the session's scope holds processes, the slice of the user does not.
  fake_group(top, "cpu memory pids", "memory pids", false);
  fake_group(top + "/user.slice", "memory pids", "memory pids", false);
  fake_group(top + "/user.slice/user-0.slice", "memory pids", "", false);
  fake_group(top + "/user.slice/user-0.slice/session-1.scope", "memory pids", "", true);
  layout.v2 = top + "/user.slice/user-0.slice/session-1.scope";
  CHECK(v2_parent(layout, wanted) == top + "/user.slice/user-0.slice");
  CHECK(v2_parent(layout, {}) == layout.v2);
  CHECK(v2_parent(layout, {"hugetlb"}) == layout.v2);
  // One that can have them itself stays, and the top is the end.
  layout.v2 = top + "/user.slice";
  CHECK(v2_parent(layout, wanted) == layout.v2);
  layout.v2 = top;
  CHECK(v2_parent(layout, {"memory", "hugetlb"}) == top);
  // A container sees no further than its own part of the hierarchy.
  layout.v2_mount = layout.v2 = top + "/user.slice/user-0.slice/session-1.scope";
  CHECK(v2_parent(layout, wanted) == layout.v2);
}

}  // namespace
}  // namespace faaskit::cgroup
