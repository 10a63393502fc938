#include "uds/connection.h"

#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <boost/asio/buffer.hpp>
#include <boost/asio/post.hpp>

#include "support/errno_status.h"

namespace faaskit::uds {
namespace {

// Read in one turn of the loop: a sandbox that never stops writing must not keep its shard from the others.
constexpr std::size_t kBytesPerTurn = 64 << 10;
constexpr std::size_t kMaxPieces = 16;
// Credit is owed, and at most one ping; a sandbox that earns so much of it without reading any is broken.
constexpr std::size_t kMaxControl = 16 << 10;

}  // namespace

Connection::Connection(const asio::any_io_executor& home, const ChannelLimits& limits,
                       std::shared_ptr<Clock> clock)
    : limits_(limits), clock_(std::move(clock)), socket_(home), protocol_(limits) {}

absl::Status Connection::adopt(UniqueFd fd) {
  int domain = 0;
  int type = 0;
  socklen_t size = sizeof domain;
  if (::getsockopt(fd.get(), SOL_SOCKET, SO_DOMAIN, &domain, &size) != 0 ||
      ::getsockopt(fd.get(), SOL_SOCKET, SO_TYPE, &type, &(size = sizeof type)) != 0) {
    return errno_status(errno, absl::StrCat("open channel on descriptor ", fd.get()));
  }
  if (domain != AF_UNIX || type != SOCK_STREAM) {
    return absl::InvalidArgumentError(
        absl::StrCat("open channel: descriptor ", fd.get(), " is not a Unix stream socket"));
  }
  boost::system::error_code ec;
  socket_.assign(asio::local::stream_protocol(), fd.get(), ec);
  if (ec) return errno_status(ec.value(), absl::StrCat("open channel on descriptor ", fd.get()));
  fd.release();
  return absl::OkStatus();
}

void Connection::async_hello(Channel::HelloHandler done) {
  hello_handler_ = std::move(done);
  if (!open_) return complete_hello(why_closed_);
  hello_timer_ = clock_->make_timer(socket_.get_executor());
  // `this`, and not an owner: the timer is ours, and its callback dies with it.
  hello_timer_->arm(clock_->now() + limits_.hello_timeout, [this] {
    fail(absl::DeadlineExceededError(
        absl::StrFormat("sandbox did not say hello within %d ms", limits_.hello_timeout.count())));
  });
  arm_read();
}

absl::Status Connection::check_idle(const char* what) const {
  if (call_handler_) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s while call %d is in flight, the limit is one at a time", what, protocol_.call_id()));
  }
  if (ping_handler_) {
    return absl::FailedPreconditionError(
        absl::StrFormat("%s while a ping is in flight, the limit is one at a time", what));
  }
  if (!protocol_.idle()) {
    return absl::FailedPreconditionError(absl::StrFormat("%s before the sandbox's hello", what));
  }
  return absl::OkStatus();
}

std::size_t Connection::begin_call(ChannelCall call, Channel::CallHandler done) {
  // Nothing of a call in flight may be touched before this one is accepted.
  absl::Status status;
  if (!open_) {
    status = absl::UnavailableError(absl::StrCat("channel is closed: ", std::string(why_closed_.message())));
  } else if (absl::Status busy = check_idle("a call"); !busy.ok()) {
    status = std::move(busy);
  } else {
    status = protocol_.begin_call(call);
  }
  if (!status.ok()) {
    refuse_call(std::move(status), std::move(call.payload), std::move(done));
    return 0;
  }
  call_handler_ = std::move(done);
  stream_ = std::move(call.stream);
  call_settled_ = false;
  sent_of_call_ = 0;
  writer_.start(protocol_.head(), protocol_.call_id(), std::move(call.payload),
                limits_.max_frame_payload_bytes);
  protocol_.set_sending(true);
  const std::size_t sent = send_once();
  if (open_ && unsent()) arm_write();
  return sent;
}

void Connection::ping(Channel::PingHandler done) {
  if (!open_) {
    return complete_ping(
        absl::UnavailableError(absl::StrCat("channel is closed: ", std::string(why_closed_.message()))),
        std::move(done));
  }
  if (absl::Status busy = check_idle("a ping"); !busy.ok()) {
    return complete_ping(std::move(busy), std::move(done));
  }
  ping_handler_ = std::move(done);
  protocol_.begin_ping();
  if (!take_control()) return;
  send_once();
  if (open_ && unsent()) arm_write();
}

