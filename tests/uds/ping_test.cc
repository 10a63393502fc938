// If these failed, a dead sandbox could pass for a live one, or a ping could cost a call its proof.
// The peer is a raw socket, and writes what it likes.
#include "raw_peer.h"

namespace faaskit::uds {
namespace {

// The nonces count from 1.
ByteVector pong(std::uint64_t nonce) {
  pb::Ping message;
  message.set_nonce(nonce);
  return frame_of(FrameType::ping, 0, message, {}, wire::kPong);
}

ByteVector ping_frame(std::uint64_t nonce) {
  pb::Ping message;
  message.set_nonce(nonce);
  return frame_of(FrameType::ping, 0, message);
}

ByteVector heard(const UniqueFd& fd) {
  ByteVector bytes;
  read_some(fd, bytes);
  return bytes;
}

}  // namespace

TEST_CASE("a ping goes out at once, and its answer is posted", "[uds][ping]") {
  Pair t;
  t.host.begin_ping();
  CHECK((heard(t.peer) == ping_frame(1)));  // in ping() itself, no loop has run
  t.host.loop.drain();
  CHECK_FALSE(t.host.pinged.has_value());
  write_all(t.peer, pong(1));
  CHECK(t.host.finish_ping().ok());
  CHECK(t.host.channel->is_open());

  t.host.begin(call_of("x"));
  write_all(t.peer, end_frame(1, "y"));
  CHECK(t.host.finish().status.ok());
  heard(t.peer);
  t.host.begin_ping();
  CHECK((heard(t.peer) == ping_frame(2)));
  write_all(t.peer, pong(2));
  CHECK(t.host.finish_ping().ok());
  t.host.loop.drain();
  CHECK_FALSE(t.host.closed.has_value());
}

TEST_CASE("the end of its channel ends a ping, which alone is told", "[uds][ping]") {
  Pair t;
  t.host.begin_ping();
  SECTION("the peer died with it unread") {
    t.peer.reset();
    const absl::Status status = t.host.finish_ping();
    CHECK(absl::IsUnavailable(status));
    CHECK_THAT(std::string(status.message()), ContainsSubstring("before its answer to a ping (ECONNRESET)"));
  }
  SECTION("the peer read it and ended") {
    heard(t.peer);
    t.peer.reset();
    const absl::Status status = t.host.finish_ping();
    CHECK(absl::IsUnavailable(status));
    CHECK_THAT(std::string(status.message()), ContainsSubstring("before its answer to a ping"));
  }
  SECTION("a wrong answer") {
    write_all(t.peer, pong(2));
    const absl::Status status = t.host.finish_ping();
    CHECK(absl::IsInternal(status));
    CHECK_THAT(std::string(status.message()), ContainsSubstring("instead of PONG 1"));
  }
  SECTION("an answer to no call") {
    write_all(t.peer, end_frame(0));
    CHECK(absl::IsInternal(t.host.finish_ping()));
  }
  SECTION("close") {
    t.host.channel->close(absl::DeadlineExceededError("no answer to a ping"));
    CHECK_FALSE(t.host.pinged.has_value());
    CHECK(t.host.finish_ping() == absl::DeadlineExceededError("no answer to a ping"));
  }
  CHECK_FALSE(t.host.channel->is_open());
  t.host.loop.drain();
  CHECK_FALSE(t.host.closed.has_value());
  // On what is closed a ping fails, too.
  CHECK(absl::IsUnavailable(t.host.ping()));
}

TEST_CASE("a ping to a peer that died before it", "[uds][ping]") {
  Pair t;
  t.peer.reset();
  CHECK(absl::IsUnavailable(t.host.ping()));
  CHECK_FALSE(t.host.channel->is_open());
}

TEST_CASE("an answer without a ping closes the channel", "[uds][ping]") {
  Pair t;
  SECTION("never asked for") { write_all(t.peer, pong(1)); }
  SECTION("given twice") {
    t.host.begin_ping();
    write_all(t.peer, pong(1) + pong(1));
    CHECK(t.host.finish_ping().ok());
  }
  REQUIRE(t.host.loop.until([&] { return t.host.closed.has_value(); }));
  CHECK_THAT(std::string(t.host.closed->message()), ContainsSubstring("PONG 1 while no ping is out"));
}

TEST_CASE("a channel that is gone answers no ping", "[uds][ping]") {
  Pair t;
  t.host.begin_ping();
  SECTION("unanswered") {}
  SECTION("with the answer already read and posted") {
    write_all(t.peer, pong(1));
    REQUIRE(t.host.loop.step());
  }
  SECTION("with its end already posted") { t.host.channel->close(absl::CancelledError("gone")); }
  REQUIRE_FALSE(t.host.pinged.has_value());
  t.host.channel.reset();
  t.host.loop.drain();
  CHECK_FALSE(t.host.pinged.has_value());
}

TEST_CASE("a channel may be destroyed inside a ping's own handler", "[uds][ping]") {
  Pair t;
  bool ran = false;
  t.host.channel->ping([&](absl::Status) {
    ran = true;
    t.host.channel.reset();
  });
  write_all(t.peer, pong(1));
  REQUIRE(t.host.loop.until([&] { return ran; }));
  t.host.loop.drain();
}

TEST_CASE("a ping beside a call or another ping is refused, and nothing of it is sent", "[uds][ping]") {
  Pair t;
  SECTION("beside a call: the proof that it never began stays whole") {
    t.host.begin(call_of("x"));
    CHECK(absl::IsFailedPrecondition(t.host.ping()));
    CHECK_FALSE(t.host.result.has_value());
    t.peer.reset();
    CHECK(absl::IsUnavailable(t.host.finish().status));
    CHECK(t.host.result->never_began);
    CHECK(to_text(t.host.result->payload) == "x");
  }
  SECTION("beside a call that was read: no bytes after it may pass for a proof") {
    t.host.begin(call_of("x"));
    heard(t.peer);
    CHECK(absl::IsFailedPrecondition(t.host.ping()));
    CHECK(heard(t.peer).empty());
    t.peer.reset();
    CHECK(absl::IsUnavailable(t.host.finish().status));
    CHECK_FALSE(t.host.result->never_began);
  }
  SECTION("beside an answer on its way to its handler") {
    t.host.begin(call_of("x"));
    heard(t.peer);
    write_all(t.peer, end_frame(1, "y"));
    REQUIRE(t.host.loop.step());  // reads it, and posts
    REQUIRE_FALSE(t.host.result.has_value());
    CHECK(absl::IsFailedPrecondition(t.host.ping()));
    CHECK(heard(t.peer).empty());
    CHECK(t.host.finish().status.ok());
  }
  SECTION("beside a ping") {
    t.host.begin_ping();
    CHECK((heard(t.peer) == ping_frame(1)));
    absl::Status second;
    t.host.channel->ping([&](absl::Status status) { second = std::move(status); });
    REQUIRE(t.host.loop.until([&] { return !second.ok(); }));
    CHECK(second ==
          absl::FailedPreconditionError("a ping while a ping is in flight, the limit is one at a time"));
    CHECK(heard(t.peer).empty());
    write_all(t.peer, pong(1));
    CHECK(t.host.finish_ping().ok());
  }
  SECTION("a call beside a ping") {
    t.host.begin_ping();
    CHECK(t.host.begin(call_of("x")) == 0);
    CHECK(t.host.finish().status ==
          absl::FailedPreconditionError("a call while a ping is in flight, the limit is one at a time"));
    CHECK(t.host.result->never_began);
    CHECK(to_text(t.host.result->payload) == "x");
    CHECK((heard(t.peer) == ping_frame(1)));
    write_all(t.peer, pong(1));
    CHECK(t.host.finish_ping().ok());
  }
}

TEST_CASE("a ping before the hello is refused", "[uds][ping]") {
  Ends ends = make_ends();
  Host host(std::move(ends.host));
  CHECK(host.ping() == absl::FailedPreconditionError("a ping before the sandbox's hello"));
  write_all(ends.peer, hello_frame());
  CHECK(host.hello().ok());
}

TEST_CASE("never_began behind a ping", "[uds][ping]") {
  Pair t;
  t.host.begin_ping();
  const bool read_ping = GENERATE(true, false);
  if (read_ping) heard(t.peer);
  // Answered without having read it, as no worker would: what it read in order cannot include the call.
  write_all(t.peer, pong(1));
  REQUIRE(t.host.finish_ping().ok());
  t.host.begin(call_of("x"));
  SECTION("died with the call unread") {
    t.peer.reset();
    CHECK(absl::IsUnavailable(t.host.finish().status));
    CHECK(t.host.result->never_began);
    CHECK(to_text(t.host.result->payload) == "x");
  }
  SECTION("read the call, then died") {
    heard(t.peer);
    t.peer.reset();
    CHECK(absl::IsUnavailable(t.host.finish().status));
    CHECK_FALSE(t.host.result->never_began);
  }
}

}  // namespace faaskit::uds
