// Private: what a sandbox writes to stdout and stderr, cut into invocations: what is read between begin() and
// end() belongs to that one, all else to the sandbox itself. Everything is bounded: what is kept for the
// caller, what goes to the log of one invocation, and what goes there in a second; more is counted and
// dropped.
//
// On the thread of the sandbox's home shard.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <boost/asio/posix/stream_descriptor.hpp>

#include "faaskit/core/ids.h"
#include "faaskit/port/clock.h"
#include "faaskit/port/log_sink.h"
#include "faaskit/port/unique_fd.h"

namespace faaskit {

namespace asio = boost::asio;

class SandboxOutput {
 public:
  struct Options {
    std::string function;
    SandboxId sandbox{};
    std::shared_ptr<LogSink> logs;  // may be null
    std::size_t tail_bytes = 0;
    std::uint64_t max_log_bytes = 0;
    std::uint64_t max_log_bytes_per_second = 0;
    std::shared_ptr<Clock> clock;
  };
  explicit SandboxOutput(Options options) : options_(std::move(options)) {}

  // On error `pipe` is left where it was, and nothing is read.
  boost::system::error_code open(UniqueFd& pipe, const asio::any_io_executor& shard);
  // Reads whatever comes for as long as `owner`, which holds this object, is there.
  void watch(std::weak_ptr<const void> owner);
  // What is in the pipe by now. A flood waits there: one turn of the loop takes so much and no more.
  void read();
  void close();

  struct Written {
    std::string tail;
    std::uint64_t bytes = 0;
    std::uint64_t lost_bytes = 0;
  };
  void begin(const RequestId& request);
  Written end();

  // Of init, or what comes between two invocations.
  const std::string& tail() const { return written_.tail; }

 private:
  void take(std::string_view bytes);
  void tell_lost();
  void tell_lost(std::uint64_t& bytes, LogBound bound);
  std::uint64_t room_in_this_second();

  const Options options_;
  std::optional<asio::posix::stream_descriptor> pipe_;
  RequestId request_{};  // none: it is the sandbox's own
  Written written_;
  // Lost to either bound, and not in the log yet.
  std::uint64_t beyond_invocation_ = 0;
  std::uint64_t beyond_second_ = 0;
  TimePoint second_begun_ = TimePoint::min();
  std::uint64_t second_bytes_ = 0;
};

}  // namespace faaskit
