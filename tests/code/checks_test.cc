// If these failed, code that cannot run would become a version, or a check would leave something running.
#include "faaskit/code/checks.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <string>
#include <vector>

#include "code/stage.h"

#ifdef FAASKIT_CODE_WITH_SANDBOX
#include "faaskit/cgroup/freezer.h"
#include "faaskit/process/sandbox_factory.h"
#endif

namespace faaskit::code {
namespace {

using namespace testing;

absl::Status check(DeployCheck& check, const FunctionSpec& spec) { return check.check({.spec = &spec}); }

std::string text(const absl::Status& status) { return std::string(status.message()); }

FunctionSpec spec_of(const fs::path& code, const std::string& runtime, const std::string& handler) {
  FunctionSpec spec;
  spec.name = "f";
  spec.version = 1;
  spec.runtime = runtime;
  spec.code_path = code.string();
  spec.handler = handler;
  return spec;
}

}  // namespace

TEST_CASE("the handler's file must be there, for each runtime by its rules", "[code][checks]") {
  Folder folder;
  const fs::path code = folder / "code";
  for (const char* name : {"main.py", "pkg/__init__.py", "pkg/web.py", "site-packages/lib/app.py",
                           "index.mjs", "lib/app.cjs", "native.cpython-311-x86_64-linux-gnu.so"})
    write_file(code / name, "");
  write_file(code / "tool", "", 0755);
  write_file(code / "data", "", 0644);
  const auto handler = make_handler_check();
  CHECK(handler->name() == "handler");
  const auto said = [&](const std::string& runtime, const std::string& name) {
    const absl::Status status = check(*handler, spec_of(code, runtime, name));
    CHECK((status.ok() || status.code() == absl::StatusCode::kInvalidArgument));
    return status.ok() ? "well" : text(status);
  };
  for (const char* name :
       {"main:handler", "pkg:f", "pkg.web:f", "asgi:pkg.web:app", "wsgi:main:app", "lib.app:f", "native:f"})
    CHECK(said("python3", name) == "well");
  CHECK(said("python3", "mian:handler") == "handler 'mian:handler': there is no 'mian.py' in the code");
  CHECK(said("python3", "asgi:index:app") == "handler 'asgi:index:app': there is no 'index.py' in the code");
  CHECK(said("python3", "main") == "handler 'main' is not one of runtime python3");
  CHECK(said("node", "index:handler") == "well");
  CHECK(said("node", "lib/app:handler") == "well");
  CHECK(said("node", "main:handler") == "handler 'main:handler': there is no 'main.js' in the code");
  CHECK(said("exec", "tool") == "well");
  CHECK_THAT(said("exec", "data"), ContainsSubstring("'data' must be readable and executable by others"));
  CHECK_THAT(said("exec", "pkg"), ContainsSubstring("'pkg' is not a file"));
  CHECK_THAT(said("exec", "../code/tool"), ContainsSubstring("leads through a link"));
  fs::create_symlink("/bin/true", code / "true");
  CHECK_THAT(said("exec", "true"), ContainsSubstring("leads through a link"));
  fs::permissions(code / "main.py", fs::perms(0600));
  CHECK_THAT(said("python3", "main:handler"), ContainsSubstring("'main.py' must be readable by others"));
  // Code that is one file.
  CHECK(check(*handler, spec_of(code / "tool", "exec", "tool")).ok());
  CHECK(check(*handler, spec_of(code / "none", "exec", "tool")).code() == absl::StatusCode::kNotFound);
}

TEST_CASE("a program must be one for this machine", "[code][checks]") {
  Folder folder;
  const auto elf = make_elf_check();
  const std::string own = read_file("/proc/self/exe");
  const auto said = [&](const std::string& content) {
    write_file(folder / "code/main", content, 0755);
    const absl::Status status = check(*elf, spec_of(folder / "code", "exec", "main"));
    CHECK((status.ok() || status.code() == absl::StatusCode::kInvalidArgument));
    return status.ok() ? "well" : text(status);
  };
  using Ehdr = ElfW(Ehdr);
  const auto altered = [&](auto change) {
    std::string copy = own;
    Ehdr header;
    std::memcpy(&header, copy.data(), sizeof header);
    change(header);
    std::memcpy(copy.data(), &header, sizeof header);
    return copy;
  };
  CHECK(said(own) == "well");
  CHECK_THAT(said(altered([](Ehdr& h) { h.e_machine = EM_SPARC; })),
             ContainsSubstring("is for another processor (ELF machine 2"));
  CHECK_THAT(said(altered([](Ehdr& h) { h.e_ident[EI_CLASS] ^= 3; })), ContainsSubstring("-bit program"));
  CHECK_THAT(said(altered([](Ehdr& h) { h.e_type = ET_REL; })), ContainsSubstring("is an object file"));
  CHECK_THAT(said(altered([](Ehdr& h) { h.e_phoff = ~0ull; })), ContainsSubstring("is cut short"));
  CHECK_THAT(said(altered([](Ehdr& h) { h.e_phnum = 60000; })), ContainsSubstring("no program headers"));
  CHECK_THAT(said(own.substr(0, 80)), ContainsSubstring("is cut short"));
  CHECK_THAT(said(own.substr(0, 20)), ContainsSubstring("neither an ELF program nor a script"));
  CHECK_THAT(said(""), ContainsSubstring("neither an ELF program nor a script"));
  CHECK_THAT(said("print(1)\n"), ContainsSubstring("neither an ELF program nor a script"));
  std::string foreign = own;
  const std::size_t loader = foreign.find("/ld-linux");
  REQUIRE(loader != std::string::npos);
  foreign.replace(loader, 9, "/ld-nosuc");
  CHECK_THAT(said(foreign), ContainsSubstring("is not there in a sandbox"));

  CHECK(said("#!/bin/sh\nexit\n") == "well");
  CHECK(said("#! /usr/bin/env python3\n") == "well");
  CHECK_THAT(said("#!/opt/none\n"), ContainsSubstring("its interpreter '/opt/none' is not there"));
  CHECK_THAT(said("#!sh\n"), ContainsSubstring("its interpreter 'sh' is not there"));
  CHECK_THAT(said("#!\n"), ContainsSubstring("its interpreter '' is not there"));
  CHECK_THAT(said("#!/bin/../tmp/x\n"), ContainsSubstring("is not there"));
  CHECK_THAT(said("#!" + std::string(300, 'x')), ContainsSubstring("no end within 256 bytes"));
  // What is not a program is not looked at.
  CHECK(check(*elf, spec_of(folder / "nowhere", "python3", "main:f")).ok());
}

// -- The syntax check, against a factory that runs what the test says

namespace {

struct FakeSeat final : Seat {
  std::vector<std::string>* log;
  int removals_refused = 2;
  explicit FakeSeat(std::vector<std::string>* out) : log(out) {}
  int cgroup_v2_fd() const override { return -1; }
  std::string path() const override { return {}; }
  absl::Status adopt(pid_t) override { return absl::OkStatus(); }
  absl::Status set_limits(const ResourceLimits&) override { return absl::OkStatus(); }
  absl::Status freeze() override { return absl::OkStatus(); }
  absl::Status thaw() override { return absl::OkStatus(); }
  std::optional<bool> frozen() override { return std::nullopt; }
  absl::Status kill() override {
    log->push_back("kill");
    return absl::OkStatus();
  }
  absl::Status remove() override {
    if (removals_refused-- > 0) return absl::FailedPreconditionError("still there");
    log->push_back("remove");
    return absl::OkStatus();
  }
  void reset_peak() override {}
  SeatUsage usage() override { return {}; }
};

struct FakeFreezer final : Freezer {
  std::vector<std::string> log;
  absl::Status refuse;
  FreezerKind kind() const override { return FreezerKind::none; }
  std::string_view limits_source() const override { return {}; }
  std::string missing_limits() const override { return {}; }
  absl::StatusOr<std::unique_ptr<Seat>> prepare(const SeatSpec& spec) override {
    if (!refuse.ok()) return refuse;
    log.push_back("prepare " + spec.name.substr(0, 6));
    return std::make_unique<FakeSeat>(&log);
  }
};

struct FakeFactory final : SandboxFactory {
  std::string script;
  absl::Status refuse;
  int created = 0;
  int released_ = 0;
  pid_t last = -1;
  Isolation isolation() const override { return Isolation::none; }
  absl::Status check(const FunctionSpec&) override { return absl::OkStatus(); }
  absl::Status park(Seat&) override { return absl::OkStatus(); }
  absl::StatusOr<SandboxHandles> create(const CreateParams& params) override {
    CHECK(params.purpose == Purpose::check);
    CHECK(params.spec->network == Network::none);
    REQUIRE(params.seat != nullptr);
    if (!refuse.ok()) return refuse;
    ++created;
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    REQUIRE(::fcntl(ends[0], F_SETFL, O_NONBLOCK) == 0);
    const char* argv[] = {"sh", "-c", script.c_str(), nullptr};
    last = ::fork();
    if (last == 0) {
      ::dup2(ends[1], 1);
      ::dup2(ends[1], 2);
      ::execv("/bin/sh", const_cast<char**>(argv));
      ::_exit(127);
    }
    ::close(ends[1]);
    SandboxHandles handles;
    handles.pid = last;
    handles.pidfd = UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, last, 0)));
    handles.output = UniqueFd(ends[0]);
    return handles;
  }
  std::string reap(int pidfd) override {
    siginfo_t info = {};
    if (::waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG) != 0 ||
        info.si_pid == 0)
      return {};
    return info.si_code == CLD_EXITED ? "exited with status " + std::to_string(info.si_status)
                                      : "killed by signal " + std::to_string(info.si_status);
  }
  void released(SandboxId) override { ++released_; }
};

}  // namespace

