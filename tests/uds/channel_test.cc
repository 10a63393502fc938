// If these failed, a broken or hostile sandbox could hang a caller, pass off a wrong answer, or make a call
// run twice. The peer is a raw socket here, and writes what it likes.
#include <sys/ioctl.h>

#include <algorithm>
#include <random>

#include "raw_peer.h"
#include "wire/frame_decoder.h"

namespace faaskit::uds {
namespace {

constexpr std::size_t kMoreThanASocketHolds = 4 << 20;

}  // namespace

TEST_CASE("a call goes out at once, and its answer is posted", "[uds]") {
  Pair t;
  const std::size_t sent = t.host.begin(call_of("ping", "text/plain"));
  ByteVector received;
  CHECK(read_some(t.peer, received) == sent);  // in begin_call itself, no loop has run
  write_all(t.peer, end_frame(1, "pong"));
  const CallResult& result = t.host.finish();
  CHECK(result.status.ok());
  CHECK(to_text(result.reply.payload) == "pong");
  CHECK_FALSE(result.never_began);
  CHECK(t.host.channel->is_open());
}

TEST_CASE("a sandbox that says nothing is cut off", "[uds]") {
  Ends ends = make_ends();
  ChannelLimits limits;
  limits.hello_timeout = std::chrono::milliseconds(20);
  Host host(std::move(ends.host), limits);
  const absl::StatusOr<Hello> hello = host.hello();
  CHECK(hello.status() == absl::DeadlineExceededError("sandbox did not say hello within 20 ms"));
  CHECK_FALSE(host.channel->is_open());
  CHECK_FALSE(host.closed.has_value());  // told once
}

TEST_CASE("what comes instead of a hello", "[uds]") {
  Ends ends = make_ends();
  Host host(std::move(ends.host));
  SECTION("the end") {
    ends.peer.reset();
    CHECK(absl::IsUnavailable(host.hello().status()));
  }
  SECTION("an answer") {
    write_all(ends.peer, end_frame(1));
    CHECK(absl::IsInternal(host.hello().status()));
  }
  SECTION("garbage") {
    write_all(ends.peer, wire::as_bytes("Traceback (most recent call last):\n"));
    const absl::Status status = host.hello().status();
    CHECK(absl::IsInternal(status));
    CHECK_THAT(std::string(status.message()), ContainsSubstring("instead of the magic"));
  }
  SECTION("half a hello") {
    const ByteVector hello = hello_frame();
    write_all(ends.peer, std::span(hello).first(hello.size() - 1));
    ends.peer.reset();
    const absl::Status status = host.hello().status();
    CHECK(absl::IsUnavailable(status));
    CHECK_THAT(std::string(status.message()), ContainsSubstring("in the middle of a frame"));
  }
  SECTION("a version nobody speaks") {
    pb::Hello hello;
    hello.set_min_version(7);
    hello.set_max_version(8);
    write_all(ends.peer, frame_of(FrameType::hello, 0, hello));
    CHECK(absl::IsFailedPrecondition(host.hello().status()));
  }
  CHECK_FALSE(host.channel->is_open());
}

TEST_CASE("the first answer stands, and a second one closes the channel", "[uds]") {
  Pair t;
  t.host.begin(call_of("x"));
  write_all(t.peer, end_frame(1, "first") + end_frame(1, "second"));
  CHECK(t.host.finish().status.ok());
  CHECK(to_text(t.host.result->reply.payload) == "first");
  REQUIRE(t.host.loop.until([&] { return t.host.closed.has_value(); }));
  CHECK(absl::IsInternal(*t.host.closed));
  CHECK_THAT(std::string(t.host.closed->message()), ContainsSubstring("END for call 1 while no call runs"));
  CHECK_FALSE(t.host.channel->is_open());

  // A call on a closed channel did not begin.
  CHECK(t.host.begin(call_of("y")) == 0);
  CHECK(absl::IsUnavailable(t.host.finish().status));
  CHECK(t.host.result->never_began);
}

TEST_CASE("a sandbox that breaks the protocol in a call fails the call", "[uds]") {
  ChannelLimits limits;
  limits.max_frame_payload_bytes = 1000;
  limits.max_reply_bytes = 5000;
  Pair t(limits);
  t.host.begin(call_of("x"));
  SECTION("another call's answer") { write_all(t.peer, end_frame(2)); }
  SECTION("garbage") { write_all(t.peer, wire::as_bytes("garbage garbage garbage garbage")); }
  SECTION("an oversize frame") { write_all(t.peer, end_frame(1, std::string(1001, 'x'))); }
  SECTION("an envelope of the wrong length") {
    write_all(t.peer, frame({.type = FrameType::end, .call_id = 1}, std::string("\x0a\x7f", 2)));
  }
  SECTION("a length that lies") {
    pb::ReplyHead head;
    head.set_payload_bytes(5001);
    write_all(t.peer, frame_of(FrameType::reply_head, 1, head));
  }
  CHECK(absl::IsInternal(t.host.finish().status));
  CHECK_FALSE(t.host.result->never_began);
  CHECK_FALSE(t.host.channel->is_open());
  t.host.loop.drain();
  CHECK_FALSE(t.host.closed.has_value());
}

TEST_CASE("a peer that does not read delays nobody", "[uds]") {
  Pair t;
  const std::string payload(kMoreThanASocketHolds, 'p');
  const std::size_t sent = t.host.begin(call_of(payload));
  CHECK(sent > 0);
  CHECK(sent < payload.size());
  SECTION("the rest follows as it reads, and the answer is the call's") {
    ByteVector received;
    wire::FrameDecoder decoder({});
    std::size_t bytes = 0;
    REQUIRE(t.host.loop.until([&] {
      t.host.loop.drain();
      received.clear();
      read_some(t.peer, received);
      std::span<const std::byte> input = received;
      wire::FrameDecoder::Step step;
      while ((step = decoder.next(input)) != wire::FrameDecoder::Step::need_input) {
        REQUIRE(step != wire::FrameDecoder::Step::failed);
        if (step == wire::FrameDecoder::Step::payload) bytes += decoder.payload().size();
      }
      return bytes == payload.size();
    }));
    write_all(t.peer, end_frame(1, "all"));
    CHECK(t.host.finish().status.ok());
  }
  SECTION("an answer before it read all is none") {
    // Noticed at the first frame of it, and not with the last.
    pb::ReplyHead head;
    head.set_payload_bytes(5);
    write_all(t.peer, GENERATE_REF(end_frame(1, "early"), frame_of(FrameType::reply_head, 1, head)));
    CHECK(absl::IsInternal(t.host.finish().status));
    CHECK_THAT(std::string(t.host.result->status.message()),
               ContainsSubstring("before the whole call was sent"));
  }
  SECTION("its death proves that the call never began") {
    t.peer.reset();
    CHECK(absl::IsUnavailable(t.host.finish().status));
    CHECK(t.host.result->never_began);
    CHECK((to_text(t.host.result->payload) == payload));  // for the next sandbox
  }
}

TEST_CASE("a second call is refused, and the one in flight goes on undisturbed", "[uds]") {
  Pair t;
  t.host.begin(call_of("first"));
  std::optional<CallResult> second;
  const auto begin_second = [&] {
    second.reset();
    CHECK(t.host.channel->begin_call(call_of("second"),
                                     [&second](CallResult result) { second = std::move(result); }) == 0);
    CHECK_FALSE(second.has_value());
  };
  SECTION("while it runs") {
    begin_second();
    REQUIRE(t.host.loop.until([&] { return second.has_value(); }));
    CHECK_FALSE(t.host.result.has_value());
    write_all(t.peer, end_frame(1, "answer"));
  }
  SECTION("while its answer is on the way to its handler") {
    write_all(t.peer, end_frame(1, "answer"));
    REQUIRE(t.host.loop.step());  // reads it, and posts
    REQUIRE_FALSE(t.host.result.has_value());
    begin_second();
  }
  REQUIRE(t.host.finish().status.ok());
  CHECK(to_text(t.host.result->reply.payload) == "answer");
  REQUIRE(t.host.loop.until([&] { return second.has_value(); }));
  CHECK(second->status ==
        absl::FailedPreconditionError("a call while call 1 is in flight, the limit is one at a time"));
  CHECK(second->never_began);
  CHECK(to_text(second->payload) == "second");

  // It died having read its call: nothing about a refused one may pass for a proof.
  ByteVector received;
  read_some(t.peer, received);
  t.host.begin(call_of("third"));
  read_some(t.peer, received);
  begin_second();
  t.peer.reset();
  CHECK(absl::IsUnavailable(t.host.finish().status));
  CHECK_FALSE(t.host.result->never_began);
}

TEST_CASE("a sandbox that floods its channel with empty frames is cut off", "[uds]") {
  Pair t;
  ByteVector flood;
  const auto many = [&flood](const ByteVector& one) {
    for (int i = 0; i < 2000; ++i) flood.insert(flood.end(), one.begin(), one.end());
  };
  SECTION("while idle") {
    many(frame({.type = static_cast<FrameType>(99), .flags = wire::kSkipIfUnknown}));
    write_all(t.peer, flood);
    REQUIRE(t.host.loop.until([&] { return t.host.closed.has_value(); }));
    CHECK(absl::IsInternal(*t.host.closed));
    CHECK_THAT(std::string(t.host.closed->message()), ContainsSubstring("the limit is 1024"));
  }
  SECTION("in a call") {
    t.host.begin(call_of("x"));
    many(frame({.type = FrameType::log, .call_id = 1}));
    write_all(t.peer, flood);
    CHECK(absl::IsInternal(t.host.finish().status));
    CHECK_THAT(std::string(t.host.result->status.message()), ContainsSubstring("the limit is 1024"));
  }
  CHECK_FALSE(t.host.channel->is_open());
}

TEST_CASE("a channel takes no more than 64 KiB before the others of its shard have their turn", "[uds]") {
  Ends ends = make_ends();
  const int host_fd = ends.host.get();  // only looked at
  Pair t({}, std::move(ends));
  const auto unread = [host_fd] {
    int bytes = 0;
    REQUIRE(::ioctl(host_fd, FIONREAD, &bytes) == 0);
    return bytes;
  };
  t.host.begin(call_of("x"));
  const std::string part(50000, 'b');
  pb::ReplyHead head;
  head.set_payload_bytes(part.size() * 3);
  const ByteVector body = frame({.type = FrameType::body, .call_id = 1}, "", part);
  write_all(t.peer, frame_of(FrameType::reply_head, 1, head) + body + body + body + end_frame(1));
  int left = unread();
  REQUIRE(left > 150000);
  while (!t.host.result.has_value()) {
    REQUIRE(t.host.loop.step());
    const int now = unread();
    CHECK(left - now <= (64 << 10) + 4096);  // asio reads ahead into the small buffer
    left = now;
  }
  CHECK(t.host.result->status.ok());
  CHECK(t.host.result->reply.payload.size() == part.size() * 3);
}

TEST_CASE("never_began is claimed with proof only", "[uds]") {
  Pair t;
  SECTION("died before the call: no byte of it was sent") {
    t.peer.reset();
    CHECK(t.host.begin(call_of("x")) == 0);
    CHECK(absl::IsUnavailable(t.host.finish().status));
    CHECK(t.host.result->never_began);
    CHECK(to_text(t.host.result->payload) == "x");
  }
  SECTION("died with the call unread") {
    t.host.begin(call_of("x"));
    t.peer.reset();
    CHECK(absl::IsUnavailable(t.host.finish().status));
    CHECK_THAT(std::string(t.host.result->status.message()), ContainsSubstring("ECONNRESET"));
    CHECK(t.host.result->never_began);
    CHECK(to_text(t.host.result->payload) == "x");
  }
  SECTION("died with part of the call unread") {
    t.host.begin(call_of(std::string(100, 'x')));
    ByteVector received;
    read_some(t.peer, received, 30);
    t.peer.reset();
    t.host.finish();
    CHECK(t.host.result->never_began);
  }
  SECTION("read the call, then died") {
    t.host.begin(call_of("x"));
    ByteVector received;
    read_some(t.peer, received);
    t.peer.reset();
    CHECK(absl::IsUnavailable(t.host.finish().status));
    CHECK_FALSE(t.host.result->never_began);
    CHECK(t.host.result->payload.empty());
  }
  SECTION("answered in part, then died with something unread") {
    t.host.begin(call_of("x"));
    pb::ReplyHead head;
    head.set_payload_bytes(5);
    write_all(t.peer, frame_of(FrameType::reply_head, 1, head));
    t.peer.reset();
    CHECK(absl::IsUnavailable(t.host.finish().status));
    CHECK_FALSE(t.host.result->never_began);
  }
}

TEST_CASE("a peer that only stops reading ends the channel, too", "[uds]") {
  Pair t;
  REQUIRE(::shutdown(t.peer.get(), SHUT_RD) == 0);
  CHECK(t.host.begin(call_of("x")) == 0);
  CHECK(absl::IsUnavailable(t.host.finish().status));
  CHECK(t.host.result->never_began);
}

TEST_CASE("an idle channel tells of its peer's end", "[uds]") {
  Pair t;
  t.peer.reset();
  REQUIRE(t.host.loop.until([&] { return t.host.closed.has_value(); }));
  CHECK(absl::IsUnavailable(*t.host.closed));
  CHECK_FALSE(t.host.channel->is_open());
}

TEST_CASE("close() ends a call with its reason, posted; a channel that is gone calls nobody", "[uds]") {
  Pair t;
  SECTION("close with a call in flight") {
    t.host.begin(call_of("x"));
    t.host.channel->close(absl::CancelledError("deadline"));
    CHECK_FALSE(t.host.result.has_value());
    CHECK(t.host.finish().status == absl::CancelledError("deadline"));
    CHECK_FALSE(t.host.channel->is_open());
  }
  SECTION("close while idle reports to nobody") {
    t.host.channel->close(absl::CancelledError("evicted"));
    t.host.loop.drain();
    CHECK_FALSE(t.host.closed.has_value());
  }
  SECTION("destroyed with an answer already posted") {
    t.host.begin(call_of("x"));
    t.host.channel->close(absl::CancelledError("gone"));
    t.host.channel.reset();
    t.host.loop.drain();
    CHECK_FALSE(t.host.result.has_value());
  }
  SECTION("destroyed inside its own handler") {
    bool ran = false;
    t.host.channel->begin_call(call_of("x"), [&](CallResult) {
      ran = true;
      t.host.channel.reset();
    });
    write_all(t.peer, end_frame(1));
    REQUIRE(t.host.loop.until([&] { return ran; }));
    t.host.loop.drain();
  }
  // The peer sees the end.
  if (t.host.channel == nullptr || !t.host.channel->is_open()) {
    pollfd ready{t.peer.get(), POLLRDHUP, 0};
    CHECK(::poll(&ready, 1, 5000) == 1);
  }
}

TEST_CASE("a payload over the limit is refused before a byte is sent", "[uds]") {
  ChannelLimits limits;
  limits.max_payload_bytes = 10;
  Pair t(limits);
  CHECK(t.host.begin(call_of("eleven bytes")) == 0);
  CHECK(absl::IsInvalidArgument(t.host.finish().status));
  CHECK(t.host.result->never_began);
  CHECK(to_text(t.host.result->payload) == "eleven bytes");
  t.host.begin(call_of("ten bytes!"));
  write_all(t.peer, end_frame(1));
  CHECK(t.host.finish().status.ok());
}

TEST_CASE("answers arrive whole however they are cut", "[uds][property]") {
  const std::uint64_t seed = 31337;
  std::mt19937_64 rng(seed);
  ChannelLimits limits;
  limits.max_frame_payload_bytes = 8000;
  Pair t(limits);
  for (std::uint64_t id = 1; id <= 60; ++id) {
    CAPTURE(seed, id);
    std::string want(rng() % 40000, '\0');
    for (char& c : want) c = static_cast<char>(rng());
    ByteVector bytes;
    if (want.size() <= 8000) {
      bytes = end_frame(id, want);
    } else {
      pb::ReplyHead head;
      head.set_payload_bytes(want.size());
      bytes = frame_of(FrameType::reply_head, id, head);
      for (std::size_t at = 0; at < want.size(); at += 8000) {
        bytes = bytes +
                frame({.type = FrameType::body, .call_id = id}, "", std::string_view(want).substr(at, 8000));
      }
      bytes = bytes + end_frame(id);
    }
    t.host.begin(call_of("x"));
    const std::size_t most = 1 + rng() % (id % 3 == 0 ? 100 : 20000);
    for (std::span<const std::byte> left = bytes; !left.empty();) {
      const std::size_t size = std::min<std::size_t>(left.size(), 1 + rng() % most);
      write_all(t.peer, left.first(size));
      left = left.subspan(size);
      t.host.loop.drain();
    }
    REQUIRE(t.host.finish().status.ok());
    CHECK(to_text(t.host.result->reply.payload) == want);
  }
}

TEST_CASE("what is no channel, and limits that cannot be, are refused", "[uds]") {
  Loop loop;
  auto factory = make_channel_factory();
  REQUIRE(factory.ok());
  CHECK(absl::IsInvalidArgument(
      (*factory)->open(UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0)), loop.executor()).status()));
  CHECK_FALSE((*factory)->open(UniqueFd(::open("/dev/null", O_RDWR | O_CLOEXEC)), loop.executor()).ok());
  ChannelLimits limits;
  limits.max_frame_payload_bytes = 0;
  const absl::Status status = make_channel_factory(limits).status();
  CHECK(absl::IsInvalidArgument(status));
  CHECK_THAT(std::string(status.message()), ContainsSubstring("max_frame_payload_bytes"));
}

}  // namespace faaskit::uds
