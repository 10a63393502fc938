// Invoker: takes invocations, and sees each through: acquire a sandbox, call it, settle the lease.
//
// Thread safety: every member from any thread.
// Completion: exactly once, posted to the handler's associated executor, by the invocation's deadline.
// A warm invocation that starts on the shard of its sandbox stays on that thread to its end.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <boost/asio/use_future.hpp>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/phases.h"
#include "faaskit/core/sandbox.h"
#include "faaskit/port/async.h"
#include "faaskit/port/channel.h"
#include "faaskit/port/clock.h"
#include "faaskit/port/executors.h"
#include "faaskit/port/idle_queue.h"
#include "faaskit/port/record_sink.h"
#include "faaskit/port/reply_stream.h"
#include "faaskit/port/sandbox_host.h"
#include "faaskit/port/slot_directory.h"
#include "faaskit/port/start_queue.h"

namespace faaskit {

// The invoker chooses a shard itself.
inline constexpr ShardIndex kAnyShard = ~ShardIndex{0};

struct InvocationResult;

// As ReplyStream, for who invokes: head() also gets what is known of the invocation by then (start kind,
// sandbox, version, wait). After head() there is no retry: an error result means the reply is cut short.
class FAASKIT_EXPORT InvocationStream {
 public:
  InvocationStream(const InvocationStream&) = delete;
  InvocationStream& operator=(const InvocationStream&) = delete;
  virtual ~InvocationStream() = default;
  virtual void head(const InvocationResult& so_far, ReplyHead head) = 0;
  virtual void body(Bytes part, ReplyStream::Taken taken) = 0;

 protected:
  InvocationStream() = default;
};

// What a cancellation may end.
//   waiting      the wait for a sandbox; a call that runs, runs to its end
//   streamed_too a running call as well, at the price of its sandbox, if its reply goes to a stream and has
//                begun, or as soon as it does: nobody is there to take the rest
//   running_too  a running call in any case, at the same price; a stream is cut short
// A call that was cancelled is not tried again.
enum class Cancel : std::uint8_t { waiting, streamed_too, running_too };

struct Invocation {
  FunctionHandle function{};
  Bytes payload{};
  std::string content_type{};
  std::string trace{};
  Metadata metadata{};
  // Takes a reply of several frames as it comes (see InvocationStream). Null: it is assembled, up to
  // ChannelLimits::max_reply_bytes.
  std::shared_ptr<InvocationStream> stream{};
  // Phases that were over before; they go into the record.
  Phases phases{};
  // From now on; everything, waiting included, ends by then. Larger ones than a clock can hold mean "never".
  std::chrono::milliseconds timeout = std::chrono::seconds(30);
  // Smaller is served first.
  std::int32_t priority = 0;
  std::string tenant{};
  Cancel cancel = Cancel::waiting;
  // The shard whose thread calls; kAnyShard from any other thread.
  ShardIndex shard = kAnyShard;
};

struct InvocationResult {
  // OK: `payload` is the function's answer. Otherwise:
  //   kUnknown            the function raised; the message is its own
  //   kDeadlineExceeded   waited or ran until the deadline
  //   kResourceExhausted  refused at once: too many waiters
  //   kUnavailable        no sandbox could be started, or it died during the call: with the cause
  //   kInvalidArgument    a limit on the payload
  //   kNotFound           the function is not defined
  //   kCancelled          cancelled (see Invocation::cancel), or the host is stopping
  //   kInternal           the sandbox broke the protocol
  absl::Status status{};
  Bytes payload{};  // empty if it went to a stream
  std::string content_type{};
  Metadata metadata{};
  // Meaningful once a sandbox was leased (`sandbox.host` is not 0).
  StartKind start = StartKind::warm;
  SandboxId sandbox{};
  Version version = 0;
  bool cross_shard = false;
  std::uint32_t attempts = 1;
  std::uint64_t use = 0;  // as the record's
  RequestId request{};
  std::chrono::nanoseconds wait{};  // until a sandbox was leased (of the last attempt), or the error
  std::chrono::nanoseconds run{};   // in the sandbox
  std::chrono::nanoseconds total{};
  std::string log_tail{};
  // The record's.
  Phases phases{};
  std::uint64_t memory_peak_bytes = 0;
  std::string_view memory_source{};

  bool ok() const { return status.ok(); }
  std::string_view text() const { return {reinterpret_cast<const char*>(payload.data()), payload.size()}; }
};

struct InvokerOptions {
  // Acquires per invocation at most. Each restart means that a call provably never began.
  std::uint32_t max_attempts = 8;
  // How often unclaimed starts are sent again while calls wait.
  std::chrono::milliseconds repair_period = std::chrono::seconds(1);
};

// What an invoker works with; all outlive it.
struct InvokerParts {
  IdleQueue* idle = nullptr;
  StartQueue* starts = nullptr;
  const SlotDirectory* slots = nullptr;
  SandboxHost* host = nullptr;
  std::shared_ptr<Clock> clock{};         // null: the steady clock
  std::shared_ptr<RecordSink> records{};  // may be null
};

class FAASKIT_EXPORT Invoker {
 public:
  struct StopParams {};

  using executor_type = asio::any_io_executor;
  Invoker(const Invoker&) = delete;
  Invoker& operator=(const Invoker&) = delete;
  // Invocations under way must have ended (see async_stop()). Destroy it on shard 0's thread, or when no
  // shard runs.
  virtual ~Invoker() = default;
  virtual executor_type get_executor() const = 0;
  virtual InvokerId id() const = 0;

  // Ends what waits, now, and every later invocation, with kCancelled. Calls that run go on to their end;
  // completes when none is under way and every completion is posted. Completion signature:
  // void(absl::Status), always OK. Again: completes as the first does.
  template <asio::completion_token_for<void(absl::Status)> Token>
  auto async_stop(Token&& token) {
    return initiate<absl::Status>(this, &Invoker::do_stop, StopParams{}, std::forward<Token>(token));
  }

  // Completion signature: void(InvocationResult).
  // Cancellation: every type but none, as far as Invocation::cancel goes.
  template <asio::completion_token_for<void(InvocationResult)> Token>
  auto async_invoke(Invocation invocation, Token&& token) {
    return initiate<InvocationResult>(this, &Invoker::do_invoke, std::move(invocation),
                                      std::forward<Token>(token));
  }

  // Blocking form. REQUIRES: not called on a thread that runs a shard; it would wait for itself.
  InvocationResult invoke(Invocation invocation) {
    return async_invoke(std::move(invocation), asio::use_future).get();
  }

 protected:
  Invoker() = default;

 private:
  virtual void do_invoke(Invocation invocation, asio::any_io_executor home,
                         Handler<InvocationResult> done) = 0;
  virtual void do_stop(StopParams params, asio::any_io_executor home, Handler<absl::Status> done) = 0;
};

// kInvalidArgument: a missing part, no shards, or an option at fault.
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<Invoker>> make_invoker(HostExecutors executors,
                                                                     InvokerParts parts,
                                                                     InvokerOptions options = {});

}  // namespace faaskit