TEST_CASE("what the runtime finds is the check's answer, and nothing is left of it", "[code][checks]") {
  FakeFreezer freezer;
  FakeFactory factory;
  const auto syntax =
      make_syntax_check(factory, freezer, {.timeout = std::chrono::seconds(20), .max_output_bytes = 100});
  FunctionSpec spec = spec_of("/nowhere", "python3", "main:handler");
  spec.network = Network::host;
  const auto said = [&](const std::string& script) {
    factory.script = script;
    freezer.log.clear();
    const int before = factory.created;
    const absl::Status status = check(*syntax, spec);
    CHECK(factory.created == before + 1);
    CHECK(factory.released_ == factory.created);
    CHECK(freezer.log == std::vector<std::string>{"prepare check-", "kill", "remove"});
    CHECK((::kill(factory.last, 0) == -1 && errno == ESRCH));
    return status;
  };
  CHECK(said("exit 0").ok());
  CHECK(said("echo fine; exit 0").ok());
  CHECK(said("echo 'main.py:3: invalid syntax' >&2; exit 1") ==
        absl::InvalidArgumentError("main.py:3: invalid syntax"));
  CHECK(said("exit 1") == absl::InvalidArgumentError("at fault, and nothing said"));
  CHECK(said("printf 'a\\033[2Jb\\001\\377'; exit 1") == absl::InvalidArgumentError("a?[2Jb??"));
  CHECK(said("echo too much; exit 2") ==
        absl::UnavailableError("the runtime exited with status 2: too much"));
  CHECK(said("kill -9 $$") == absl::UnavailableError("the runtime killed by signal 9"));
  // More than the pipe holds, and more than is kept.
  const absl::Status flood = said("head -c 1000000 /dev/zero | tr '\\0' x; exit 1");
  CHECK(flood == absl::InvalidArgumentError(std::string(100, 'x')));
  // Its end counts, not that of the pipe, which a child may keep.
  CHECK(said("echo first; sleep 30 >/dev/null 2>&1 & exit 1") == absl::InvalidArgumentError("first"));
}

