// Channel: the host's end of the line to one sandbox. Frames out, frames in, nothing about pools.
//
// Thread: one only, the sandbox's home shard. The initiating members, the handlers and the destructor
// all run there. Handlers are posted, exactly once, never run inside the member that took them.
// Bounds: every frame, header, reply and number of calls in flight has one (ChannelLimits). A peer that
// breaks a rule gets the channel closed; from then on its sandbox is in doubt and must be destroyed.
// What the peer says about itself (hello, durations) is a claim, not a fact.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <absl/functional/any_invocable.h>
#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <boost/asio/any_io_executor.hpp>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/port/clock.h"
#include "faaskit/port/reply_stream.h"
#include "faaskit/port/unique_fd.h"

namespace faaskit {

struct ChannelLimits {
  std::size_t max_envelope_bytes = 64 << 10;  // Protobuf part of one frame; 48 to 64 KiB
  std::size_t max_payload_bytes = 6 << 20;    // of a call
  std::size_t max_reply_bytes = 6 << 20;      // head and bodies of one reply together
  // The same where the reply is streamed, and so never held whole.
  std::uint64_t max_streamed_bytes = 1ull << 30;
  std::size_t max_frame_payload_bytes = 1 << 20;  // of one frame; larger messages travel as several
  // A peer that sent nothing of what it owes within this long is cut off. Applies to hello only; a call
  // has its own deadline.
  std::chrono::milliseconds hello_timeout = std::chrono::seconds(10);
};

// What the sandbox said when its own init had run.
struct Hello {
  std::uint32_t protocol_version = 0;
  std::uint64_t capabilities = 0;
  std::string runtime{};  // "python 3.11.2", "c++"
  // How long it took, by its own account; 0: it did not say.
  std::chrono::microseconds runtime_time{};  // from its program's start to the function's first line
  std::chrono::microseconds init_time{};     // the function's own init
};

struct ChannelCall {
  Token token = 0;
  LeaseId lease{};
  // Time left, as the sandbox is told it; the host keeps the real deadline.
  std::chrono::microseconds timeout{};
  // How long the sandbox was idle before this call; given to its on_thaw hook.
  std::chrono::microseconds idle_for{};
  std::string trace{};         // opaque trace context, passed through
  std::string content_type{};  // of the payload
  Metadata metadata{};
  Bytes payload{};
  // Takes a reply of several frames as it comes. Null: it is assembled, and refused beyond max_reply_bytes.
  std::shared_ptr<ReplyStream> stream{};
};

struct ChannelReply {
  // OK: the function returned. kUnknown (with its message): the function raised; the sandbox is fine.
  absl::Status function_status{};
  // These three are empty if the reply went to a stream.
  std::string content_type{};
  Metadata metadata{};
  Bytes payload{};
  // Of the whole payload, streamed or not.
  std::uint64_t payload_bytes = 0;
  std::chrono::microseconds claimed_run_time{};
};

// How a call ended, as the channel saw it.
struct CallResult {
  // OK: `reply` is valid and the sandbox finished the call. Anything else: the sandbox is in doubt.
  //   kUnavailable        the connection ended (ECONNRESET, EOF)
  //   kInternal           the peer broke the protocol; the message says how
  //   kCancelled          close() was called
  absl::Status status{};
  ChannelReply reply{};
  // Proof that the function did not begin: no byte of the call was sent; or the peer died with
  // ECONNRESET and this call was the only frame sent since the last one it answered.
  bool never_began = false;
  Bytes payload{};  // of the call, handed back if it never began
};

class FAASKIT_EXPORT Channel {
 public:
  using HelloHandler = absl::AnyInvocable<void(absl::StatusOr<Hello>)>;
  using CallHandler = absl::AnyInvocable<void(CallResult)>;
  using PingHandler = absl::AnyInvocable<void(absl::Status)>;
  using ClosedHandler = absl::AnyInvocable<void(absl::Status)>;

  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;
  // Closes. Handlers not yet run never run.
  virtual ~Channel() = default;

  // Waits for the sandbox's first frame. Once, before anything else.
  //   kDeadlineExceeded  not within hello_timeout     kUnavailable  the peer ended before
  //   kInternal          not a hello                  kFailedPrecondition  no common version
  virtual void async_hello(HelloHandler done) = 0;

  // Called once if the connection ends or is cut while no call and no ping is in flight. Set before the
  // hello.
  virtual void on_closed(ClosedHandler closed) = 0;

  // Makes exactly one non-blocking send attempt before it returns, and says how many bytes of the
  // call's frames went out; the rest follows from the event loop. The caller writes its thaw right
  // after this returns, whatever it returned. `done` runs exactly once, always posted.
  // At most one call at a time (REQUIRES: no call and no ping in flight). A payload or metadata over the
  // limit is refused by `done` with kInvalidArgument, never_began, and the channel stays usable. A stream is
  // called from the event loop, never inside this; not after the result, close() or the channel's end. It may
  // close the channel.
  virtual std::size_t begin_call(ChannelCall call, CallHandler done) = 0;

  // Asks the worker for a sign of life: one non-blocking send attempt before it returns, as begin_call(), so
  // that the caller may thaw right after it. `done` runs exactly once, always posted: OK when the answer has
  // come, else why the connection ended; there is no deadline of its own.
  // At most one call or ping at a time (REQUIRES: none in flight); one beside another is refused with
  // kFailedPrecondition, and nothing is sent.
  virtual void ping(PingHandler done) = 0;

  // Ends the connection now. A call or ping in flight completes with `why` (posted).
  virtual void close(absl::Status why) = 0;
  virtual bool is_open() const = 0;

 protected:
  Channel() = default;
};

class FAASKIT_EXPORT ChannelFactory {
 public:
  ChannelFactory(const ChannelFactory&) = delete;
  ChannelFactory& operator=(const ChannelFactory&) = delete;
  virtual ~ChannelFactory() = default;
  // `fd`: a connected, non-blocking SOCK_STREAM socket. `home` is the shard everything runs on.
  virtual absl::StatusOr<std::unique_ptr<Channel>> open(UniqueFd fd, asio::any_io_executor home) = 0;

 protected:
  ChannelFactory() = default;
};

}  // namespace faaskit
