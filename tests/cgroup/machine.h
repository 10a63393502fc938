// What the tests of cgroup/ need of the machine, and children to freeze.
#pragma once

#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "catch.hpp"
#include "faaskit/cgroup/freezer.h"
#include "guardian.h"
#include "spawner/spawn.h"

namespace faaskit::cgroup {

using namespace std::chrono_literals;

inline bool eventually(auto condition, std::chrono::milliseconds within = 2s) {
  const auto deadline = std::chrono::steady_clock::now() + within;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    ::sched_yield();
  }
  return true;
}

using testing::text_of;

// A runtime directory of the test's own, so that tests neither meet each other nor a real host.
class RuntimeDir {
 public:
  RuntimeDir() {
    char pattern[] = "/tmp/faaskit-test-XXXXXX";
    path_ = ::mkdtemp(pattern);
  }
  ~RuntimeDir() { std::filesystem::remove_all(path_); }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// Without privileges until the end of the scope, as who has none.
class Nobody {
 public:
  Nobody() { REQUIRE(::seteuid(65534) == 0); }
  ~Nobody() { (void)!::seteuid(0); }
};

struct RecordedEvents final : EventSink {
  void emit(Event event) override { names.emplace_back(event.name); }
  bool has(const std::string& name) const {
    return std::find(names.begin(), names.end(), name) != names.end();
  }
  std::vector<std::string> names;
};

inline std::string unique_instance(const std::string& tag) {
  return "t-" + tag + "-" + std::to_string(::getpid());
}

inline void need_root() {
  if (::geteuid() != 0) FAASKIT_SKIP("needs root");
}
inline void need(Choice choice) {
  need_root();
  const Layout layout = probe();
  if (choice == Choice::cgroup_v2 && layout.v2.empty()) FAASKIT_SKIP("no cgroup v2 on this machine");
  if (choice == Choice::cgroup_v1 && layout.v1_freezer.empty())
    FAASKIT_SKIP("no cgroup v1 freezer on this machine");
}

// `sleep`, born into the seat as a sandbox would be.
inline spawner::Child sleeper(Seat& seat, std::vector<std::string> argv = {"/bin/sleep", "1000"}) {
  UniqueFd image(::open(argv[0].c_str(), O_RDONLY | O_CLOEXEC));
  REQUIRE(image);
  spawner::SpawnParams params;
  params.image = image.get();
  params.argv = std::move(argv);
  params.cgroup = seat.cgroup_v2_fd();
  absl::StatusOr<spawner::Child> child = spawner::spawn(params);
  INFO(child.status().ToString());
  REQUIRE(child.ok());
  const absl::Status adopted = seat.adopt(child->pid);
  INFO(adopted.ToString());
  REQUIRE(adopted.ok());
  return *std::move(child);
}

// Every group of the instance, in every hierarchy.
inline std::vector<std::string> groups_of(const std::string& instance) {
  const Layout layout = probe();
  std::vector<std::string> found;
  for (const std::string& parent :
       {layout.v2, layout.v1_freezer, layout.v1_memory, layout.v1_pids, layout.v1_cpu}) {
    const std::string path = parent + "/faaskit-" + instance;
    if (!parent.empty() && std::filesystem::exists(path)) found.push_back(path);
  }
  return found;
}

}  // namespace faaskit::cgroup
