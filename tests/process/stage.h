// A factory, a freezer and sandboxes whose function runs whatever Python it is sent: the tests look at a
// sandbox from inside.
#pragma once

#include <grp.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <optional>
#include <sstream>
#include <string>

#include <boost/asio/io_context.hpp>

#include "catch.hpp"
#include "faaskit/cgroup/freezer.h"
#include "faaskit/process/reap.h"
#include "faaskit/process/sandbox_factory.h"
#include "faaskit/uds/channel_factory.h"
#include "spawner/spawn.h"

namespace faaskit::process {

using namespace std::chrono_literals;

inline bool eventually(auto condition, std::chrono::milliseconds within = 5s) {
  const auto deadline = std::chrono::steady_clock::now() + within;
  while (!condition()) {
    if (std::chrono::steady_clock::now() > deadline) return false;
    ::sched_yield();
  }
  return true;
}

inline std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

inline std::size_t open_fds() {
  return static_cast<std::size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                                                std::filesystem::directory_iterator()));
}

// Children of this process, dead ones included.
inline std::size_t children() {
  std::istringstream list(text_of("/proc/self/task/" + std::to_string(::getpid()) + "/children"));
  return static_cast<std::size_t>(
      std::distance(std::istream_iterator<int>(list), std::istream_iterator<int>()));
}

// Runs its payload; what that leaves in `result` is the answer.
inline constexpr const char* kProbe = R"(
def handler(payload, context):
    names = {}
    exec(payload.decode(), names)
    return str(names.get("result", ""))
)";

// A folder for code (others may enter it) and one for the library's own files.
class Folders {
 public:
  Folders() {
    char pattern[] = "/tmp/faaskit-test-XXXXXX";
    root_ = ::mkdtemp(pattern);
    std::filesystem::create_directory(code());
    std::filesystem::create_directory(run());
    std::filesystem::permissions(run(), std::filesystem::perms::owner_all);
    write("probe.py", kProbe);
  }
  ~Folders() {
    std::error_code ignored;
    std::filesystem::remove_all(root_, ignored);
  }
  std::string root() const { return root_; }
  std::string code() const { return root_ + "/code"; }
  std::string run() const { return root_ + "/run"; }
  std::string write(const std::string& name, const std::string& text, mode_t mode = 0644) const {
    const std::string path = code() + "/" + name;
    std::ofstream(path) << text;
    ::chmod(path.c_str(), mode);
    return path;
  }

 private:
  std::string root_;
};

class Sandbox {
 public:
  Sandbox(SandboxFactory& factory, std::unique_ptr<Seat> seat, SandboxId id, SandboxHandles handles)
      : factory_(factory), seat_(std::move(seat)), id_(id), handles_(std::move(handles)) {}
  ~Sandbox() { end(); }

  pid_t pid() const { return handles_.pid; }
  Seat& seat() { return *seat_; }
  const SandboxHandles& handles() const { return handles_; }

  void greet() {
    auto channels = uds::make_channel_factory();
    REQUIRE(channels.ok());
    auto channel = (*channels)->open(std::move(handles_.channel), io_.get_executor());
    REQUIRE(channel.ok());
    channel_ = *std::move(channel);
    std::optional<absl::StatusOr<Hello>> hello;
    channel_->on_closed([](absl::Status) {});
    channel_->async_hello([&](absl::StatusOr<Hello> got) { hello = std::move(got); });
    run_until([&] { return hello.has_value(); });
    INFO(hello->status().ToString() << "; it wrote: " << output());
    REQUIRE(hello->ok());
  }

  CallResult call(const std::string& code) {
    if (!channel_) greet();
    ChannelCall call;
    call.token = ++token_;
    call.timeout = 10s;
    call.payload.resize(code.size());
    if (!code.empty()) std::memcpy(call.payload.data(), code.data(), code.size());
    std::optional<CallResult> result;
    channel_->begin_call(std::move(call), [&](CallResult got) { result = std::move(got); });
    run_until([&] { return result.has_value(); });
    return *std::move(result);
  }

  // What `code` leaves in `result`.
  std::string ask(const std::string& code) {
    const CallResult result = call(code);
    INFO(code << "\n"
              << result.status.ToString() << " " << result.reply.function_status.ToString() << "\n"
              << output());
    REQUIRE(result.status.ok());
    REQUIRE(result.reply.function_status.ok());
    return std::string(reinterpret_cast<const char*>(result.reply.payload.data()),
                       result.reply.payload.size());
  }
  // Python's name for the error that `code` ends with, and its errno; empty: it succeeded.
  std::string attempt(const std::string& code) {
    std::string indented = "    " + code;
    for (std::size_t at = 0; (at = indented.find('\n', at)) != std::string::npos; ++at)
      indented.replace(at, 1, "\n    ");
    return ask("import os, errno\nresult = ''\ntry:\n" + indented +
               "\nexcept OSError as error:\n    result = errno.errorcode.get(error.errno, str(error))\n");
  }

