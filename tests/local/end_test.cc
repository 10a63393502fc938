// A host application that ends without stopping its platform, in every way a process can end: its sandboxes
// go with it, or at the next start.
#include <fcntl.h>
#include <sys/wait.h>

#include <algorithm>
#include <sstream>

#include "faaskit/cgroup/layout.h"
#include "guardian.h"
#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

// A zombie that nobody has fetched yet is as good as gone.
bool runs(pid_t pid) {
  const std::string stat = text_of("/proc/" + std::to_string(pid) + "/stat");
  return !stat.empty() && stat.find(") Z ") == std::string::npos;
}

struct Doomed {
  explicit Doomed(const std::string& freezer, const std::string& end) {
    need_root();
    const cgroup::Layout layout = cgroup::probe();
    if ((freezer == "v1" ? layout.v1_freezer : layout.v2).empty())
      FAASKIT_SKIP("no freezer of cgroup " + freezer + " on this machine");
    parents = {layout.v2, layout.v1_freezer, layout.v1_memory, layout.v1_pids, layout.v1_cpu};
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    host = ::fork();
    if (host == 0) {
      ::dup2(ends[1], 1);
      if (end == "abort" || end == "throw") ::close(2);  // nobody need read about it
      ::execl(FAASKIT_DOOMED_PLATFORM, FAASKIT_DOOMED_PLATFORM, run.path().c_str(), instance.c_str(),
              freezer.c_str(), end.c_str(), nullptr);
      ::_exit(127);
    }
    ::close(ends[1]);
    std::string text;
    char part[256];
    ssize_t got = 0;
    while (text.find("ready") == std::string::npos && (got = ::read(ends[0], part, sizeof part)) > 0)
      text.append(part, static_cast<std::size_t>(got));
    ::close(ends[0]);
    INFO(text);
    REQUIRE(text.find("ready") != std::string::npos);
    std::istringstream words(text);
    for (pid_t child = 0; words >> child;) sandboxes.push_back(child);
    REQUIRE(sandboxes.size() == 3);
  }
  ~Doomed() { kill(); }

  void kill() {
    if (host <= 0) return;
    ::kill(host, SIGKILL);
    ::waitpid(host, nullptr, 0);
    host = -1;
  }
  bool sandboxes_gone() const { return std::none_of(sandboxes.begin(), sandboxes.end(), runs); }
  std::size_t groups() const {
    std::size_t found = 0;
    for (const std::string& parent : parents) {
      if (!parent.empty() && std::filesystem::exists(parent + "/faaskit-" + instance)) ++found;
    }
    return found;
  }
  // Of the whole instance; the file of uids belongs to all hosts.
  bool nothing_left() const {
    return sandboxes_gone() && groups() == 0 && !std::filesystem::exists(run.path() + "/" + instance);
  }

  Folder run;
  std::string instance = "t-end-" + std::to_string(::getpid());
  std::vector<std::string> parents;
  pid_t host = -1;
  std::vector<pid_t> sandboxes;
};

}  // namespace

TEST_CASE("a host that ends without a stop, however it ends, leaves nothing behind", "[local][end]") {
  const std::string freezer = GENERATE(as<std::string>{}, "v2", "v1");
  const std::string end =
      GENERATE(as<std::string>{}, "wait", "return", "exit", "_exit", "abort", "throw", "fault");
  CAPTURE(freezer, end);
  Doomed doomed(freezer, end);
  if (end == "wait") {
    CHECK(doomed.groups() > 0);
    doomed.kill();
  } else {
    ::waitpid(doomed.host, nullptr, 0);
    doomed.host = -1;
  }
  CHECK(eventually([&] { return doomed.nothing_left(); }));
}

TEST_CASE("a host that becomes another program leaves nothing behind", "[local][end]") {
  const std::string end = GENERATE(as<std::string>{}, "exec", "closes");
  CAPTURE(end);
  Doomed doomed("v2", end);
  CHECK(eventually([&] { return doomed.nothing_left(); }));
  CHECK(runs(doomed.host));  // it is not ours any more, and lives
}

TEST_CASE("host and guardian are killed: the next platform sweeps before it makes anything", "[local][end]") {
  const std::string freezer = GENERATE(as<std::string>{}, "v2", "v1");
  CAPTURE(freezer);
  Doomed doomed(freezer, "wait");
  const pid_t guardian = guardian_of(doomed.host);
  REQUIRE(guardian > 1);
  REQUIRE(::kill(guardian, SIGKILL) == 0);
  doomed.kill();
  CHECK(doomed.groups() > 0);
  CHECK(runs(doomed.sandboxes[0]));
  // A lock is free once the kernel is done with its holder.
  auto events = std::make_shared<Events>();
  REQUIRE(eventually([&] {
    local::PlatformOptions options;
    options.runtime_dir = doomed.run.path();
    options.events = events;
    auto next = local::make_platform(options);
    REQUIRE(next.status().ToString() == "OK");
    return doomed.nothing_left();
  }));
  CHECK(events->of("freezer.swept").size() == 1);
}

TEST_CASE("a platform that starts leaves a living sibling's sandboxes alone", "[local][end]") {
  const std::string freezer = GENERATE(as<std::string>{}, "v2", "v1");
  CAPTURE(freezer);
  Doomed sibling(freezer, "wait");
  {
    local::PlatformOptions options;
    options.runtime_dir = sibling.run.path();
    auto next = local::make_platform(options);
    REQUIRE(next.status().ToString() == "OK");
  }
  CHECK(std::all_of(sibling.sandboxes.begin(), sibling.sandboxes.end(), runs));
  CHECK(sibling.groups() > 0);
  sibling.kill();
  CHECK(eventually([&] { return sibling.nothing_left(); }));
}
