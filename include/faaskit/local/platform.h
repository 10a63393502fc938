// Platform: one process that runs functions, in one call. Every step can be written out by hand from the
// public parts (see src/local/platform.cc, which is exactly that).
//
//   auto platform = faaskit::local::make_platform();
//   (*platform)->deploy({.name = "hello", .code_path = "hello.py", .handler = "hello:handler"});
//   faaskit::InvocationResult result = (*platform)->invoke("hello", "world");
//
// Threads: it owns one per shard and a few for blocking work. Everything else in faaskit owns none.
// Thread safety: every member from any thread; the blocking ones not from a shard's own thread.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/core/export.h"
#include "faaskit/core/function_config.h"
#include "faaskit/invoke/invoker.h"
#include "faaskit/port/event_sink.h"
#include "faaskit/port/freezer.h"
#include "faaskit/port/log_sink.h"
#include "faaskit/port/sandbox_factory.h"
#include "faaskit/provision/local_host.h"

namespace faaskit::local {

enum class FreezerChoice : std::uint8_t { automatic, cgroup_v2, cgroup_v1, stop_signals, none };

struct PlatformOptions {
  // One thread each. Sandboxes are spread over them.
  std::uint32_t shards = 1;
  // Threads for what blocks: process creation, mounts, removal of cgroups.
  std::uint32_t blocking_threads = 4;
  // Names this platform's cgroups and folders, [a-z0-9-]; empty: one is made up.
  std::string instance = {};
  // Home of the instance's lock and sockets. Leftovers of dead instances below it are swept at start.
  std::string runtime_dir = "/run/faaskit";
  FreezerChoice freezer = FreezerChoice::automatic;
  LocalHostOptions host = {};
  InvokerOptions invoker = {};
  ChannelLimits channel = {};
  std::shared_ptr<EventSink> events = {};    // may be null
  std::shared_ptr<LogSink> logs = {};        // may be null
  std::shared_ptr<RecordSink> records = {};  // may be null
  std::shared_ptr<CodeStore> codes = {};     // may be null
  // Functions may ask for Network::host.
  bool allow_host_network = false;
};

struct Function {
  std::string name = {};
  // Must exceed the last one of the same name; nullopt: the platform counts.
  std::optional<Version> version = {};
  std::string runtime = "python3";
  std::string code_path = {};
  // Instead of code_path: code of the platform's CodeStore.
  std::optional<CodeId> code = {};
  std::string handler = {};
  std::vector<std::pair<std::string, std::string>> env = {};
  ResourceLimits limits = {};
  Network network = Network::none;
  Isolation minimum_isolation = Isolation::process;
  FunctionCaps caps = {};
  StartPolicy policy = StartPolicy::race;
  StartRetry retry = {};
  // An idle sandbox is destroyed after this long.
  std::chrono::milliseconds keep_alive = std::chrono::minutes(10);
  Lifetime lifetime = {};
  // Kept live whether anybody calls or not; keep_alive does not end them.
  std::uint32_t provisioned = 0;
  std::vector<WarmUp> warm_up = {};
};

struct InvokeOptions {
  std::chrono::milliseconds timeout = std::chrono::seconds(30);
  std::int32_t priority = 0;
  std::string content_type = {};
  std::string trace = {};
  std::string tenant = {};
  Cancel cancel = Cancel::waiting;
  Metadata metadata = {};
  std::shared_ptr<InvocationStream> stream = {};
  Phases phases = {};
  // The shard whose thread calls; kAnyShard from any other thread.
  ShardIndex shard = kAnyShard;
};

class FAASKIT_EXPORT Platform {
 public:
  Platform(const Platform&) = delete;
  Platform& operator=(const Platform&) = delete;
  // stop(), with a bound of ten seconds; what the kernel has not let go by then is left to the guardian.
  virtual ~Platform() = default;

  // Makes `function` callable. Again with the same name: a redeploy; calls that arrive after it returned
  // never run older code. Blocks for file checks and for its code, which may have to be unpacked; nothing is
  // started. Deploys of other functions go on beside it; those of the same come one after the other.
  virtual absl::Status deploy(Function function) = 0;

  // Ends a function: calls that wait or come later get kNotFound, running ones finish, its sandboxes go.
  // kNotFound: there is none of that name. Deployed again, its version must be larger than every earlier one.
  virtual absl::Status remove(std::string_view function) = 0;

  // Runs one invocation and waits for its end. Errors are in the result's status.
  virtual InvocationResult invoke(std::string_view function, std::string_view payload,
                                  InvokeOptions options = {}) = 0;

  // Completion signature: void(InvocationResult). See Invoker::async_invoke.
  template <asio::completion_token_for<void(InvocationResult)> Token>
  auto async_invoke(std::string_view function, Bytes payload, InvokeOptions options, Token&& token) {
    return invoker().async_invoke(make_invocation(function, std::move(payload), std::move(options)),
                                  std::forward<Token>(token));
  }

  virtual QueueStats stats(std::string_view function) const = 0;
  virtual std::vector<SandboxView> sandboxes() const = 0;

  // Ends every sandbox and waits until nothing is left of them. kDeadlineExceeded: something is.
  virtual absl::Status stop(std::chrono::milliseconds timeout = std::chrono::seconds(10)) = 0;

  // Its threads, for what wants to run on a sandbox's own shard. Valid until stop().
  virtual HostExecutors executors() const = 0;

  // The parts, for what is not wrapped here.
  virtual Invoker& invoker() = 0;
  virtual LocalHost& host() = 0;
  virtual IdleQueue& idle_queue() = 0;
  virtual const Freezer& freezer() const = 0;
  virtual Freezer& freezer() = 0;
  virtual const SandboxFactory& factory() const = 0;
  virtual SandboxFactory& factory() = 0;

  // An invocation of `function`; of an unknown name, one that completes with kNotFound.
  virtual Invocation make_invocation(std::string_view function, Bytes payload, InvokeOptions options) = 0;

 protected:
  Platform() = default;
};

// kFailedPrecondition, kPermissionDenied: what this machine lacks, and what would help.
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<Platform>> make_platform(PlatformOptions options = {});

}  // namespace faaskit::local
