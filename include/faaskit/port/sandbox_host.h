// SandboxHost: the way to a sandbox once it is leased. Only its host speaks with it.
//
// Thread safety: every member from any thread; a call from the sandbox's home shard does not hop.
// Completion: as IdleQueue.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/phases.h"
#include "faaskit/core/sandbox.h"
#include "faaskit/port/async.h"
#include "faaskit/port/channel.h"
#include "faaskit/port/clock.h"

namespace faaskit {

struct HostCall {
  SandboxId sandbox{};
  ShardIndex home_shard = 0;
  Token token = 0;
  LeaseId lease{};
  TimePoint deadline{};
  std::string trace{};
  std::string content_type{};
  Metadata metadata{};
  Bytes payload{};
  // As ChannelCall's.
  std::shared_ptr<ReplyStream> stream{};
};

struct HostReply {
  // OK: the function ran. Otherwise:
  //   kAborted            not admitted (an older token, or a call runs): refuse the lease, start again
  //   kDeadlineExceeded   answered at the deadline; the sandbox is being destroyed
  //   kUnavailable        the sandbox died, with the cause (signal, OOM, exit status)
  //   kInternal           it broke the protocol
  //   kInvalidArgument    the payload exceeds a limit; nothing began, the sandbox is clean
  //   kNotFound           no such sandbox on this host
  //   kCancelled          the host is stopping, or the caller cancelled
  absl::Status status{};
  // The function did not begin, provably: the same call may be made on another sandbox.
  bool never_began = false;
  // The sandbox ended clean and was offered back; only then may the lease be released. One that has served
  // enough ends clean and is not offered: its lease is retired.
  bool clean = false;
  ChannelReply reply{};
  // Handed back when the call never began, so that a retry needs no copy.
  Bytes payload{};
  // Last bytes of stdout and stderr of this invocation, bounded by the host's options.
  std::string log_tail{};
  // From the call's arrival at the home shard until its reply.
  std::chrono::nanoseconds run_time{};
  // The sandbox was frozen, or asked to freeze, when the call came.
  bool thawed = false;
  // As ExecutionRecord's.
  std::uint64_t use = 0;
  // thaw, run, freeze; and those of the sandbox's start if this was its first call.
  Phases phases{};
  // As ExecutionRecord's.
  std::uint64_t memory_peak_bytes = 0;
  std::string_view memory_source{};
  std::uint64_t log_bytes = 0;
  std::uint64_t lost_log_bytes = 0;
};

class FAASKIT_EXPORT SandboxHost {
 public:
  using executor_type = asio::any_io_executor;
  SandboxHost(const SandboxHost&) = delete;
  SandboxHost& operator=(const SandboxHost&) = delete;
  virtual ~SandboxHost() = default;
  virtual executor_type get_executor() const = 0;

  // Runs one invocation. Completion signature: void(HostReply). Always by the deadline.
  // Cancellation: every type but none. Answered at once with kCancelled; if the call had begun its sandbox is
  // destroyed, since nobody knows what it was in the middle of. One that comes after the reply changes
  // nothing.
  template <asio::completion_token_for<void(HostReply)> Token>
  auto async_call(HostCall call, Token&& token) {
    return initiate<HostReply>(this, &SandboxHost::do_call, std::move(call), std::forward<Token>(token));
  }

 protected:
  SandboxHost() = default;

 private:
  virtual void do_call(HostCall call, asio::any_io_executor home, Handler<HostReply> done) = 0;
};

}  // namespace faaskit
