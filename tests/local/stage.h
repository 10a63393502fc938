// What the tests of a whole platform share: functions in a folder of their own, and waiting for an event
// with a deadline.
#pragma once

#include <sched.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_signal.hpp>
#include <boost/asio/thread_pool.hpp>

#include "catch.hpp"
#include "faaskit/local/platform.h"

namespace faaskit::testing {

using namespace std::chrono_literals;

inline void need_root() {
  if (::geteuid() != 0) FAASKIT_SKIP("not root: process sandboxes and cgroups need it");
}

class Folder {
 public:
  Folder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "faaskit-test-XXXXXX").string();
    path_ = ::mkdtemp(pattern.data());
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  std::string write(const std::string& name, const std::string& text) const {
    const std::string file = path_ + "/" + name;
    std::ofstream(file) << text;
    return file;
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

class Events final : public EventSink {
 public:
  void emit(Event event) override {
    std::lock_guard lock(mutex_);
    events_.push_back(std::move(event));
  }
  std::vector<Event> of(std::string_view name) const {
    std::lock_guard lock(mutex_);
    std::vector<Event> found;
    for (const Event& event : events_) {
      if (event.name == name) found.push_back(event);
    }
    return found;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<Event> events_;
};

class Logs final : public LogSink {
 public:
  void write(LogRecord record) override {
    std::lock_guard lock(mutex_);
    text_ += record.bytes;
    lost_ += record.lost_bytes;
    by_request_[record.request] += record.bytes;
  }
  // What was written during `request`; of none: what is the sandboxes' own.
  std::string of(const RequestId& request) const {
    std::lock_guard lock(mutex_);
    auto known = by_request_.find(request);
    return known == by_request_.end() ? "" : known->second;
  }
  std::string text() const {
    std::lock_guard lock(mutex_);
    return text_;
  }
  // How often `word` was written so far.
  int count(std::string_view word) const {
    const std::string all = text();
    int found = 0;
    for (std::size_t at = all.find(word); at != std::string::npos; at = all.find(word, at + 1)) ++found;
    return found;
  }
  std::uint64_t lost() const {
    std::lock_guard lock(mutex_);
    return lost_;
  }

 private:
  mutable std::mutex mutex_;
  std::string text_;
  std::uint64_t lost_ = 0;
  std::map<RequestId, std::string> by_request_;
};

class Records final : public RecordSink {
 public:
  void write(const ExecutionRecord& record) override {
    std::lock_guard lock(mutex_);
    records_.push_back(record);
  }
  std::vector<ExecutionRecord> all() const {
    std::lock_guard lock(mutex_);
    return records_;
  }
  // Of one request; nullopt: not written yet.
  std::optional<ExecutionRecord> of(const RequestId& request) const {
    for (ExecutionRecord& record : all()) {
      if (record.request == request) return std::move(record);
    }
    return std::nullopt;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<ExecutionRecord> records_;
};

// True as soon as `what` is; false after the deadline.
inline bool eventually(const std::function<bool()>& what, std::chrono::milliseconds within = 10s) {
  const auto deadline = std::chrono::steady_clock::now() + within;
  while (!what()) {
    if (std::chrono::steady_clock::now() >= deadline) return false;
    std::this_thread::yield();
  }
  return true;
}

// A platform, and a function file that answers to a few commands:
//   "echo X"   X                       "hold S"    prints "holding", sleeps S seconds, answers "held"
//   "raise X"  raises ValueError(X)    "print X"   prints X, answers "printed"
//   "exit N"   ends its process        "grab N"    touches N MiB, answers "grabbed"
inline constexpr const char* kCommands = R"(
import os, sys, time
def handler(payload, context):
    word, _, rest = payload.decode().partition(" ")
    if word == "echo": return rest
    if word == "hold": print("holding", flush=True); time.sleep(float(rest)); return "held"
    if word == "raise": raise ValueError(rest)
    if word == "print": print(rest); return "printed"
    if word == "exit": os._exit(int(rest))
    if word == "grab":
        block = bytearray(int(rest) << 20)
        for i in range(0, len(block), 4096): block[i] = 1
        return "grabbed"
    return "?"
)";

struct Stage {
  explicit Stage(local::PlatformOptions options = {}) {
    need_root();
    options.events = events;
    options.logs = logs;
    options.records = records;
    auto made = local::make_platform(std::move(options));
    if (!made.ok() && absl::IsFailedPrecondition(made.status())) FAASKIT_SKIP(made.status().ToString());
    REQUIRE(made.status().ToString() == "OK");
    platform = *std::move(made);
  }

  // Deploys `code` as function `name`; the caller may change the rest.
  void deploy(local::Function function, const std::string& code = kCommands) {
    const std::string file = folder.write(function.name + std::to_string(++files) + ".py", code);
    function.code_path = file;
    function.handler = function.name + std::to_string(files) + ":handler";
    REQUIRE(platform->deploy(std::move(function)).ToString() == "OK");
  }

  // Deploys a program that speaks the channel itself; commanded_worker.cc has the words of the usual one.
  void deploy_program(local::Function function, const std::string& program = FAASKIT_COMMANDED_WORKER) {
    function.runtime = "exec";
    function.code_path = program;
    REQUIRE(platform->deploy(std::move(function)).ToString() == "OK");
  }

  InvocationResult invoke(std::string_view function, std::string_view payload,
                          std::chrono::milliseconds timeout = 20s) {
    local::InvokeOptions options;
    options.timeout = timeout;
    return platform->invoke(function, payload, options);
  }
  std::future<InvocationResult> start(std::string_view function, std::string_view payload,
                                      std::chrono::milliseconds timeout = 20s) {
    const auto* const first = reinterpret_cast<const std::byte*>(payload.data());
    Bytes bytes(first, first + payload.size());
    local::InvokeOptions options;
    options.timeout = timeout;
    return platform->async_invoke(function, std::move(bytes), std::move(options), asio::use_future);
  }

  std::vector<SandboxView> in_state(HostState state) const {
    std::vector<SandboxView> found;
    for (SandboxView& view : platform->sandboxes()) {
      if (view.state == state) found.push_back(std::move(view));
    }
    return found;
  }
  bool all_frozen(std::size_t count) const { return in_state(HostState::frozen).size() == count; }

  Folder folder;
  int files = 0;
  std::shared_ptr<Events> events = std::make_shared<Events>();
  std::shared_ptr<Logs> logs = std::make_shared<Logs>();
  std::shared_ptr<Records> records = std::make_shared<Records>();
  std::unique_ptr<local::Platform> platform;
};

// The group that all of a platform's sandboxes are in. REQUIRES: it has one now.
inline std::string groups_of(const local::Platform& platform) {
  return std::filesystem::path(platform.sandboxes().at(0).cgroup).parent_path();
}

inline std::size_t entries(const std::string& folder) {
  std::error_code gone;
  std::filesystem::directory_iterator each(folder, gone);
  return gone ? 0 : static_cast<std::size_t>(std::distance(each, std::filesystem::directory_iterator()));
}

// From now on this process sees no mounts of others come and go, nor they its own. Before it has threads.
inline void need_own_mounts() {
  need_root();
  if (::unshare(CLONE_NEWNS) != 0 || ::mount(nullptr, "/", nullptr, MS_PRIVATE | MS_REC, nullptr) != 0)
    FAASKIT_SKIP("no mount namespace may be made here");
}

// What a sandbox could leave behind in this process and on this machine. REQUIRES: need_own_mounts().
struct Belongings {
  std::size_t descriptors = 0;
  std::size_t children = 0;  // dead ones included
  std::size_t mounts = 0;
  std::size_t groups = 0;

  static Belongings now(const std::string& group) {
    Belongings now;
    now.descriptors = entries("/proc/self/fd");
    for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
      std::ifstream list(task.path() / "children");
      for (pid_t child; list >> child;) ++now.children;
    }
    std::ifstream mounts("/proc/self/mountinfo");
    for (std::string line; std::getline(mounts, line);) ++now.mounts;
    std::error_code gone;
    for (std::filesystem::directory_iterator each(group, gone), end; !gone && each != end;
         each.increment(gone))
      now.groups += each->is_directory(gone) ? 1 : 0;
    return now;
  }
  bool operator==(const Belongings&) const = default;
};
inline std::ostream& operator<<(std::ostream& out, const Belongings& b) {
  return out << b.descriptors << " descriptors, " << b.children << " children, " << b.mounts << " mounts, "
             << b.groups << " groups";
}

// Once nothing is under way any more: the same for fifty looks in a row.
inline Belongings settled(const std::string& group) {
  Belongings last = Belongings::now(group);
  int same = 0;
  (void)eventually([&] {
    const Belongings now = Belongings::now(group);
    same = now == last ? same + 1 : 0;
    last = now;
    return same == 50;
  });
  return last;
}

// Within a few seconds it is again as it was `before`. Not at once, and not from then on: to ask the kernel
// whether a sandbox is frozen takes a descriptor, for a moment.
inline bool as_before(const Belongings& before, const std::string& group) {
  Belongings last;
  if (eventually([&] { return (last = Belongings::now(group)) == before; })) return true;
  UNSCOPED_INFO("before: " << before << "; now: " << last);
  return false;
}

inline bool exists(pid_t pid) { return ::kill(pid, 0) == 0; }

}  // namespace faaskit::testing
