#include "faaskit/uds/channel_factory.h"

#include <utility>

#include <absl/strings/str_format.h>

#include "uds/connection.h"

namespace faaskit::uds {
namespace {

class UdsChannel final : public Channel {
 public:
  explicit UdsChannel(std::shared_ptr<Connection> connection) : connection_(std::move(connection)) {}
  ~UdsChannel() override { connection_->abandon(); }

  void async_hello(HelloHandler done) override { connection_->async_hello(std::move(done)); }
  void on_closed(ClosedHandler closed) override { connection_->on_closed(std::move(closed)); }
  std::size_t begin_call(ChannelCall call, CallHandler done) override {
    return connection_->begin_call(std::move(call), std::move(done));
  }
  void ping(PingHandler done) override { connection_->ping(std::move(done)); }
  void close(absl::Status why) override { connection_->close(std::move(why)); }
  bool is_open() const override { return connection_->is_open(); }

 private:
  std::shared_ptr<Connection> connection_;
};

class UdsChannelFactory final : public ChannelFactory {
 public:
  UdsChannelFactory(const ChannelLimits& limits, std::shared_ptr<Clock> clock)
      : limits_(limits), clock_(std::move(clock)) {}

  absl::StatusOr<std::unique_ptr<Channel>> open(UniqueFd fd, asio::any_io_executor home) override {
    auto connection = std::make_shared<Connection>(home, limits_, clock_);
    if (absl::Status status = connection->adopt(std::move(fd)); !status.ok()) return status;
    return std::make_unique<UdsChannel>(std::move(connection));
  }

 private:
  const ChannelLimits limits_;
  const std::shared_ptr<Clock> clock_;
};

absl::Status within(std::string_view name, std::uint64_t value, std::uint64_t least, std::uint64_t most) {
  if (value >= least && value <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("ChannelLimits::%s is %d; %d to %d is possible", name, value, least, most));
}

// The header counts in 32 bits, and workers read envelopes of up to 64 KiB. They may send a message,
// a content type and metadata as long as the protocol has them, which must not cut their channel.
absl::Status check(const ChannelLimits& limits) {
  constexpr std::size_t kGiB = 1 << 30;
  if (auto s = within("max_envelope_bytes", limits.max_envelope_bytes, 48 << 10, 64 << 10); !s.ok()) return s;
  if (auto s = within("max_frame_payload_bytes", limits.max_frame_payload_bytes, 1, kGiB); !s.ok()) return s;
  if (auto s = within("max_payload_bytes", limits.max_payload_bytes, 0, kGiB); !s.ok()) return s;
  if (auto s = within("max_reply_bytes", limits.max_reply_bytes, 1, kGiB); !s.ok()) return s;
  if (auto s = within("max_streamed_bytes", limits.max_streamed_bytes, 1, std::uint64_t{1} << 60); !s.ok())
    return s;
  if (limits.hello_timeout.count() <= 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "ChannelLimits::hello_timeout is %d ms; it must be positive", limits.hello_timeout.count()));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<ChannelFactory>> make_channel_factory(ChannelLimits limits,
                                                                     std::shared_ptr<Clock> clock) {
  if (absl::Status status = check(limits); !status.ok()) return status;
  if (clock == nullptr) return absl::InvalidArgumentError("make_channel_factory: the clock is null");
  return std::make_unique<UdsChannelFactory>(limits, std::move(clock));
}

}  // namespace faaskit::uds