TEST_CASE("a check that does not end is ended at its deadline", "[code][checks]") {
  FakeFreezer freezer;
  FakeFactory factory;
  const auto syntax = make_syntax_check(factory, freezer, {.timeout = std::chrono::milliseconds(300)});
  const FunctionSpec spec = spec_of("/nowhere", "node", "index:handler");
  for (const char* script : {"echo begun; exec sleep 1000", "exec >&- 2>&-; exec sleep 1000", "exec yes"}) {
    factory.script = script;
    const absl::Status status = check(*syntax, spec);
    CHECK(status.code() == absl::StatusCode::kDeadlineExceeded);
    CHECK_THAT(text(status), ContainsSubstring("not done after 300 ms"));
    CHECK((::kill(factory.last, 0) == -1 && errno == ESRCH));
  }
  CHECK(factory.released_ == 3);
}

TEST_CASE("where nothing can be made the check says why, and programs have no syntax", "[code][checks]") {
  FakeFreezer freezer;
  FakeFactory factory;
  const auto syntax = make_syntax_check(factory, freezer);
  CHECK(check(*syntax, spec_of("/nowhere", "exec", "main")).ok());
  CHECK(freezer.log.empty());
  factory.refuse = absl::ResourceExhaustedError("no uid is free");
  CHECK(check(*syntax, spec_of("/nowhere", "python3", "m:f")) == factory.refuse);
  CHECK(freezer.log == std::vector<std::string>{"prepare check-", "kill", "remove"});
  freezer.refuse = absl::PermissionDeniedError("no groups");
  CHECK(check(*syntax, spec_of("/nowhere", "python3", "m:f")) == freezer.refuse);
  // As a deploy hears it.
  const std::vector<std::shared_ptr<DeployCheck>> checks{make_handler_check(), syntax};
  Folder folder;
  write_file(folder / "m.py", "");
  const FunctionSpec spec = spec_of(folder.path(), "python3", "m:f");
  CHECK(run_checks(checks, {.spec = &spec}) == absl::PermissionDeniedError("syntax: no groups"));
}

