// A loop that never waits for ever, and the other end of a channel: a raw socket, or a real process.
#pragma once

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "catch.hpp"
#include "faaskit/uds/channel_factory.h"

namespace faaskit::uds {

class Loop {
 public:
  // Runs until `done`; false after ten seconds.
  template <typename Done>
  bool until(Done done) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
    while (!done()) {
      io_.restart();
      if (io_.run_one_until(deadline) == 0 && std::chrono::steady_clock::now() >= deadline) return false;
    }
    return true;
  }
  // Runs one handler, if one is ready within ten seconds.
  bool step() {
    io_.restart();
    return io_.run_one_for(std::chrono::seconds(10)) == 1;
  }
  // Runs what is ready now.
  void drain() {
    io_.restart();
    io_.poll();
  }
  asio::any_io_executor executor() { return io_.get_executor(); }

 private:
  asio::io_context io_{1};
};

struct Ends {
  UniqueFd host;  // non-blocking
  UniqueFd peer;
};

inline Ends make_ends() {
  int fds[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
  REQUIRE(::fcntl(fds[0], F_SETFL, O_NONBLOCK) == 0);
  return {UniqueFd(fds[0]), UniqueFd(fds[1])};
}

// A host's end, and what was heard on it.
struct Host {
  explicit Host(UniqueFd fd, ChannelLimits limits = {}) {
    auto factory = make_channel_factory(limits);
    REQUIRE(factory.ok());
    auto opened = (*factory)->open(std::move(fd), loop.executor());
    REQUIRE(opened.ok());
    channel = *std::move(opened);
    channel->on_closed([this](absl::Status why) { closed = std::move(why); });
  }

  absl::StatusOr<Hello> hello() {
    std::optional<absl::StatusOr<Hello>> heard;
    channel->async_hello([&heard](absl::StatusOr<Hello> hello) { heard = std::move(hello); });
    CHECK_FALSE(heard.has_value());  // posted, never inline
    REQUIRE(loop.until([&] { return heard.has_value(); }));
    return *std::move(heard);
  }

  std::size_t begin(ChannelCall call) {
    result.reset();
    const std::size_t sent = channel->begin_call(std::move(call), [this](CallResult ended) {
      CHECK_FALSE(result.has_value());  // once
      result = std::move(ended);
    });
    CHECK_FALSE(result.has_value());
    return sent;
  }

  CallResult& finish() {
    REQUIRE(loop.until([this] { return result.has_value(); }));
    return *result;
  }

  CallResult& call(ChannelCall call) {
    begin(std::move(call));
    return finish();
  }

  void begin_ping() {
    pinged.reset();
    channel->ping([this](absl::Status status) {
      CHECK_FALSE(pinged.has_value());  // once
      pinged = std::move(status);
    });
    CHECK_FALSE(pinged.has_value());
  }

  absl::Status finish_ping() {
    REQUIRE(loop.until([this] { return pinged.has_value(); }));
    return *pinged;
  }

  absl::Status ping() {
    begin_ping();
    return finish_ping();
  }

  Loop loop;
  std::unique_ptr<Channel> channel;
  std::optional<absl::Status> closed;
  std::optional<CallResult> result;
  std::optional<absl::Status> pinged;
};

inline Bytes to_bytes(std::string_view text) {
  const auto bytes = std::as_bytes(std::span(text.data(), text.size()));
  return {bytes.begin(), bytes.end()};
}

inline std::string to_text(const Bytes& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline ChannelCall call_of(std::string_view payload, std::string content_type = "") {
  ChannelCall call;
  call.token = 1;
  call.lease = {.request = {.invoker = 0xABCDEF, .sequence = 5}, .attempt = 1};
  call.timeout = std::chrono::seconds(5);
  call.content_type = std::move(content_type);
  call.payload = to_bytes(payload);
  return call;
}

// A real process with the channel on descriptor 3, and both outputs in one pipe.
class Process {
 public:
  Process(std::vector<std::string> argv, UniqueFd channel) {
    int out[2];
    REQUIRE(::pipe2(out, O_CLOEXEC) == 0);
    output_ = UniqueFd(out[0]);
    const UniqueFd write_end(out[1]);
    std::vector<char*> args;
    for (std::string& arg : argv) args.push_back(arg.data());
    args.push_back(nullptr);
    pid_ = ::fork();
    REQUIRE(pid_ >= 0);
    if (pid_ == 0) {
      // dup2 onto itself would leave close-on-exec set.
      if (channel.get() == 3) {
        ::fcntl(3, F_SETFD, 0);
      } else {
        ::dup2(channel.get(), 3);
      }
      ::dup2(write_end.get(), 1);
      ::dup2(write_end.get(), 2);
      ::execv(args[0], args.data());
      ::_exit(127);
    }
  }
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;
  ~Process() {
    if (pid_ < 0) return;
    ::kill(pid_, SIGKILL);
    wait();
  }

  pid_t pid() const { return pid_; }
  void signal(int number) const { REQUIRE(::kill(pid_, number) == 0); }
  void stop() const {
    signal(SIGSTOP);
    int status = 0;
    REQUIRE(::waitpid(pid_, &status, WUNTRACED) == pid_);
    REQUIRE(WIFSTOPPED(status));
  }
  // Reaps it. The status as waitpid() gives it.
  int wait() {
    int status = 0;
    while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    return status;
  }
  // Everything written until `text` appears; fails after ten seconds.
  std::string read_until(std::string_view text) {
    std::string all;
    while (all.find(text) == std::string::npos) {
      pollfd ready{output_.get(), POLLIN, 0};
      REQUIRE(::poll(&ready, 1, 10000) == 1);
      char buffer[4096];
      const ssize_t size = ::read(output_.get(), buffer, sizeof buffer);
      INFO(all);
      REQUIRE(size > 0);
      all.append(buffer, static_cast<std::size_t>(size));
    }
    return all;
  }

 private:
  pid_t pid_ = -1;
  UniqueFd output_;
};

}  // namespace faaskit::uds
