// If these failed, a sandbox could pass off a wrong answer as a call's, or make the host hold what it sends.
#include "wire/host_protocol.h"

#include <random>

#include "catch.hpp"
#include "wire/envelope.pb.h"
#include "wire/frames.h"

namespace faaskit::wire {
namespace {

using Event = HostProtocol::Event;

ByteVector hello(std::uint32_t min = 1, std::uint32_t max = 1) {
  pb::Hello message;
  message.set_min_version(min);
  message.set_max_version(max);
  message.set_runtime("test 1.0");
  return frame_of(FrameType::hello, 0, message);
}

ByteVector end(std::uint64_t call, std::string_view payload = {}, std::uint32_t status = 0,
               const std::string& text = "", const std::string& content_type = "") {
  pb::End message;
  message.set_status(status);
  message.set_message(text);
  message.set_content_type(content_type);
  message.set_run_time_us(12);
  return frame_of(FrameType::end, call, message, payload);
}

ByteVector reply_head(std::uint64_t call, std::uint64_t bytes) {
  pb::ReplyHead message;
  message.set_payload_bytes(bytes);
  message.set_content_type("text/plain");
  return frame_of(FrameType::reply_head, call, message);
}

ByteVector body(std::uint64_t call, std::string_view payload) {
  return frame({.type = FrameType::body, .call_id = call}, "", payload);
}

Event feed(HostProtocol& protocol, const ByteVector& bytes) {
  std::span<const std::byte> input = bytes;
  return protocol.receive(input);
}

ChannelCall call_of(std::size_t bytes = 3) {
  ChannelCall call;
  call.payload.resize(bytes);
  return call;
}

// A protocol that has seen a hello and is in its first call.
struct InCall {
  explicit InCall(ChannelLimits limits = {}) : protocol(limits) {
    REQUIRE(feed(protocol, hello()) == Event::hello);
    REQUIRE(protocol.begin_call(call_of()).ok());
  }
  // Feeds what must break the protocol; returns the error.
  std::string broken_by(const ByteVector& bytes) {
    CHECK(feed(protocol, bytes) == Event::failed);
    CHECK(absl::IsInternal(protocol.error()));
    CHECK(protocol.failed());
    CHECK(feed(protocol, end(1)) == Event::failed);  // stays so
    return std::string(protocol.error().message());
  }
  HostProtocol protocol;
};

}  // namespace

// If it failed: what a sandbox claims would overflow where it is compared with what was measured.
TEST_CASE("three hundred years may be claimed, and no time that nanoseconds cannot hold", "[wire]") {
  HostProtocol protocol({});
  pb::Hello message;
  message.set_min_version(1);
  message.set_max_version(1);
  message.set_runtime_us(~std::uint64_t{0});
  message.set_init_us(INT64_MAX);
  REQUIRE(feed(protocol, frame_of(FrameType::hello, 0, message)) == Event::hello);
  constexpr auto kMost =
      std::chrono::duration_cast<std::chrono::microseconds>(std::chrono::nanoseconds::max());
  CHECK(protocol.hello().runtime_time == kMost);
  CHECK(protocol.hello().init_time == kMost);
}

TEST_CASE("hello, a call, its answer, and the next call", "[wire]") {
  HostProtocol protocol({});
  CHECK(protocol.position() == "before its hello");
  REQUIRE(feed(protocol, hello()) == Event::hello);
  CHECK(protocol.hello().runtime == "test 1.0");
  CHECK(protocol.hello().protocol_version == 1);
  for (std::uint64_t id = 1; id <= 3; ++id) {
    REQUIRE(protocol.idle());
    REQUIRE(protocol.begin_call(call_of()).ok());
    CHECK(protocol.call_id() == id);
    REQUIRE(protocol.in_call());
    REQUIRE(feed(protocol, end(id, "answer", 0, "", "text/plain")) == Event::reply);
    const ChannelReply reply = protocol.take_reply();
    CHECK(reply.function_status.ok());
    CHECK(as_text(reply.payload) == "answer");
    CHECK(reply.content_type == "text/plain");
    CHECK(reply.claimed_run_time == std::chrono::microseconds(12));
  }
}

TEST_CASE("a runtime's name is a claim: printable, and cut", "[wire]") {
  const auto heard = [](const std::string& runtime) {
    // By hand, as no library would write it.
    const std::string envelope =
        std::string("\x08\x01\x10\x01\x22", 5) + static_cast<char>(runtime.size()) + runtime;
    HostProtocol protocol({});
    REQUIRE(feed(protocol, frame({.type = FrameType::hello}, envelope)) == Event::hello);
    return protocol.hello().runtime;
  };
  CHECK(heard("python 3.11.2") == "python 3.11.2");
  CHECK(heard("\x1b[2J\xff\n") == "\\x1b[2J\\xff\\n");
  CHECK(heard(std::string(127, 'x')) == std::string(127, 'x'));
  CHECK(heard(std::string(100, '\xff')).size() == 128);
}

TEST_CASE("a call's envelope says what the caller gave", "[wire]") {
  ChannelLimits limits;
  limits.max_frame_payload_bytes = 100;
  HostProtocol protocol(limits);
  REQUIRE(feed(protocol, hello()) == Event::hello);
  ChannelCall call;
  call.token = 7;
  call.lease = {.request = {.invoker = 0xF123456789ABCDEF, .sequence = 42}, .attempt = 3};
  call.timeout = std::chrono::seconds(2);
  call.idle_for = std::chrono::milliseconds(5);
  call.trace = "trace";
  call.content_type = "image/png";
  call.payload.resize(250);
  REQUIRE(protocol.begin_call(call).ok());

  FrameHeader header;
  REQUIRE(decode_header(protocol.head().data(), header));
  CHECK(header.type == FrameType::call);
  CHECK(header.call_id == 1);
  CHECK(header.payload_bytes == 100);
  pb::Call message;
  REQUIRE(message.ParseFromString(as_text(protocol.head().subspan(kHeaderBytes))));
  CHECK(message.token() == 7);
  CHECK(message.invoker() == 0xF123456789ABCDEF);
  CHECK(message.sequence() == 42);
  CHECK(message.attempt() == 3);
  CHECK(message.timeout_us() == 2000000);
  CHECK(message.idle_for_us() == 5000);
  CHECK(std::string(message.trace()) == "trace");
  CHECK(std::string(message.content_type()) == "image/png");
  CHECK(message.payload_bytes() == 250);
  CHECK(message.max_frame_bytes() == 100);
  CHECK(message.max_reply_bytes() == 0);  // the default
}

TEST_CASE("a call beyond the limits is refused, and the channel stays usable", "[wire]") {
  ChannelLimits limits;
  limits.max_payload_bytes = 10;
  limits.max_envelope_bytes = 256;
  HostProtocol protocol(limits);
  REQUIRE(feed(protocol, hello()) == Event::hello);
  absl::Status status = protocol.begin_call(call_of(11));
  CHECK(absl::IsInvalidArgument(status));
  CHECK(std::string(status.message()) == "payload of 11 bytes exceeds the limit of 10");
  ChannelCall call = call_of(3);
  call.trace.assign(300, 't');
  status = protocol.begin_call(call);
  CHECK(absl::IsInvalidArgument(status));
  CHECK(
      std::string(status.message()) ==
      "trace (300 bytes), content type (0 bytes) and metadata (0 bytes) exceed the envelope's limit of 256");
  CHECK(protocol.idle());
  CHECK(protocol.begin_call(call_of(10)).ok());
}

TEST_CASE("a function that raised is an answer; its code never passes for ours", "[wire]") {
  InCall t;
  REQUIRE(feed(t.protocol, end(1, "", 10 /* ABORTED */, "ValueError: no")) == Event::reply);
  CHECK(t.protocol.take_reply().function_status == absl::UnknownError("ValueError: no"));
}

TEST_CASE("a reply in several frames is one reply", "[wire]") {
  InCall t;
  REQUIRE(feed(t.protocol, reply_head(1, 9) + body(1, "one") + body(1, "two")) == Event::need_input);
  CHECK(t.protocol.position() == "in the middle of a reply");
  REQUIRE(feed(t.protocol, end(1, "six")) == Event::reply);
  const ChannelReply reply = t.protocol.take_reply();
  CHECK(as_text(reply.payload) == "onetwosix");
  CHECK(reply.content_type == "text/plain");
}

TEST_CASE("credit follows consumption, and stops with what is still to come", "[wire]") {
  InCall t;
  const std::string part(512 << 10, 'b');
  const std::uint64_t total = (2 << 20) + (256 << 10);
  REQUIRE(feed(t.protocol, reply_head(1, total)) == Event::need_input);
  std::uint64_t granted = 1 << 20;
  std::uint64_t sent = 0;
  while (sent < total) {
    const std::size_t size = std::min<std::uint64_t>(part.size(), total - sent);
    REQUIRE(sent + size <= granted);
    REQUIRE(feed(t.protocol, body(1, part.substr(0, size))) == Event::need_input);
    sent += size;
    const ByteVector control = t.protocol.take_control();
    if (control.empty()) continue;
    pb::Credit credit;
    REQUIRE(credit.ParseFromString(as_text(std::span(control).subspan(kHeaderBytes))));
    granted += credit.bytes();
    CHECK(granted <= total);
  }
  CHECK(granted == total);
  CHECK(feed(t.protocol, end(1)) == Event::reply);
  CHECK(t.protocol.take_reply().payload.size() == total);
}

TEST_CASE("what breaks the protocol is named", "[wire]") {
  using Catch::Matchers::ContainsSubstring;
  SECTION("a reply for another call") {
    CHECK_THAT(InCall().broken_by(end(2)), ContainsSubstring("END for call 2 while call 1 runs"));
  }
  SECTION("a second answer") {
    InCall t;
    REQUIRE(feed(t.protocol, end(1)) == Event::reply);
    CHECK_THAT(t.broken_by(end(1)), ContainsSubstring("END for call 1 while no call runs"));
  }
  SECTION("body without head") { CHECK_THAT(InCall().broken_by(body(1, "x")), ContainsSubstring("without")); }
  SECTION("a second head") {
    CHECK_THAT(InCall().broken_by(reply_head(1, 5) + reply_head(1, 5)),
               ContainsSubstring("second REPLY_HEAD"));
  }
  SECTION("more body than announced") {
    CHECK_THAT(InCall().broken_by(reply_head(1, 3) + body(1, "four")), ContainsSubstring("announced 3"));
  }
  SECTION("less body than announced") {
    CHECK_THAT(InCall().broken_by(reply_head(1, 5) + body(1, "four") + end(1)), ContainsSubstring("4 bytes"));
  }
  SECTION("an announcement beyond the limit") {
    CHECK_THAT(InCall().broken_by(reply_head(1, 7 << 20)), ContainsSubstring("limit is 6291456"));
  }
  SECTION("a small reply beyond the limit") {
    ChannelLimits limits;
    limits.max_reply_bytes = 4;
    CHECK_THAT(InCall(limits).broken_by(end(1, "five!")),
               ContainsSubstring("reply of 5 bytes, the limit is 4"));
  }
  SECTION("body beyond the credit") {
    ChannelLimits limits;
    limits.max_frame_payload_bytes = 2 << 20;
    CHECK_THAT(InCall(limits).broken_by(reply_head(1, 4 << 20) + body(1, std::string((1 << 20) + 1, 'b'))),
               ContainsSubstring("1048577 bytes of body, the credit given was 1048576"));
  }
  SECTION("a hello again") { CHECK_THAT(InCall().broken_by(hello()), ContainsSubstring("HELLO")); }
  SECTION("what only a host sends") {
    CHECK_THAT(InCall().broken_by(frame({.type = FrameType::call, .call_id = 1})), ContainsSubstring("CALL"));
  }
  SECTION("an unknown type") {
    CHECK_THAT(InCall().broken_by(frame({.type = static_cast<FrameType>(99)})), ContainsSubstring("type 99"));
  }
  SECTION("an envelope that is none") {
    CHECK_THAT(InCall().broken_by(frame({.type = FrameType::end, .call_id = 1}, "\xff\xff\xff")),
               ContainsSubstring("END envelope of 3 bytes cannot be parsed"));
  }
  SECTION("a flood of log") {
    InCall t;
    const ByteVector log = frame({.type = FrameType::log, .call_id = 1}, "", std::string(200 << 10, 'l'));
    REQUIRE(feed(t.protocol, log) == Event::need_input);
    CHECK_THAT(t.broken_by(log), ContainsSubstring("of LOG or to skip in one call, the limit is 262144"));
  }
  SECTION("body without a payload") {
    CHECK_THAT(InCall().broken_by(reply_head(1, 3) + body(1, "")),
               ContainsSubstring("BODY without a payload"));
  }
  SECTION("any part of an answer before the whole call was sent") {
    pb::ReplyHead head;
    const ByteVector early = GENERATE_COPY(frame_of(FrameType::reply_head, 1, head), body(1, "x"), end(1));
    InCall t;
    t.protocol.set_sending(true);
    CHECK_THAT(t.broken_by(early), ContainsSubstring("of call 1 before the whole call was sent"));
  }
  SECTION("a message beyond the limit") {
    InCall within;
    CHECK(feed(within.protocol, end(1, "", 2, std::string(8192, 'm'))) == Event::reply);
    CHECK_THAT(InCall().broken_by(end(1, "", 2, std::string(8193, 'm'))),
               ContainsSubstring("END message of 8193 bytes, the limit is 8192"));
  }
  SECTION("a content type beyond the limit") {
    InCall within;
    CHECK(feed(within.protocol, end(1, "", 0, "", std::string(1024, 'c'))) == Event::reply);
    CHECK_THAT(InCall().broken_by(end(1, "", 0, "", std::string(1025, 'c'))),
               ContainsSubstring("content type of 1025 bytes, the limit is 1024"));
    pb::ReplyHead head;
    head.set_content_type(std::string(1025, 'c'));
    CHECK_THAT(InCall().broken_by(frame_of(FrameType::reply_head, 1, head)),
               ContainsSubstring("content type of 1025 bytes"));
  }
  SECTION("an answer before hello") {
    HostProtocol protocol({});
    CHECK(feed(protocol, end(1)) == Event::failed);
    CHECK_THAT(std::string(protocol.error().message()), ContainsSubstring("END before HELLO"));
  }
}

TEST_CASE("no common version is a failed precondition", "[wire]") {
  HostProtocol protocol({});
  CHECK(feed(protocol, hello(2, 3)) == Event::failed);
  CHECK(absl::IsFailedPrecondition(protocol.error()));
  CHECK(std::string(protocol.error().message()) == "sandbox speaks protocol versions 2 to 3, the host 1");
}

TEST_CASE("an unknown type that may be skipped is skipped, wherever it comes", "[wire]") {
  const ByteVector unknown = frame(
      {.type = static_cast<FrameType>(99), .flags = kSkipIfUnknown, .call_id = 5}, "envelope", "payload");
  HostProtocol protocol({});
  REQUIRE(feed(protocol, unknown + hello()) == Event::hello);
  REQUIRE(protocol.begin_call(call_of()).ok());
  REQUIRE(feed(protocol, unknown + end(1, "x")) == Event::reply);
  CHECK(as_text(protocol.take_reply().payload) == "x");
  CHECK(feed(protocol, unknown) == Event::need_input);
}

// Frames that cost a sandbox next to nothing, and the host its shard's time.
TEST_CASE("what is no part of an answer has a budget of frames and bytes", "[wire]") {
  constexpr int kFrames = 1024;
  const auto skipped = [](std::size_t payload = 0) {
    return frame({.type = static_cast<FrameType>(99), .flags = kSkipIfUnknown}, "",
                 std::string(payload, 's'));
  };
  const ByteVector log = frame({.type = FrameType::log, .call_id = 1});
  SECTION("in a call, LOG and frames to skip together") {
    InCall t;
    for (int i = 0; i < kFrames; ++i)
      REQUIRE(feed(t.protocol, i % 2 == 0 ? log : skipped()) == Event::need_input);
    CHECK_THAT(t.broken_by(log),
               ContainsSubstring("1025 frames of LOG or to skip in one call, the limit is 1024"));
  }
  SECTION("while idle") {
    InCall t;
    REQUIRE(feed(t.protocol, end(1)) == Event::reply);
    for (int i = 0; i < kFrames; ++i) REQUIRE(feed(t.protocol, skipped()) == Event::need_input);
    CHECK_THAT(t.broken_by(skipped()), ContainsSubstring("1025 frames of LOG or to skip in one idle spell"));
  }
  SECTION("before hello") {
    HostProtocol protocol({});
    for (int i = 0; i < kFrames; ++i) REQUIRE(feed(protocol, skipped()) == Event::need_input);
    CHECK(feed(protocol, skipped()) == Event::failed);
  }
  SECTION("envelopes and skipped payloads are bytes, too") {
    InCall t;
    const std::string envelope(60 << 10, 'e');
    for (int i = 0; i < 4; ++i) {
      REQUIRE(feed(t.protocol, frame({.type = FrameType::log, .call_id = 1}, envelope)) == Event::need_input);
    }
    CHECK_THAT(t.broken_by(skipped(20 << 10)), ContainsSubstring("bytes of LOG or to skip in one call"));
  }
  SECTION("each call and each idle spell has its own") {
    InCall t;
    for (std::uint64_t id = 1; id <= 4; ++id) {
      const ByteVector of_call = frame({.type = FrameType::log, .call_id = id});
      for (int i = 0; i < kFrames; ++i) REQUIRE(feed(t.protocol, of_call) == Event::need_input);
      REQUIRE(feed(t.protocol, end(id)) == Event::reply);
      for (int i = 0; i < kFrames; ++i) REQUIRE(feed(t.protocol, skipped()) == Event::need_input);
      REQUIRE(t.protocol.begin_call(call_of()).ok());
    }
  }
}

TEST_CASE("a reply in crumbs breaks the protocol", "[wire]") {
  InCall t;
  const std::uint64_t total = 100 << 10;
  REQUIRE(feed(t.protocol, reply_head(1, total)) == Event::need_input);
  const std::uint64_t most = 64 + total / 512;
  for (std::uint64_t i = 0; i < most; ++i) REQUIRE(feed(t.protocol, body(1, "x")) == Event::need_input);
  CHECK_THAT(t.broken_by(body(1, "x")),
             ContainsSubstring("265 BODY frames for a reply of 102400 bytes, the limit is 264"));
}

TEST_CASE("full frames with a part of one after each are no crumbs", "[wire]") {
  ChannelLimits limits;
  limits.max_frame_payload_bytes = 100;
  InCall t(limits);
  REQUIRE(feed(t.protocol, reply_head(1, 101 * 1000)) == Event::need_input);
  const ByteVector full_and_part = body(1, std::string(100, 'x')) + body(1, "x");
  for (int i = 0; i < 1000; ++i) REQUIRE(feed(t.protocol, full_and_part) == Event::need_input);
  CHECK(feed(t.protocol, end(1)) == Event::reply);
}

TEST_CASE("a frame limit of single bytes is served as it asks", "[wire]") {
  ChannelLimits limits;
  limits.max_frame_payload_bytes = 1;
  InCall t(limits);
  REQUIRE(feed(t.protocol, reply_head(1, 3000)) == Event::need_input);
  for (int i = 0; i < 3000; ++i) REQUIRE(feed(t.protocol, body(1, "x")) == Event::need_input);
  CHECK(feed(t.protocol, end(1)) == Event::reply);
}

TEST_CASE("an ended connection proves that a call never began only while nothing refutes it", "[wire]") {
  InCall t;
  CHECK(t.protocol.reset_proves_never_began());
  SECTION("a frame of the call refutes it") {
    feed(t.protocol, frame({.type = FrameType::log, .call_id = 1}, "", "began"));
    CHECK_FALSE(t.protocol.reset_proves_never_began());
  }
  SECTION("the next call starts afresh") {
    feed(t.protocol, end(1));
    CHECK_FALSE(t.protocol.reset_proves_never_began());
    REQUIRE(t.protocol.begin_call(call_of()).ok());
    CHECK(t.protocol.reset_proves_never_began());
  }
}

TEST_CASE("whatever bytes a sandbox writes, the host holds no more than one reply", "[wire][property]") {
  const std::uint64_t seed = 99;
  std::mt19937_64 rng(seed);
  ChannelLimits limits;
  limits.max_reply_bytes = 2000;
  limits.max_frame_payload_bytes = 500;
  limits.max_envelope_bytes = 200;
  for (int round = 0; round < 2000; ++round) {
    CAPTURE(seed, round);
    HostProtocol protocol(limits);
    feed(protocol, hello());
    std::uint64_t calls = 0;
    std::uint64_t replies = 0;
    for (int i = 0; i < 40 && !protocol.failed(); ++i) {
      if (protocol.idle() && rng() % 2 == 0) {
        REQUIRE(protocol.begin_call(call_of()).ok());
        ++calls;
      }
      const std::uint64_t id = protocol.call_id() + (rng() % 20 == 0 ? 1 : 0);
      const std::string data(rng() % 400, 'd');
      ByteVector bytes;
      switch (rng() % 5) {
        case 0: bytes = reply_head(id, rng() % 1200); break;
        case 1: bytes = body(id, data); break;
        case 2: bytes = end(id, data); break;
        case 3: bytes = frame({.type = FrameType::log, .call_id = id}, "", data); break;
        default: bytes = end(id, data); break;
      }
      if (rng() % 10 == 0) bytes[rng() % bytes.size()] ^= static_cast<std::byte>(1 << (rng() % 8));
      std::span<const std::byte> left = bytes;
      while (!left.empty() && !protocol.failed()) {
        std::span<const std::byte> piece = left.first(std::min<std::size_t>(left.size(), 1 + rng() % 100));
        const std::size_t before = piece.size();
        const Event event = protocol.receive(piece);
        left = left.subspan(before - piece.size());
        if (event != Event::reply) continue;
        ++replies;
        CHECK(protocol.take_reply().payload.size() <= limits.max_reply_bytes);
      }
    }
    CHECK(replies <= calls);
  }
}

}  // namespace faaskit::wire
