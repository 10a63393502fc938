// If these failed, a hostile sandbox could cost its host memory, time or a caller's answer. Each way of
// breaking the protocol, over a real socket: the channel is cut, the error says by what.
#include <sys/ioctl.h>

#include "raw_peer.h"

namespace faaskit::uds {
namespace {

ByteVector log_frame(std::uint64_t call, std::string_view text) {
  return frame_of(FrameType::log, call, pb::Log(), text);
}

ByteVector head_frame(std::uint64_t call, std::uint64_t bytes) {
  pb::ReplyHead head;
  head.set_payload_bytes(bytes);
  return frame_of(FrameType::reply_head, call, head);
}

ByteVector body_frame(std::uint64_t call, std::string_view payload) {
  return frame({.type = FrameType::body, .call_id = call}, "", payload);
}

// Writes as much of it, over and over, as the host takes before it cuts the channel.
std::size_t flood(Pair& t, const ByteVector& bytes, std::size_t most) {
  std::size_t written = 0;
  while (t.host.channel->is_open() && written < most) {
    const ssize_t sent = ::send(t.peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) written += static_cast<std::size_t>(sent);
    // A frame that was cut goes on where it was cut.
    if (sent > 0 && static_cast<std::size_t>(sent) < bytes.size()) {
      std::span<const std::byte> left = std::span(bytes).subspan(static_cast<std::size_t>(sent));
      while (!left.empty() && t.host.channel->is_open()) {
        REQUIRE(t.host.loop.step());
        const ssize_t more = ::send(t.peer.get(), left.data(), left.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (more > 0) left = left.subspan(static_cast<std::size_t>(more));
      }
      written += bytes.size() - static_cast<std::size_t>(sent) - left.size();
    }
    if (sent < 0) REQUIRE(t.host.loop.step());
  }
  return written;
}

// Kept in a socket, at the least: twice what the kernel was asked for, for both ends.
constexpr std::size_t kSocketHolds = 1 << 20;

}  // namespace

TEST_CASE("whatever breaks the protocol in a call is told by name", "[uds][hostile]") {
  ChannelLimits limits;
  limits.max_envelope_bytes = 48 << 10;
  limits.max_frame_payload_bytes = 1 << 20;
  limits.max_reply_bytes = 3 << 20;
  Pair t(limits);
  t.host.begin(call_of("x"));
  ByteVector bytes;
  std::string error;
  SECTION("garbage") {
    bytes = frame({.version = 7}, "garbage");
    bytes[0] = std::byte{'X'};
    error = "frame begins with bytes 54494b58 instead of the magic 54494b46";
  }
  SECTION("another version") {
    bytes = frame({.version = 7, .type = FrameType::end, .call_id = 1});
    error = "frame has version 7, only 1 is spoken here";
  }
  SECTION("flags of tomorrow") {
    bytes = frame({.type = FrameType::end, .flags = 0x40, .call_id = 1});
    error = "frame has flags 0040, known are 0003";
  }
  SECTION("an oversize payload, of which nothing comes") {
    bytes.resize(wire::kHeaderBytes);
    wire::encode_header({.type = FrameType::end, .call_id = 1, .payload_bytes = UINT32_MAX}, bytes.data());
    error = "frame payload of 4294967295 bytes, the limit is 1048576";
  }
  SECTION("an oversize envelope, of which nothing comes") {
    bytes.resize(wire::kHeaderBytes);
    wire::encode_header({.type = FrameType::end, .call_id = 1, .envelope_bytes = (48 << 10) + 1},
                        bytes.data());
    error = "frame envelope of 49153 bytes, the limit is 49152";
  }
  SECTION("the answer of another call") {
    bytes = end_frame(2);
    error = "END for call 2 while call 1 runs";
  }
  SECTION("hello again") {
    bytes = hello_frame();
    error = "HELLO is not for a sandbox to send now";
  }
  SECTION("what is for hosts to send") {
    bytes = frame({.type = FrameType::call, .call_id = 1});
    error = "CALL is not for a sandbox to send now";
  }
  SECTION("a type that nobody knows") {
    bytes = frame({.type = static_cast<FrameType>(77), .call_id = 1});
    error = "frame of unknown type 77";
  }
  SECTION("a reply beyond the limit") {
    bytes = head_frame(1, (3 << 20) + 1);
    error = "reply of 3145729 bytes announced, the limit is 3145728";
  }
  SECTION("body beyond the credit: two frames at once") {
    // In one write, before any credit can have been given.
    bytes = head_frame(1, 3 << 20) + body_frame(1, std::string(500 << 10, 'b')) +
            body_frame(1, std::string((524 << 10) + 1, 'b'));
    error = "1048577 bytes of body, the credit given was 1048576";
  }
  SECTION("more than was announced") {
    bytes = head_frame(1, 3) + body_frame(1, "four");
    error = "reply has 4 bytes, its head announced 3";
  }
  SECTION("an envelope that is none") {
    bytes = frame({.type = FrameType::end, .call_id = 1}, std::string("\x0a\x7f", 2));
    error = "END envelope of 2 bytes cannot be parsed";
  }
  SECTION("a message as long as it likes") {
    pb::End end;
    end.set_status(1);
    end.set_message(std::string(8193, 'm'));
    bytes = frame_of(FrameType::end, 1, end);
    error = "END message of 8193 bytes, the limit is 8192";
  }
  SECTION("a header for the response's headers") {
    pb::End end;
    pb::Pair& pair = *end.add_metadata();
    pair.set_name("x");
    pair.set_value("1\r\nset-cookie: a=b");
    bytes = frame_of(FrameType::end, 1, end);
    error = "'x' in a reply's metadata has a line break or a NUL in its value";
  }
  // More than a socket may hold at once.
  for (std::span<const std::byte> left = bytes; !left.empty() && t.host.channel->is_open();) {
    const ssize_t sent = ::send(t.peer.get(), left.data(), left.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent > 0) left = left.subspan(static_cast<std::size_t>(sent));
    if (sent < 0) REQUIRE(t.host.loop.step());
  }
  const CallResult& result = t.host.finish();
  CHECK(result.status == absl::InternalError("sandbox broke the protocol: " + error));
  CHECK_FALSE(result.never_began);
  CHECK_FALSE(t.host.channel->is_open());
  t.host.loop.drain();
  CHECK_FALSE(t.host.closed.has_value());  // told once
}

TEST_CASE("a flood is cut at its budget, and not later", "[uds][hostile]") {
  Pair t;
  constexpr std::size_t kBudget = 256 << 10;
  SECTION("of LOG in a call") {
    t.host.begin(call_of("x"));
    const std::size_t written = flood(t, log_frame(1, std::string(1000, 'l')), 64 << 20);
    CHECK(written < kBudget + (64 << 10) + kSocketHolds);
    CHECK_THAT(std::string(t.host.finish().status.message()),
               ContainsSubstring("bytes of LOG or to skip in one call, the limit is 262144"));
  }
  SECTION("of frames to skip while idle") {
    const ByteVector skipped = frame({.type = static_cast<FrameType>(99), .flags = wire::kSkipIfUnknown}, "",
                                     std::string(50000, 's'));
    const std::size_t written = flood(t, skipped, 64 << 20);
    CHECK(written < kBudget + (64 << 10) + kSocketHolds);
    REQUIRE(t.host.loop.until([&] { return t.host.closed.has_value(); }));
    CHECK_THAT(std::string(t.host.closed->message()),
               ContainsSubstring("bytes of LOG or to skip in one idle spell, the limit is 262144"));
  }
  SECTION("of LOG while idle: the first one is one too many") {
    write_all(t.peer, log_frame(0, "hello?"));
    REQUIRE(t.host.loop.until([&] { return t.host.closed.has_value(); }));
    CHECK_THAT(std::string(t.host.closed->message()), ContainsSubstring("LOG for call 0 while no call runs"));
  }
  CHECK_FALSE(t.host.channel->is_open());
}

TEST_CASE("a flood before the hello", "[uds][hostile]") {
  Ends ends = make_ends();
  Host host(std::move(ends.host));
  const ByteVector one = frame({.type = static_cast<FrameType>(99), .flags = wire::kSkipIfUnknown});
  ByteVector many;
  for (int i = 0; i < 1025; ++i) many.insert(many.end(), one.begin(), one.end());
  write_all(ends.peer, many);
  CHECK_THAT(std::string(host.hello().status().message()),
             ContainsSubstring("1025 frames of LOG or to skip in one idle spell, the limit is 1024"));
}

TEST_CASE("half a frame and then silence holds up nobody but its own caller", "[uds][hostile]") {
  const ByteVector answer = end_frame(1, "answer");
  const std::size_t half = GENERATE(std::size_t{1}, wire::kHeaderBytes, wire::kHeaderBytes + 3);
  SECTION("in a call: its deadline ends it") {
    Pair t;
    t.host.begin(call_of("x"));
    write_all(t.peer, std::span(answer).first(half));
    t.host.loop.drain();
    CHECK_FALSE(t.host.result.has_value());
    CHECK(t.host.channel->is_open());
    t.host.channel->close(absl::DeadlineExceededError("too late"));
    CHECK(t.host.finish().status == absl::DeadlineExceededError("too late"));
    CHECK_FALSE(t.host.result->never_began);
  }
  SECTION("in a ping, likewise") {
    Pair t;
    t.host.begin_ping();
    const ByteVector pong = frame_of(FrameType::ping, 0, pb::Ping(), {}, wire::kPong);
    write_all(t.peer, std::span(pong).first(std::min(half, pong.size() - 1)));
    t.host.loop.drain();
    CHECK_FALSE(t.host.pinged.has_value());
    t.host.channel->close(absl::DeadlineExceededError("no sign of life"));
    CHECK(t.host.finish_ping() == absl::DeadlineExceededError("no sign of life"));
  }
  SECTION("instead of a hello: its timeout ends it") {
    Ends ends = make_ends();
    ChannelLimits limits;
    limits.hello_timeout = std::chrono::milliseconds(20);
    Host host(std::move(ends.host), limits);
    const ByteVector hello = hello_frame();
    write_all(ends.peer, std::span(hello).first(half));
    CHECK(host.hello().status() == absl::DeadlineExceededError("sandbox did not say hello within 20 ms"));
  }
}

TEST_CASE("half a frame and then death", "[uds][hostile]") {
  Pair t;
  const ByteVector answer = end_frame(1, "answer");
  const std::size_t half = GENERATE(std::size_t{1}, wire::kHeaderBytes, wire::kHeaderBytes + 3);
  t.host.begin(call_of("x"));
  const bool read_call = GENERATE(true, false);
  if (read_call) {
    ByteVector received;
    REQUIRE(read_some(t.peer, received) > 0);
  }
  write_all(t.peer, std::span(answer).first(half));
  t.peer.reset();
  const CallResult& result = t.host.finish();
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring("in the middle of a frame"));
  // Of the answer's first header nothing was understood yet if it was not whole. Died with the call unread,
  // the function did not begin, whatever the sandbox began to say.
  CHECK(result.never_began == (!read_call && half < wire::kHeaderBytes));
  CHECK_FALSE(t.host.channel->is_open());
}

TEST_CASE("an answer after the deadline is heard by nobody", "[uds][hostile]") {
  Pair t;
  t.host.begin(call_of("x"));
  SECTION("on its way already") { write_all(t.peer, end_frame(1, "late")); }
  t.host.channel->close(absl::DeadlineExceededError("too late"));
  ::send(t.peer.get(), "late", 4, MSG_NOSIGNAL);
  CHECK(t.host.finish().status == absl::DeadlineExceededError("too late"));
  CHECK(t.host.result->reply.payload.empty());
  t.host.loop.drain();
  CHECK_FALSE(t.host.closed.has_value());
  pollfd ready{t.peer.get(), POLLRDHUP, 0};
  CHECK(::poll(&ready, 1, 5000) == 1);
}

TEST_CASE("a sandbox that earns credit and never reads it is cut off", "[uds][hostile]") {
  Ends ends = make_ends();
  // The less the socket holds, the sooner.
  const int least = 1;
  REQUIRE(::setsockopt(ends.host.get(), SOL_SOCKET, SO_SNDBUF, &least, sizeof least) == 0);
  struct Taker final : ReplyStream {
    void head(ReplyHead) override {}
    void body(Bytes, Taken) override {}  // dropped: taken
  };
  Pair t({}, std::move(ends));
  ChannelCall call = call_of("x");
  call.stream = std::make_shared<Taker>();
  t.host.begin(std::move(call));
  pb::ReplyHead head;
  head.set_unknown_length(1);
  write_all(t.peer, frame_of(FrameType::reply_head, 1, head));
  const std::size_t written = flood(t, body_frame(1, std::string(256 << 10, 'b')), std::size_t{1} << 30);
  CHECK(written < 900 << 20);
  CHECK_THAT(std::string(t.host.finish().status.message()), ContainsSubstring("sandbox does not read: "));
  CHECK_THAT(std::string(t.host.result->status.message()),
             ContainsSubstring("bytes of credit wait for it, the limit is 16384"));
}

}  // namespace faaskit::uds
