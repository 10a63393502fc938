// worker::run: the inside of a sandbox whose function is written in C++ (runtime "exec").
//
//   int main() {
//     return faaskit::worker::run([](const faaskit::worker::Request& request) {
//       return faaskit::worker::Response{.payload = shout(request.text())};
//     });
//   }
//
// Standard library only: it links statically and starts in a fraction of a millisecond.
// One call at a time, on the calling thread. Everything in a Request is valid until the handler returns.
// A handler that throws has failed its call, not its sandbox: the caller gets the message, the next call
// is served. What it writes to stdout and stderr is its log; stdout is flushed before each answer.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "faaskit/core/export.h"

namespace faaskit::worker {

// What travels beside a payload: names in lower case, those that begin with ':' are the platform's.
using Metadata = std::vector<std::pair<std::string, std::string>>;

struct Request {
  std::span<const std::byte> payload;
  std::string_view content_type;
  std::span<const std::pair<std::string_view, std::string_view>> metadata;
  std::string_view trace;  // opaque trace context
  // When the host gives up on this call, on this process's clock.
  std::chrono::steady_clock::time_point deadline;
  // How long the sandbox was idle before this call.
  std::chrono::microseconds idle_for{};
  // The first call of this sandbox.
  bool cold = false;
  // Names the request: the same for all attempts.
  std::uint64_t invoker = 0;
  std::uint64_t sequence = 0;
  std::uint32_t attempt = 0;

  std::string_view text() const { return {reinterpret_cast<const char*>(payload.data()), payload.size()}; }
};

// Takes a reply part by part. write() returns when the part is on its way, and waits as long as nobody takes
// what was written before. It throws when the reply grows too long, or the host is gone: let it through.
// Where the host takes no stream, the parts are collected and sent when the function is done.
class FAASKIT_EXPORT Writer {
 public:
  Writer(const Writer&) = delete;
  Writer& operator=(const Writer&) = delete;
  virtual ~Writer() = default;
  virtual void write(std::string_view part) = 0;

 protected:
  Writer() = default;
};

struct Response {
  std::string payload{};
  std::string content_type = "application/octet-stream";  // at most 1 KiB: a longer one fails the call
  Metadata metadata{};  // at most 256 pairs and 32 KiB; ":status" is for whoever answers in HTTP
  // Set: makes the payload, instead of `payload`, after the handler returned; the Request is still valid.
  // Throwing cuts the reply short.
  std::function<void(Writer&)> stream{};
  // Set: the call failed with this message, and the rest is ignored. Throwing does the same.
  std::string error{};
};

using Handler = std::function<Response(const Request&)>;

struct Options {
  // The channel. Made close-on-exec before anything else, so that children of the function never hold it.
  int fd = 3;
  // What the host is told about this runtime.
  std::string runtime = "c++";
  // The function's own init; its time is told to the host. Throwing ends the sandbox before it is ready.
  std::function<void()> init{};
  // When the program began, if it took note: told to the host as the runtime's own start.
  std::chrono::steady_clock::time_point started{};
  // Runs before a call that follows an idle spell, which may have been spent frozen: the place to renew
  // connections that went stale. Throwing fails the call.
  std::function<void(std::chrono::microseconds idle_for)> on_thaw;
};

// Runs init, says hello, then serves calls until the host closes the channel
// or asks to leave. Returns the process's exit status:
//   0  the host is done with this sandbox
//   1  `fd` is not a channel
//   2  the host broke the protocol
//   3  init threw; stderr has what
FAASKIT_EXPORT int run(Handler handler, Options options = {});

}  // namespace faaskit::worker
