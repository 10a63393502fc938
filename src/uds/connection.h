// Private: the socket and the protocol of one channel. Outlives the Channel only by what is already queued
// on the executor. One thread, the home shard; see port/channel.h for every promise.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include <boost/asio/local/stream_protocol.hpp>

#include "faaskit/port/channel.h"
#include "faaskit/port/clock.h"
#include "uds/taken.h"
#include "wire/call_writer.h"
#include "wire/host_protocol.h"

namespace faaskit::uds {

class Connection : public std::enable_shared_from_this<Connection> {
 public:
  Connection(const asio::any_io_executor& home, const ChannelLimits& limits, std::shared_ptr<Clock> clock);

  absl::Status adopt(UniqueFd fd);

  void async_hello(Channel::HelloHandler done);
  void on_closed(Channel::ClosedHandler closed) { closed_handler_ = std::move(closed); }
  std::size_t begin_call(ChannelCall call, Channel::CallHandler done);
  void ping(Channel::PingHandler done);
  void close(absl::Status why);
  bool is_open() const { return open_; }
  // The Channel is gone: no handler runs any more.
  void abandon();
  // The receiver of the reply in flight took so many bytes.
  void on_taken(std::uint64_t bytes);

 private:
  void arm_read();
  void on_read(const boost::system::error_code& ec, std::size_t size);
  // What did not fit the small buffer, up to a turn's share. False: the channel failed.
  bool read_on();
  bool consume(std::span<const std::byte> input);
  void stream_head();
  void stream_part();
  // No stream call comes after it.
  void end_stream();
  // What the protocol owes the sandbox, to be sent first. False: the channel failed.
  bool take_control();
  bool send_control();
  void on_end(int error);

  // One gathering write. Returns the bytes of the call in it.
  std::size_t send_once();
  bool unsent() const { return !deaf_ && (control_at_ < control_.size() || !writer_.done()); }
  void arm_write();

  // Nothing is in flight.
  absl::Status check_idle(const char* what) const;
  void shut();
  void fail(absl::Status why, bool reset = false);
  void complete_call(CallResult result);
  void refuse_call(absl::Status why, Bytes payload, Channel::CallHandler done);
  void complete_hello(absl::StatusOr<Hello> result);
  void complete_ping(absl::Status status, Channel::PingHandler done);

  const ChannelLimits limits_;
  const std::shared_ptr<Clock> clock_;
  asio::local::stream_protocol::socket socket_;
  std::unique_ptr<Timer> hello_timer_;
  wire::HostProtocol protocol_;
  wire::CallWriter writer_;

  bool open_ = true;
  bool abandoned_ = false;
  bool write_armed_ = false;
  bool deaf_ = false;   // the peer reads no more; its end is being read
  bool reset_ = false;  // a send met ECONNRESET
  absl::Status why_closed_;

  std::vector<std::byte> control_;
  std::size_t control_at_ = 0;
  std::size_t sent_of_call_ = 0;

  Channel::HelloHandler hello_handler_;
  Channel::CallHandler call_handler_;
  Channel::PingHandler ping_handler_;
  Channel::ClosedHandler closed_handler_;
  std::shared_ptr<ReplyStream> stream_;
  std::shared_ptr<TakenLedger> taken_;  // from the reply's head to its end
  // Results wait here between their posting and their delivery, so that what is posted stays small.
  bool call_settled_ = false;
  CallResult result_;

  // Idle sandboxes are many, so what each holds is small; a longer read goes on from the stack.
  std::array<std::byte, 4096> small_;
};

}  // namespace faaskit::uds
