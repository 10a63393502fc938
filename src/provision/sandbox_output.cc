#include "provision/sandbox_output.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace faaskit {
namespace {

constexpr std::size_t kPerTurn = 256 << 10;

}  // namespace

boost::system::error_code SandboxOutput::open(UniqueFd& pipe, const asio::any_io_executor& shard) {
  boost::system::error_code error;
  pipe_.emplace(shard);
  pipe_->assign(pipe.get(), error);
  if (error) {
    pipe_.reset();
  } else {
    (void)pipe.release();
  }
  return error;
}

void SandboxOutput::watch(std::weak_ptr<const void> owner) {
  if (!pipe_) return;
  pipe_->async_wait(asio::posix::stream_descriptor::wait_read,
                    [this, owner = std::move(owner)](const boost::system::error_code& error) mutable {
                      auto alive = owner.lock();
                      if (!alive || error) return;
                      read();
                      watch(std::move(owner));
                    });
}

void SandboxOutput::close() {
  tell_lost();
  pipe_.reset();
}

void SandboxOutput::read() {
  char buffer[16 << 10];
  for (std::size_t budget = kPerTurn; pipe_ && budget > 0;) {
    const ssize_t got = ::read(pipe_->native_handle(), buffer, std::min(budget, sizeof buffer));
    if (got > 0) {
      take({buffer, static_cast<std::size_t>(got)});
      budget -= static_cast<std::size_t>(got);
      if (static_cast<std::size_t>(got) < sizeof buffer) return;
      continue;
    }
    if (got < 0 && errno == EINTR) continue;
    if (got == 0 || (errno != EAGAIN && errno != EWOULDBLOCK)) pipe_.reset();  // all writers are gone
    return;
  }
}

void SandboxOutput::take(std::string_view bytes) {
  std::string& tail = written_.tail;
  tail.append(bytes);
  if (tail.size() > options_.tail_bytes) tail.erase(0, tail.size() - options_.tail_bytes);
  const std::uint64_t room = options_.max_log_bytes - std::min(options_.max_log_bytes, written_.bytes);
  const std::size_t allowed = std::min<std::size_t>(bytes.size(), room);
  const std::size_t taken = std::min<std::size_t>(allowed, room_in_this_second());
  beyond_invocation_ += bytes.size() - allowed;
  beyond_second_ += allowed - taken;
  written_.lost_bytes += bytes.size() - taken;
  written_.bytes += taken;
  second_bytes_ += taken;
  if (taken == 0 || !options_.logs) return;
  options_.logs->write({.function = options_.function,
                        .sandbox = options_.sandbox,
                        .request = request_,
                        .bytes = std::string(bytes.substr(0, taken)),
                        .lost_bytes = 0});
}

std::uint64_t SandboxOutput::room_in_this_second() {
  const TimePoint now = options_.clock->now();
  if (second_begun_ == TimePoint::min() || now - second_begun_ >= std::chrono::seconds(1)) {
    second_begun_ = now;
    second_bytes_ = 0;
  }
  return options_.max_log_bytes_per_second - second_bytes_;
}

void SandboxOutput::tell_lost() {
  tell_lost(beyond_invocation_, LogBound::invocation);
  tell_lost(beyond_second_, LogBound::second);
}

void SandboxOutput::tell_lost(std::uint64_t& bytes, LogBound bound) {
  const std::uint64_t lost = std::exchange(bytes, 0);
  if (lost == 0 || !options_.logs) return;
  options_.logs->write({.function = options_.function,
                        .sandbox = options_.sandbox,
                        .request = request_,
                        .bytes = {},
                        .lost_bytes = lost,
                        .bound = bound});
}

void SandboxOutput::begin(const RequestId& request) {
  // What was written before belongs to the sandbox, not to this invocation.
  read();
  tell_lost();
  written_ = {};
  request_ = request;
}

SandboxOutput::Written SandboxOutput::end() {
  tell_lost();
  request_ = {};
  return std::exchange(written_, {});
}

}  // namespace faaskit