#ifdef FAASKIT_CODE_WITH_SANDBOX
namespace {

// Why it cannot be told here, if so.
std::string look_in_real_sandboxes() {
  if (::geteuid() != 0) return "needs root for real sandboxes";
  Folder folder;
  auto freezer = cgroup::make_freezer(
      {.instance = "code-check-" + std::to_string(::getpid()), .runtime_dir = (folder / "run").string()});
  if (!freezer.ok()) return freezer.status().ToString();
  auto factory = process::make_sandbox_factory({.runtime_dir = (folder / "run").string()});
  REQUIRE(factory.ok());
  if ((*factory)->isolation() != Isolation::process) return "no isolated processes on this machine";
  const auto syntax = make_syntax_check(**factory, **freezer);

  write_file(folder / "code/main.py", "def handler(x):\n    return x\n");
  FunctionSpec spec = spec_of(folder / "code", "python3", "main:handler");
  if (absl::Status able = (*factory)->check(spec); !able.ok()) return able.ToString();
  const absl::Status well = check(*syntax, spec);
  INFO(well.ToString());
  CHECK(well.ok());
  spec.handler = "main:handle";
  CHECK_THAT(text(check(*syntax, spec)), ContainsSubstring("the module defines no handle"));
  spec.handler = "main:handler";
  write_file(folder / "code/main.py", "import os\n\ndef handler(x:\n    return x\n");
  const absl::Status broken = check(*syntax, spec);
  CHECK(broken.code() == absl::StatusCode::kInvalidArgument);
  CHECK_THAT(text(broken), ContainsSubstring("main.py:3"));
  // The code does not run.
  write_file(folder / "code/main.py", "while True: pass\ndef handler(x): return x\n");
  CHECK(check(*syntax, spec).ok());

  spec.runtime = "node";
  spec.handler = "index:handler";
  write_file(folder / "code/index.js", "exports.handler = async (x) => x;\n");
  if (absl::Status able = (*factory)->check(spec); !able.ok()) return able.ToString();
  CHECK(check(*syntax, spec).ok());
  write_file(folder / "code/index.js", "exports.handler =\n  async (x => x;\n");
  const absl::Status unread = check(*syntax, spec);
  CHECK(unread.code() == absl::StatusCode::kInvalidArgument);
  CHECK_THAT(text(unread), ContainsSubstring("index.js:2"));
  return {};
}

}  // namespace

TEST_CASE("in a real sandbox the runtimes find what cannot be read", "[code][checks]") {
  if (const std::string why = look_in_real_sandboxes(); !why.empty()) FAASKIT_SKIP(why);
}
#endif

}  // namespace faaskit::code