  std::string output() {
    char text[4096];
    const ssize_t got = ::read(handles_.output.get(), text, sizeof text);
    return got > 0 ? std::string(text, static_cast<std::size_t>(got)) : "";
  }

  // Says how it ended.
  std::string wait() {
    std::string how;
    REQUIRE(eventually([&] { return !(how = factory_.reap(handles_.pidfd.get())).empty(); }));
    return how;
  }
  void end() {
    if (ended_) return;
    ended_ = true;
    channel_.reset();
    CHECK(seat_->kill().ok());
    wait();
    factory_.released(id_);
    CHECK(eventually([&] { return seat_->remove().ok(); }));
  }

 private:
  void run_until(auto done) {
    const auto deadline = std::chrono::steady_clock::now() + 20s;
    while (!done() && std::chrono::steady_clock::now() < deadline) {
      io_.restart();
      io_.run_one_for(100ms);
    }
    REQUIRE(done());
  }

  boost::asio::io_context io_;
  SandboxFactory& factory_;
  std::unique_ptr<Seat> seat_;
  SandboxId id_;
  SandboxHandles handles_;
  std::unique_ptr<Channel> channel_;
  Token token_ = 0;
  bool ended_ = false;
};

struct StageOptions {
  FactoryOptions factory = {};
  cgroup::Choice freezer = cgroup::Choice::automatic;
  // The whole test becomes an ordinary user: no privileges, no groups of its own, no range of uids.
  bool ordinary_user = false;
};

inline constexpr uid_t kOrdinaryUser = 64123;

inline void become_ordinary(const Folders& folders) {
  for (const std::string& folder : {folders.root(), folders.code(), folders.run()})
    REQUIRE(::chown(folder.c_str(), kOrdinaryUser, kOrdinaryUser) == 0);
  const gid_t another = kOrdinaryUser + 1;
  REQUIRE(::setgroups(1, &another) == 0);
  REQUIRE(::setresgid(kOrdinaryUser, kOrdinaryUser, kOrdinaryUser) == 0);
  REQUIRE(::setresuid(kOrdinaryUser, kOrdinaryUser, kOrdinaryUser) == 0);
  // As any program that such a user starts.
  REQUIRE(::prctl(PR_SET_DUMPABLE, 1, 0, 0, 0) == 0);
}

struct Stage {
  explicit Stage(StageOptions options = {}) {
    if (::geteuid() != 0) FAASKIT_SKIP("needs root");
    ordinary_user = options.ordinary_user;
    options.factory.runtime_dir = folders.run();
    if (options.ordinary_user) {
      become_ordinary(folders);
      options.freezer = cgroup::Choice::stop_signals;
      spec.minimum_isolation = Isolation::partial;
    }
    // Another part of the range than a real host's, and than the next test's.
    if (options.factory.uid_base == FactoryOptions{}.uid_base)
      options.factory.uid_base = 2000000 + static_cast<std::uint32_t>(::getpid() % 100000) * 4096;
    auto made = cgroup::make_freezer({.instance = "t-proc-" + std::to_string(::getpid()),
                                      .choice = options.freezer,
                                      .runtime_dir = folders.run()});
    if (absl::IsFailedPrecondition(made.status())) FAASKIT_SKIP(made.status().ToString());
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    freezer = *std::move(made);
    auto ready = make_sandbox_factory(options.factory);
    INFO(ready.status().ToString());
    REQUIRE(ready.ok());
    factory = *std::move(ready);
    const Isolation expected = options.ordinary_user ? Isolation::partial : Isolation::process;
    spec.name = "probe";
    spec.code_path = folders.code();
    spec.handler = "probe:handler";
    if (factory->isolation() != expected) FAASKIT_SKIP(factory->check(spec).ToString());
  }

  std::unique_ptr<Seat> seat() {
    auto made = freezer->prepare({.name = "sb-" + std::to_string(++seats)});
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    return *std::move(made);
  }
  absl::StatusOr<SandboxHandles> create(Seat& at) {
    return factory->create({.spec = &spec, .id = SandboxId{1, seats}, .seat = &at});
  }
  std::unique_ptr<Sandbox> sandbox(bool parked = true) {
    std::unique_ptr<Seat> at = seat();
    if (parked) {
      const absl::Status status = factory->park(*at);
      INFO(status.ToString());
      REQUIRE(status.ok());
    }
    absl::StatusOr<SandboxHandles> handles = create(*at);
    INFO(handles.status().ToString());
    REQUIRE(handles.ok());
    return std::make_unique<Sandbox>(*factory, std::move(at), SandboxId{1, seats}, *std::move(handles));
  }

  Folders folders;
  bool ordinary_user = false;
  std::unique_ptr<Freezer> freezer;
  std::unique_ptr<SandboxFactory> factory;
  FunctionSpec spec;
  std::uint64_t seats = 0;
};

}  // namespace faaskit::process