std::size_t Connection::send_once() {
  std::array<iovec, kMaxPieces> pieces;
  std::size_t count = 0;
  const std::size_t control = control_.size() - control_at_;
  if (control > 0) pieces[count++] = {control_.data() + control_at_, control};
  count += writer_.gather(std::span(pieces).subspan(count));
  if (count == 0 || deaf_) return 0;

  msghdr message{};
  message.msg_iov = pieces.data();
  message.msg_iovlen = count;
  const ssize_t sent = ::sendmsg(socket_.native_handle(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
  if (sent < 0) {
    const int error = errno;
    if (error == EAGAIN || error == EINTR) return 0;
    if (error == EPIPE || error == ECONNRESET) {
      // Why the peer is gone is told by the reading side alone (reset, or all was read), after what it
      // wrote last; one that merely stopped reading comes to the same end.
      // The kernel tells of a reset once: if it told it here, the reading side will find a plain end.
      reset_ = reset_ || error == ECONNRESET;
      deaf_ = true;
      ::shutdown(socket_.native_handle(), SHUT_RDWR);
      return 0;
    }
    fail(errno_status(error, "send to sandbox"));
    return 0;
  }
  const std::size_t of_control = std::min(control, static_cast<std::size_t>(sent));
  control_at_ += of_control;
  if (control_at_ == control_.size()) {
    control_.clear();
    control_at_ = 0;
  }
  const std::size_t of_call = static_cast<std::size_t>(sent) - of_control;
  writer_.advance(of_call);
  protocol_.set_sending(!writer_.done());
  sent_of_call_ += of_call;
  return of_call;
}

void Connection::arm_write() {
  if (write_armed_) return;
  write_armed_ = true;
  socket_.async_wait(asio::socket_base::wait_write,
                     [self = shared_from_this()](const boost::system::error_code& ec) {
                       self->write_armed_ = false;
                       if (ec || !self->open_) return;
                       self->send_once();
                       if (self->open_ && self->unsent()) self->arm_write();
                     });
}

void Connection::arm_read() {
  socket_.async_receive(asio::buffer(small_),
                        [self = shared_from_this()](const boost::system::error_code& ec, std::size_t size) {
                          self->on_read(ec, size);
                        });
}

void Connection::on_read(const boost::system::error_code& ec, std::size_t size) {
  if (!open_) return;
  if (ec) return on_end(ec == asio::error::eof ? 0 : ec.value());
  if (!consume(std::span(small_).first(size))) return;
  if (size == small_.size() && !read_on()) return;
  arm_read();
}

bool Connection::read_on() {
  std::array<std::byte, kBytesPerTurn - sizeof small_> scratch;
  const ssize_t size = ::recv(socket_.native_handle(), scratch.data(), scratch.size(), MSG_DONTWAIT);
  // The end, of whatever kind, is found again by the read that is armed next. Except an error: it is told
  // once. So is what did not fit; that read waits its turn behind the other sandboxes of the shard.
  if (size == 0) return true;
  if (size < 0) {
    if (errno == EAGAIN || errno == EINTR) return true;
    on_end(errno);
    return false;
  }
  return consume(std::span(scratch).first(static_cast<std::size_t>(size)));
}

bool Connection::consume(std::span<const std::byte> input) {
  while (true) {
    switch (protocol_.receive(input)) {
      case wire::HostProtocol::Event::need_input: return send_control();
      case wire::HostProtocol::Event::hello:
        hello_timer_.reset();
        complete_hello(protocol_.hello());
        break;
      case wire::HostProtocol::Event::head:
        stream_head();
        if (!open_) return false;
        break;
      case wire::HostProtocol::Event::body:
        stream_part();
        if (!open_) return false;
        break;
      case wire::HostProtocol::Event::reply:
        writer_.reset();
        end_stream();
        complete_call({.status = absl::OkStatus(),
                       .reply = protocol_.take_reply(),
                       .never_began = false,
                       .payload = {}});
        break;
      case wire::HostProtocol::Event::pong:
        complete_ping(absl::OkStatus(), std::exchange(ping_handler_, nullptr));
        break;
      case wire::HostProtocol::Event::failed: fail(protocol_.error()); return false;
    }
  }
}

void Connection::stream_head() {
  taken_ = std::make_shared<TakenLedger>(socket_.get_executor(), weak_from_this());
  // Held: it may close the channel, which lets go of it.
  const std::shared_ptr<ReplyStream> stream = stream_;
  stream->head(protocol_.take_head());
}

void Connection::stream_part() {
  const std::shared_ptr<ReplyStream> stream = stream_;
  Bytes part = protocol_.take_body();
  const std::size_t size = part.size();
  stream->body(std::move(part), taken_->slip(size));
}

void Connection::end_stream() {
  if (taken_) taken_->close();
  taken_.reset();
  stream_.reset();
}

void Connection::on_taken(std::uint64_t bytes) {
  protocol_.taken(bytes);
  send_control();
}

bool Connection::take_control() {
  const std::vector<std::byte> more = protocol_.take_control();
  control_.insert(control_.end(), more.begin(), more.end());
  if (control_.size() > kMaxControl) {
    fail(absl::InternalError(
        absl::StrFormat("sandbox does not read: %d bytes of credit wait for it, the limit is %d",
                        control_.size(), kMaxControl)));
    return false;
  }
  return true;
}

bool Connection::send_control() {
  if (!protocol_.has_control()) return open_;
  if (!take_control()) return false;
  if (!write_armed_) send_once();
  if (open_ && unsent()) arm_write();
  return open_;
}

void Connection::on_end(int error) {
  if (error == 0 && reset_) error = ECONNRESET;
  if (error == 0) {
    return fail(absl::UnavailableError(
        absl::StrCat("sandbox ended its channel ", std::string(protocol_.position()))));
  }
  if (error == ECONNRESET) {
    return fail(absl::UnavailableError(absl::StrCat("sandbox died with unread data in its channel ",
                                                    std::string(protocol_.position()), " (ECONNRESET)")),
                true);
  }
  fail(errno_status(error, "receive from sandbox"));
}

void Connection::shut() {
  open_ = false;
  boost::system::error_code ignored;
  socket_.close(ignored);
  writer_.reset();
  control_ = {};
  control_at_ = 0;
  if (hello_timer_) hello_timer_->cancel();
  end_stream();
}

void Connection::fail(absl::Status why, bool reset) {
  if (!open_) return;
  const bool never_began = sent_of_call_ == 0 || (reset && protocol_.reset_proves_never_began());
  Bytes payload = writer_.take_payload();
  if (!never_began) payload = {};
  shut();
  why_closed_ = why;
  if (call_handler_ && !call_settled_) {
    complete_call(
        {.status = std::move(why), .reply = {}, .never_began = never_began, .payload = std::move(payload)});
  } else if (hello_handler_) {
    complete_hello(std::move(why));
  } else if (ping_handler_) {
    complete_ping(std::move(why), std::exchange(ping_handler_, nullptr));
  } else if (closed_handler_) {
    asio::post(socket_.get_executor(), [self = shared_from_this()] {
      if (self->abandoned_ || !self->closed_handler_) return;
      Channel::ClosedHandler closed = std::exchange(self->closed_handler_, nullptr);
      closed(self->why_closed_);
    });
  }
}

void Connection::close(absl::Status why) {
  const bool waited_for = (call_handler_ && !call_settled_) || hello_handler_ || ping_handler_;
  if (!waited_for) closed_handler_ = nullptr;
  fail(why.ok() ? absl::CancelledError("channel closed by its owner") : std::move(why));
}

void Connection::abandon() {
  abandoned_ = true;
  if (open_) shut();
  hello_timer_.reset();
  hello_handler_ = nullptr;
  call_handler_ = nullptr;
  ping_handler_ = nullptr;
  closed_handler_ = nullptr;
}

void Connection::complete_call(CallResult result) {
  result_ = std::move(result);
  call_settled_ = true;
  asio::post(socket_.get_executor(), [self = shared_from_this()] {
    if (self->abandoned_) return;
    // Moved out first: the handler may begin the next call, or destroy the channel.
    Channel::CallHandler done = std::exchange(self->call_handler_, nullptr);
    CallResult settled = std::move(self->result_);
    done(std::move(settled));
  });
}

void Connection::refuse_call(absl::Status why, Bytes payload, Channel::CallHandler done) {
  CallResult refused{
      .status = std::move(why), .reply = {}, .never_began = true, .payload = std::move(payload)};
  asio::post(socket_.get_executor(),
             [self = shared_from_this(), done = std::move(done), refused = std::move(refused)]() mutable {
               if (!self->abandoned_) done(std::move(refused));
             });
}

void Connection::complete_hello(absl::StatusOr<Hello> result) {
  asio::post(socket_.get_executor(),
             [self = shared_from_this(), done = std::exchange(hello_handler_, nullptr),
              result = std::move(result)]() mutable {
               if (!self->abandoned_) done(std::move(result));
             });
}

void Connection::complete_ping(absl::Status status, Channel::PingHandler done) {
  asio::post(socket_.get_executor(),
             [self = shared_from_this(), done = std::move(done), status = std::move(status)]() mutable {
               if (!self->abandoned_) done(std::move(status));
             });
}

}  // namespace faaskit::uds
