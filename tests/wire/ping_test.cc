// If these failed, a sandbox that cannot answer a ping could pass for one that did.
#include "catch.hpp"
#include "wire/envelope.pb.h"
#include "wire/frames.h"
#include "wire/host_protocol.h"

namespace faaskit::wire {
namespace {

using Catch::Matchers::ContainsSubstring;
using Event = HostProtocol::Event;

ByteVector pong(std::uint64_t nonce, std::uint64_t call = 0, std::string_view payload = {},
                std::uint16_t flags = kPong) {
  pb::Ping message;
  message.set_nonce(nonce);
  return frame_of(FrameType::ping, call, message, payload, flags);
}

ByteVector end(std::uint64_t call) { return frame_of(FrameType::end, call, pb::End()); }

Event feed(HostProtocol& protocol, const ByteVector& bytes) {
  std::span<const std::byte> input = bytes;
  return protocol.receive(input);
}

// A protocol that has heard a hello; and, unless told otherwise, has its first ping out.
struct Pinging {
  explicit Pinging(bool ping = true) {
    pb::Hello hello;
    hello.set_min_version(1);
    hello.set_max_version(1);
    REQUIRE(feed(protocol, frame_of(FrameType::hello, 0, hello)) == Event::hello);
    if (ping) begin();
  }
  // Returns the nonce.
  std::uint64_t begin() {
    protocol.begin_ping();
    const ByteVector sent = protocol.take_control();
    FrameHeader header;
    REQUIRE(sent.size() > kHeaderBytes);
    REQUIRE(decode_header(sent.data(), header));
    CHECK(header == FrameHeader{.type = FrameType::ping,
                                .envelope_bytes = static_cast<std::uint32_t>(sent.size() - kHeaderBytes)});
    pb::Ping message;
    REQUIRE(message.ParseFromString(as_text(std::span(sent).subspan(kHeaderBytes))));
    return message.nonce();
  }
  std::string broken_by(const ByteVector& bytes) {
    CHECK(feed(protocol, bytes) == Event::failed);
    CHECK(absl::IsInternal(protocol.error()));
    CHECK(feed(protocol, pong(1)) == Event::failed);  // stays so
    return std::string(protocol.error().message());
  }
  HostProtocol protocol{ChannelLimits()};
};

}  // namespace

TEST_CASE("a ping is one frame, and its answer makes the channel idle again", "[wire][ping]") {
  Pinging t(false);
  for (std::uint64_t i = 1; i <= 3; ++i) {
    const std::uint64_t nonce = t.begin();
    CHECK(nonce == i);
    CHECK_FALSE(t.protocol.idle());
    CHECK_FALSE(t.protocol.in_call());
    CHECK(t.protocol.position() == "before its answer to a ping");
    CHECK(feed(t.protocol, pong(nonce)) == Event::pong);
    REQUIRE(t.protocol.idle());
    REQUIRE(t.protocol.begin_call({}).ok());
    REQUIRE(feed(t.protocol, end(i)) == Event::reply);
  }
}

TEST_CASE("an answer to a ping in any pieces", "[wire][ping]") {
  const ByteVector answer = pong(1);
  for (std::size_t cut = 1; cut < answer.size(); ++cut) {
    Pinging t;
    std::span<const std::byte> first = std::span(answer).first(cut);
    std::span<const std::byte> second = std::span(answer).subspan(cut);
    CHECK(t.protocol.receive(first) == Event::need_input);
    CHECK(t.protocol.receive(second) == Event::pong);
  }
}

TEST_CASE("what is no answer to the ping at hand breaks the protocol", "[wire][ping]") {
  SECTION("the nonce of another") {
    CHECK_THAT(Pinging().broken_by(pong(2)), ContainsSubstring("PONG 2 for call 0 instead of PONG 1"));
  }
  SECTION("a call id") {
    CHECK_THAT(Pinging().broken_by(pong(1, 7)), ContainsSubstring("PONG 1 for call 7 instead of PONG 1"));
  }
  SECTION("a payload") {
    CHECK_THAT(Pinging().broken_by(pong(1, 0, "abc")), ContainsSubstring("PONG with a payload of 3 bytes"));
  }
  SECTION("without the flag it is a ping, which only hosts send") {
    CHECK_THAT(Pinging().broken_by(pong(1, 0, "", 0)),
               ContainsSubstring("PING is not for a sandbox to send"));
  }
  SECTION("an envelope that is none") {
    CHECK_THAT(Pinging().broken_by(frame({.type = FrameType::ping, .flags = kPong}, "\x09\x01")),
               ContainsSubstring("PING envelope of 2 bytes cannot be parsed"));
  }
  SECTION("a call's answer") {
    CHECK_THAT(Pinging().broken_by(end(0)), ContainsSubstring("END for call 0 instead of PONG 1"));
  }
  SECTION("a line for the log") {
    CHECK_THAT(Pinging().broken_by(frame({.type = FrameType::log})),
               ContainsSubstring("LOG for call 0 instead of PONG 1"));
  }
  SECTION("garbage") {
    CHECK_THAT(Pinging().broken_by(frame({.version = 9, .type = FrameType::ping})),
               ContainsSubstring("version 9"));
  }
}

TEST_CASE("an answer that no ping waits for breaks the protocol", "[wire][ping]") {
  SECTION("without any ping") {
    CHECK_THAT(Pinging(false).broken_by(pong(1)), ContainsSubstring("PONG 1 while no ping is out"));
  }
  SECTION("twice") {
    Pinging t;
    REQUIRE(feed(t.protocol, pong(1)) == Event::pong);
    CHECK_THAT(t.broken_by(pong(1)), ContainsSubstring("PONG 1 while no ping is out; the last one was 1"));
  }
  SECTION("the last one's again") {
    Pinging t;
    REQUIRE(feed(t.protocol, pong(1)) == Event::pong);
    REQUIRE(t.begin() == 2);
    CHECK_THAT(t.broken_by(pong(1)), ContainsSubstring("PONG 1 for call 0 instead of PONG 2"));
  }
  SECTION("in a call") {
    Pinging t;
    REQUIRE(feed(t.protocol, pong(1)) == Event::pong);
    REQUIRE(t.protocol.begin_call({}).ok());
    CHECK_THAT(t.broken_by(pong(1)), ContainsSubstring("PONG 1 while no ping is out"));
  }
  SECTION("before the hello") {
    HostProtocol protocol{ChannelLimits()};
    CHECK(feed(protocol, pong(0)) == Event::failed);
    CHECK_THAT(std::string(protocol.error().message()), ContainsSubstring("PING before HELLO"));
  }
}

TEST_CASE("pings do not renew an idle spell's budget for frames to skip", "[wire][ping]") {
  Pinging t(false);
  const ByteVector skipped = frame({.type = static_cast<FrameType>(99), .flags = kSkipIfUnknown});
  Event event = Event::need_input;
  int frames = 0;
  while (event != Event::failed && frames < 3000) {
    const std::uint64_t nonce = t.begin();
    event = feed(t.protocol, skipped);
    if (event == Event::failed) break;
    ++frames;
    event = feed(t.protocol, pong(nonce));
  }
  CHECK(frames == 1024);
}

TEST_CASE("the proof that a call never began stands behind a ping that was answered", "[wire][ping]") {
  Pinging t;
  CHECK_FALSE(t.protocol.reset_proves_never_began());  // no call, nothing to prove
  REQUIRE(feed(t.protocol, pong(1)) == Event::pong);
  CHECK_FALSE(t.protocol.reset_proves_never_began());
  REQUIRE(t.protocol.begin_call({}).ok());
  CHECK(t.protocol.reset_proves_never_began());
  REQUIRE(feed(t.protocol, frame({.type = FrameType::log, .call_id = 1})) == Event::need_input);
  CHECK_FALSE(t.protocol.reset_proves_never_began());
}

}  // namespace faaskit::wire
