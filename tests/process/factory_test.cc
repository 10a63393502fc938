// If these failed: a sandbox would be made from what it must not be made from, or its making would leave
// something behind.
#include "stage.h"

#include <sys/wait.h>

#include <set>
#include <vector>

namespace faaskit::process {
namespace {

// Everything a failed or finished sandbox could leave with this process.
struct Belongings {
  std::size_t fds = open_fds();
  std::size_t processes = children();
  bool operator==(const Belongings&) const = default;
};
std::ostream& operator<<(std::ostream& out, const Belongings& b) {
  return out << b.fds << " descriptors, " << b.processes << " children";
}

StageOptions with_uids(std::uint32_t count) {
  StageOptions options;
  options.factory.uid_count = count;
  return options;
}

TEST_CASE("a sandbox is made with and without a parked spare", "[process]") {
  Stage stage;
  for (const bool parked : {true, false}) {
    auto sandbox = stage.sandbox(parked);
    CHECK(sandbox->handles().isolation == Isolation::process);
    CHECK(sandbox->handles().missing.empty());
    CHECK(sandbox->ask("result = 6 * 7") == "42");
    CHECK(text_of("/proc/" + std::to_string(sandbox->pid()) + "/cgroup").find("faaskit-t-proc-") !=
          std::string::npos);
  }
}

TEST_CASE("fifty sandboxes later nothing is left", "[process]") {
  Stage stage(with_uids(2));
  stage.sandbox()->end();
  const Belongings before;
  for (int i = 0; i < 50; ++i) {
    auto sandbox = stage.sandbox(i % 2 == 0);
    sandbox->end();
  }
  CHECK(Belongings() == before);
}

TEST_CASE("a set-up that fails leaves nothing", "[process]") {
  Stage stage(with_uids(1));
  stage.sandbox()->end();
  const Belongings before;
  const FunctionSpec good = stage.spec;
  for (const bool parked : {true, false}) {
    // The interpreter of a script that is not in the sandbox: execve fails, the last step there is.
    stage.spec = good;
    stage.spec.runtime = "exec";
    stage.spec.code_path = stage.folders.write("script", "#!/nowhere/at-all\n", 0755);
    for (int i = 0; i < 3; ++i) {
      auto seat = stage.seat();
      if (parked) REQUIRE(stage.factory->park(*seat).ok());
      const absl::Status failed = stage.create(*seat).status();
      CHECK(failed ==
            absl::UnavailableError("set-up of the sandbox: exec /code/script: No such file or directory"));
      CHECK(seat->remove().ok());
    }
    // A folder that fits the check, without the file it names.
    stage.spec.code_path = stage.folders.code();
    stage.spec.handler = "missing";
    {
      auto seat = stage.seat();
      if (parked) REQUIRE(stage.factory->park(*seat).ok());
      const absl::Status failed = stage.create(*seat).status();
      CHECK(absl::IsUnavailable(failed));
      CHECK_THAT(std::string(failed.message()), ContainsSubstring("exec /code/missing"));
      CHECK(seat->remove().ok());
    }
    CHECK(Belongings() == before);
    // One uid in all: it would be exhausted if any of them had kept it.
    stage.spec = good;
    stage.sandbox(parked)->end();
    CHECK(Belongings() == before);
  }
}

TEST_CASE("a seat that cannot take the sandbox leaves nothing", "[process]") {
  Stage stage(with_uids(1));
  stage.sandbox()->end();
  auto seat = stage.seat();
  const Belongings before;
  REQUIRE(seat->remove().ok());
  const Belongings without_seat;
  CHECK_FALSE(stage.factory->park(*seat).ok());
  CHECK_FALSE(stage.create(*seat).ok());
  CHECK(Belongings() == without_seat);
  stage.sandbox()->end();
}

TEST_CASE("code that vanished is refused by name", "[process]") {
  Stage stage;
  REQUIRE(stage.factory->check(stage.spec).ok());
  std::filesystem::remove_all(stage.folders.code());
  auto seat = stage.seat();
  REQUIRE(stage.factory->park(*seat).ok());
  const absl::Status failed = stage.create(*seat).status();
  CHECK(absl::IsNotFound(failed));
  CHECK_THAT(std::string(failed.message()), ContainsSubstring("code_path " + stage.folders.code()));
  CHECK(seat->kill().ok());
}

TEST_CASE("when all uids are in use, creation says so and works again afterwards", "[process]") {
  Stage stage(with_uids(2));
  auto one = stage.sandbox();
  auto two = stage.sandbox();
  auto seat = stage.seat();
  const Belongings before;
  for (const absl::Status& status : {stage.factory->park(*seat), stage.create(*seat).status()}) {
    CHECK(absl::IsResourceExhausted(status));
    CHECK_THAT(std::string(status.message()), ContainsSubstring("all 2 uids"));
  }
  CHECK(Belongings() == before);
  one->end();
  CHECK(stage.sandbox()->ask("result = 1") == "1");
}

TEST_CASE("two hosts of a machine never use the same uid", "[process]") {
  Stage stage(with_uids(2));
  FactoryOptions options;
  options.runtime_dir = stage.folders.run();
  options.uid_count = 2;
  options.uid_base = 2000000 + static_cast<std::uint32_t>(::getpid() % 100000) * 4096;
  auto other = make_sandbox_factory(options).value();
  auto one = stage.sandbox();
  auto seat = stage.seat();
  REQUIRE(other->park(*seat).ok());
  auto third = stage.seat();
  CHECK(absl::IsResourceExhausted(other->park(*third)));
  CHECK(absl::IsResourceExhausted(stage.factory->park(*third)));
  other.reset();
  CHECK(stage.factory->park(*third).ok());
}

TEST_CASE("spares are reaped when the factory goes", "[process]") {
  Stage stage;
  const std::size_t processes = children();
  std::vector<std::unique_ptr<Seat>> seats;
  for (int i = 0; i < 3; ++i) {
    seats.push_back(stage.seat());
    REQUIRE(stage.factory->park(*seats.back()).ok());
    REQUIRE(stage.factory->park(*seats.back()).ok());  // parked already
  }
  CHECK(children() == processes + 3);
  stage.factory.reset();
  CHECK(children() == processes);
  for (auto& seat : seats) CHECK(seat->remove().ok());
}

TEST_CASE("a parked seat that is given up costs neither a zombie nor a uid", "[process]") {
  Stage stage(with_uids(2));
  stage.sandbox()->end();
  const Belongings before;
  std::vector<std::unique_ptr<Seat>> given_up;  // kept, so that no later seat has the address of one
  for (int i = 0; i < 5; ++i) {
    auto& seat = given_up.emplace_back(stage.seat());
    const absl::Status parked = stage.factory->park(*seat);
    INFO(parked.ToString());
    REQUIRE(parked.ok());
    // What a pool does with a seat it does not need after all.
    REQUIRE(seat->kill().ok());
    REQUIRE(eventually([&] { return seat->remove().ok(); }));
  }
  stage.sandbox()->end();
  CHECK(Belongings() == before);
}

TEST_CASE("a spare killed by a stranger while parked is replaced, in its seat", "[process]") {
  for (const cgroup::Choice choice : {cgroup::Choice::cgroup_v2, cgroup::Choice::cgroup_v1}) {
    const cgroup::Layout layout = cgroup::probe();
    if ((choice == cgroup::Choice::cgroup_v2 ? layout.v2 : layout.v1_freezer).empty()) continue;
    StageOptions options;
    options.freezer = choice;
    Stage stage(options);
    auto seat = stage.seat();
    const std::size_t processes = children();
    REQUIRE(stage.factory->park(*seat).ok());
    const std::string list = text_of("/proc/self/task/" + std::to_string(::getpid()) + "/children");
    const pid_t spare = std::stoi(list.substr(list.find_last_of(' ', list.size() - 2) + 1));
    REQUIRE(::kill(spare, SIGKILL) == 0);
    REQUIRE(eventually([&] {
      return text_of("/proc/" + std::to_string(spare) + "/stat").find(") Z ") != std::string::npos;
    }));
    absl::StatusOr<SandboxHandles> handles = stage.create(*seat);
    INFO(handles.status().ToString());
    REQUIRE(handles.ok());
    CHECK(children() == processes + 1);
    // All of the seat holds it: what is not in its group can be neither frozen nor killed.
    Sandbox sandbox(*stage.factory, std::move(seat), SandboxId{1, stage.seats}, *std::move(handles));
    CHECK(sandbox.ask("result = 1") == "1");
    REQUIRE(sandbox.seat().freeze().ok());
    CHECK(eventually([&] { return sandbox.seat().frozen() == std::optional<bool>(true); }));
    const std::string groups = text_of("/proc/" + std::to_string(sandbox.pid()) + "/cgroup");
    CAPTURE(groups);
    std::istringstream lines(text_of("/proc/" + std::to_string(sandbox.pid()) + "/cgroup"));
    for (std::string line; std::getline(lines, line);) {
      const bool ours =
          line.rfind("0::", 0) == 0
              ? choice == cgroup::Choice::cgroup_v2
              : line.find(":memory:") != std::string::npos || line.find(":pids:") != std::string::npos ||
                    line.find(":cpu:") != std::string::npos ||
                    (line.find(":freezer:") != std::string::npos && choice == cgroup::Choice::cgroup_v1);
      if (ours) CHECK_THAT(line, ContainsSubstring("faaskit-t-proc-"));
    }
  }
}

TEST_CASE("an application that reaps every child does not upset the factory", "[process]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  ::kill(sandbox->pid(), SIGKILL);
  int status = 0;
  REQUIRE(::waitpid(-1, &status, __WALL) == sandbox->pid());
  const std::string how = sandbox->wait();
  CHECK((how == "killed by signal 9" || how == "ended"));
}

TEST_CASE("specs that cannot work are refused by the field at fault", "[process]") {
  Stage stage;
  const FunctionSpec good = stage.spec;
  REQUIRE(stage.factory->check(good).ok());
  const auto refused = [&](const std::string& word, auto change,
                           absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    FunctionSpec spec = good;
    change(spec);
    const absl::Status status = stage.factory->check(spec);
    CAPTURE(word, status.ToString());
    CHECK(status.code() == code);
    CHECK_THAT(std::string(status.message()), ContainsSubstring(word));
    stage.spec = spec;
    auto seat = stage.seat();
    CHECK(stage.create(*seat).status() == status);
    CHECK(seat->remove().ok());
  };
  refused("runtime", [](FunctionSpec& s) { s.runtime = "cobol"; });
  refused("code_path", [](FunctionSpec& s) { s.code_path = ""; });
  refused("code_path", [](FunctionSpec& s) { s.code_path += "/missing"; }, absl::StatusCode::kNotFound);
  refused("code_path", [](FunctionSpec& s) { s.code_path = "/dev/null"; });
  const std::string secret = stage.folders.write("secret.py", "", 0600);
  refused("code_path", [&](FunctionSpec& s) { s.code_path = secret; });
  refused("code_path", [&](FunctionSpec& s) {
    s.code_path = s.code_path + "/probe.py";
    s.runtime = "exec";
  });
  for (const std::string handler :
       {"", "probe", ":handler", "probe:", "../probe:handler", "probe:hand ler", "a..b:c"})
    refused("handler", [&](FunctionSpec& s) { s.handler = handler; });
  for (const std::string handler : {"", "/bin/sh", "../sh", "a/../../sh"})
    refused("handler", [&](FunctionSpec& s) {
      s.runtime = "exec";
      s.handler = handler;
    });
  for (const std::string name : {"", "1A", "A=B", "A B", "\xc3\xa4"})
    refused("env", [&](FunctionSpec& s) { s.env = {{name, "x"}}; });
  refused("env", [](FunctionSpec& s) { s.env = {{"A", std::string("x\0y", 3)}}; });
  refused("env", [](FunctionSpec& s) { s.env = {{"A", std::string(70000, 'x')}}; });
  refused(
      "minimum_isolation", [](FunctionSpec& s) { s.minimum_isolation = Isolation::container; },
      absl::StatusCode::kFailedPrecondition);
  refused(
      "minimum_isolation", [](FunctionSpec& s) { s.minimum_isolation = Isolation::microvm; },
      absl::StatusCode::kFailedPrecondition);
  refused("limits.memory_bytes", [](FunctionSpec& s) { s.limits.memory_bytes = 4095; });
  refused("limits.pids", [](FunctionSpec& s) { s.limits.pids = 0; });
  refused("limits.cpu_weight", [](FunctionSpec& s) { s.limits.cpu_weight = 0; });
  refused("limits.cpu_weight", [](FunctionSpec& s) { s.limits.cpu_weight = 10001; });
  refused("limits.cpu_max_milli", [](FunctionSpec& s) { s.limits.cpu_max_milli = 9; });
}

TEST_CASE("options that cannot work are refused by name", "[process]") {
  const auto refused = [](const std::string& word, FactoryOptions options) {
    const absl::Status status = make_sandbox_factory(std::move(options)).status();
    CAPTURE(word, status.ToString());
    CHECK(absl::IsInvalidArgument(status));
    CHECK_THAT(std::string(status.message()), ContainsSubstring(word));
  };
  refused("uid_base", {.uid_base = 0});
  refused("uid_count", {.uid_count = 0});
  refused("uid_base", {.uid_base = UINT32_MAX - 10});
  refused("python", {.python = "/nowhere/python3"});
  refused("python", {.python = "/etc/passwd"});
  refused("host_paths", {.host_paths = {"usr"}});
  refused("host_paths", {.host_paths = {"/usr/../etc"}});
  refused("tmp_bytes", {.tmp_bytes = 0});
  refused("setup_timeout", {.setup_timeout = 0ms});
  refused("runtime_dir", {.runtime_dir = "run/faaskit"});
}

}  // namespace
}  // namespace faaskit::process
