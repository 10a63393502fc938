// If these failed, a sandbox could send more than its receiver has room for, pass off half a reply as whole,
// or put a header of its own making into somebody's answer.
#include <optional>
#include <random>

#include "catch.hpp"
#include "wire/envelope.pb.h"
#include "wire/frames.h"
#include "wire/host_protocol.h"

namespace faaskit::wire {
namespace {

using Event = HostProtocol::Event;
using Pairs = std::vector<std::pair<std::string, std::string>>;

constexpr std::uint64_t kWindow = 1 << 20;

struct NoStream final : ReplyStream {
  void head(ReplyHead) override {}
  void body(Bytes, Taken) override {}
};

ByteVector hello() {
  pb::Hello message;
  message.set_min_version(1);
  message.set_max_version(1);
  message.set_runtime_us(1500);
  message.set_init_us(UINT64_MAX);
  return frame_of(FrameType::hello, 0, message);
}

template <typename Message>
void add(Message& message, const Pairs& pairs) {
  for (const auto& [name, value] : pairs) {
    pb::Pair& pair = *message.add_metadata();
    pair.set_name(name);
    pair.set_value(value);
  }
}

// Without `bytes`: of unknown length.
ByteVector head(std::optional<std::uint64_t> bytes = {}, const Pairs& pairs = {}) {
  pb::ReplyHead message;
  message.set_content_type("text/event-stream");
  message.set_payload_bytes(bytes.value_or(0));
  message.set_unknown_length(bytes ? 0 : 1);
  add(message, pairs);
  return frame_of(FrameType::reply_head, 1, message);
}

ByteVector body(std::string_view payload) {
  return frame({.type = FrameType::body, .call_id = 1}, "", payload);
}

ByteVector finish(std::string_view payload = {}, std::uint32_t status = 0, const Pairs& pairs = {}) {
  pb::End message;
  message.set_status(status);
  if (status != 0) message.set_message("ValueError: half-way");
  add(message, pairs);
  return frame_of(FrameType::end, 1, message, payload);
}

// A protocol in its first call, and what its stream heard.
struct Streamed {
  explicit Streamed(ChannelLimits limits = {}, bool stream = true) : protocol(limits) {
    feed(hello());
    ChannelCall call;
    if (stream) call.stream = std::make_shared<NoStream>();
    REQUIRE(protocol.begin_call(call).ok());
  }

  // Everything in `bytes`; the last event that ended it.
  Event feed(std::span<const std::byte> bytes) {
    while (true) {
      const Event event = protocol.receive(bytes);
      switch (event) {
        case Event::hello:
        case Event::pong: break;
        case Event::head:
          CHECK(++heads == 1);
          CHECK(parts.empty());
          reply_head = protocol.take_head();
          break;
        case Event::body: parts.push_back(as_text(protocol.take_body())); break;
        case Event::reply:
          ++replies;
          reply = protocol.take_reply();
          break;
        case Event::need_input:
        case Event::failed: return event;
      }
    }
  }
  std::string broken_by(const ByteVector& bytes) {
    CHECK(feed(bytes) == Event::failed);
    CHECK(absl::IsInternal(protocol.error()));
    return std::string(protocol.error().message());
  }
  std::string text() const {
    std::string all;
    for (const std::string& part : parts) all += part;
    return all;
  }
  std::uint64_t credit() {
    std::uint64_t bytes = 0;
    const ByteVector control = protocol.take_control();
    FrameDecoder decoder({});
    std::span<const std::byte> input = control;
    for (auto step = decoder.next(input); step != FrameDecoder::Step::need_input;
         step = decoder.next(input)) {
      if (step != FrameDecoder::Step::head) continue;
      pb::Credit message;
      REQUIRE(message.ParseFromString(as_text(decoder.envelope())));
      bytes += message.bytes();
    }
    return bytes;
  }

  HostProtocol protocol;
  int heads = 0;
  int replies = 0;
  ReplyHead reply_head;
  std::vector<std::string> parts;
  ChannelReply reply;
};

}  // namespace

TEST_CASE("a call says what travels beside its payload, and that its reply is streamed", "[wire]") {
  HostProtocol protocol({});
  ByteVector first = hello();
  std::span<const std::byte> input = first;
  REQUIRE(protocol.receive(input) == Event::hello);
  CHECK(protocol.hello().runtime_time == std::chrono::microseconds(1500));
  CHECK(protocol.hello().init_time ==
        std::chrono::microseconds(INT64_MAX / 1000));  // a claim, and no overflow
  ChannelCall call;
  call.metadata = {{":method", "GET"}, {"accept", "a"}, {"accept", "b"}};
  call.stream = std::make_shared<NoStream>();
  const auto envelope = [&protocol] {
    pb::Call message;
    REQUIRE(message.ParseFromString(as_text(protocol.head().subspan(kHeaderBytes))));
    return message;
  };
  REQUIRE(protocol.begin_call(call).ok());
  pb::Call message = envelope();
  CHECK(message.streams() == 1);
  CHECK(message.max_reply_bytes() == 1 << 30);
  REQUIRE(message.metadata_size() == 3);
  CHECK(std::string(message.metadata(0).name()) == ":method");
  CHECK(std::string(message.metadata(2).value()) == "b");

  // Nothing of it is left for the next call.
  const ByteVector answer = finish();
  input = answer;
  REQUIRE(protocol.receive(input) == Event::reply);
  REQUIRE(protocol.begin_call({}).ok());
  message = envelope();
  CHECK(message.streams() == 0);
  CHECK(message.max_reply_bytes() == 0);
  CHECK(message.metadata_size() == 0);
}

TEST_CASE("metadata of a call beyond the limits is refused, and the channel stays usable", "[wire]") {
  HostProtocol protocol({});
  const ByteVector first = hello();
  std::span<const std::byte> input = first;
  REQUIRE(protocol.receive(input) == Event::hello);
  ChannelCall call;
  call.metadata = {{"x", std::string(32 << 10, 'v')}};
  absl::Status status = protocol.begin_call(call);
  CHECK(absl::IsInvalidArgument(status));
  CHECK(std::string(status.message()) ==
        "metadata of 32769 bytes in 1 pairs exceeds the limit of 32768 bytes or of 256 pairs");
  call.metadata.assign(257, {"x", "y"});
  CHECK(absl::IsInvalidArgument(protocol.begin_call(call)));
  CHECK(protocol.idle());
  call.metadata = {{"x", std::string((32 << 10) - 1, 'v')}};
  CHECK(protocol.begin_call(call).ok());
}

TEST_CASE("a reply of one frame never touches the stream", "[wire]") {
  Streamed t;
  REQUIRE(t.feed(finish("small", 0, {{":status", "404"}, {"x-y", ""}})) == Event::need_input);
  CHECK(t.heads == 0);
  CHECK(t.parts.empty());
  CHECK(as_text(t.reply.payload) == "small");
  CHECK(t.reply.payload_bytes == 5);
  CHECK(t.reply.metadata == Metadata{{":status", "404"}, {"x-y", ""}});
}

TEST_CASE("a reply goes to its stream: head, parts, end", "[wire]") {
  Streamed t;
  const bool known = GENERATE(true, false);
  REQUIRE(t.feed(head(known ? std::optional<std::uint64_t>(9) : std::nullopt, {{"a", "1"}})) ==
          Event::need_input);
  CHECK(t.heads == 1);
  CHECK(t.reply_head.content_type == "text/event-stream");
  CHECK(t.reply_head.metadata == Metadata{{"a", "1"}});
  CHECK(t.reply_head.bytes == (known ? std::optional<std::uint64_t>(9) : std::nullopt));
  t.feed(body("one"));
  CHECK(t.parts == std::vector<std::string>{"one"});  // at once, and not with the next
  t.feed(body("two") + finish("six"));
  CHECK(t.text() == "onetwosix");
  CHECK(t.replies == 1);
  CHECK(t.reply.function_status.ok());
  CHECK(t.reply.payload.empty());
  CHECK(t.reply.metadata.empty());
  CHECK(t.reply.payload_bytes == 9);
  CHECK(t.protocol.idle());
}

TEST_CASE("without a stream a reply is assembled, with its metadata", "[wire]") {
  Streamed t({}, false);
  t.feed(head(6, {{"a", "1"}}) + body("one") + body("two") + finish("", 0, {{"late", "ignored"}}));
  CHECK(t.heads == 0);
  CHECK(as_text(t.reply.payload) == "onetwo");
  CHECK(t.reply.payload_bytes == 6);
  CHECK(t.reply.metadata == Metadata{{"a", "1"}});
}

TEST_CASE("an error after the head cuts a streamed reply short, whatever was announced", "[wire]") {
  Streamed t;
  t.feed(GENERATE(head(), head(100)) + body("half") + finish("", 2));
  CHECK(t.text() == "half");
  CHECK(t.reply.function_status == absl::UnknownError("ValueError: half-way"));
  CHECK(t.reply.payload_bytes == 4);
  CHECK(t.protocol.idle());
}

TEST_CASE("credit for a stream follows what was taken, and not what was read", "[wire]") {
  Streamed t;
  const std::string part(256 << 10, 'p');
  t.feed(head());
  for (int i = 0; i < 4; ++i) REQUIRE(t.feed(body(part)) == Event::need_input);
  CHECK(t.credit() == 0);
  SECTION("nothing taken: a byte beyond the window breaks the protocol") {
    CHECK_THAT(t.broken_by(body("x")),
               ContainsSubstring("1048577 bytes of body, the credit given was 1048576"));
  }
  SECTION("nor does END carry it") {
    CHECK_THAT(t.broken_by(finish("x")), ContainsSubstring("the credit given was 1048576"));
  }
  SECTION("taken: as much again") {
    t.protocol.taken(part.size());
    CHECK(t.credit() == 0);  // in halves
    t.protocol.taken(part.size());
    CHECK(t.credit() == kWindow / 2);
    t.protocol.taken(2 * part.size());
    CHECK(t.credit() == kWindow / 2);
    CHECK_FALSE(t.protocol.reset_proves_never_began());
    for (int i = 0; i < 4; ++i) REQUIRE(t.feed(body(part)) == Event::need_input);
    CHECK_THAT(t.broken_by(body("x")), ContainsSubstring("the credit given was 2097152"));
  }
}

TEST_CASE("credit for a stream of known length ends with what is still to come", "[wire]") {
  Streamed t;
  const std::string part(kWindow, 'p');
  t.feed(head(kWindow + 1000) + body(part));
  t.protocol.taken(part.size());
  CHECK(t.credit() == 1000);
  t.feed(finish(std::string(1000, 'e')));
  CHECK(t.reply.payload_bytes == kWindow + 1000);
}

TEST_CASE("small frames that came together are handed on together", "[wire]") {
  Streamed t;
  ByteVector bytes = head();
  for (int i = 0; i < 1000; ++i) bytes = std::move(bytes) + body("0123456789");
  t.feed(bytes);
  CHECK(t.parts.size() == 1);
  CHECK(t.text().size() == 10000);
  SECTION("and do not wait for a frame that is not whole") {
    const ByteVector next = body("whole") + body("half");
    t.feed(std::span(next).first(next.size() - 1));
    CHECK(t.parts.back() == "whole");
    t.feed(std::span(next).last(1));
    CHECK(t.parts.back() == "half");
  }
  SECTION("nor beyond 64 KiB and a frame") {
    const std::string part(40 << 10, 'p');
    t.feed(body(part) + body(part) + body(part));
    REQUIRE(t.parts.size() == 3);
    CHECK(t.parts[1].size() == 80 << 10);
  }
}

TEST_CASE("what breaks the protocol of a streamed reply is named", "[wire]") {
  ChannelLimits limits;
  limits.max_streamed_bytes = 100;
  SECTION("unknown length, and nobody streams") {
    CHECK_THAT(Streamed({}, false).broken_by(head()), ContainsSubstring("unknown length"));
  }
  SECTION("answers twice") {
    CHECK_THAT(Streamed().broken_by(head() + finish() + finish()), ContainsSubstring("while no call runs"));
  }
  SECTION("a second head") {
    CHECK_THAT(Streamed().broken_by(head() + head()), ContainsSubstring("second REPLY_HEAD"));
  }
  SECTION("a length that lies: too much") {
    CHECK_THAT(Streamed().broken_by(head(3) + body("four")), ContainsSubstring("announced 3"));
  }
  SECTION("a length that lies: too little, without an error") {
    CHECK_THAT(Streamed().broken_by(head(5) + body("four") + finish()), ContainsSubstring("announced 5"));
  }
  SECTION("an announcement beyond the limit") {
    CHECK_THAT(Streamed(limits).broken_by(head(101)),
               ContainsSubstring("101 bytes announced, the limit is 100"));
  }
  SECTION("beyond the limit without an announcement") {
    CHECK_THAT(Streamed(limits).broken_by(head() + body(std::string(60, 'x')) + body(std::string(41, 'x'))),
               ContainsSubstring("reply of 101 bytes, the limit is 100"));
    CHECK_THAT(Streamed(limits).broken_by(head() + body(std::string(60, 'x')) + finish(std::string(41, 'x'))),
               ContainsSubstring("reply of 101 bytes, the limit is 100"));
  }
  SECTION("one frame beyond the limit") {
    CHECK_THAT(Streamed(limits).broken_by(finish(std::string(101, 'x'))),
               ContainsSubstring("the limit is 100"));
  }
  SECTION("an error with more of the reply") {
    CHECK_THAT(Streamed().broken_by(head() + finish("more", 2)),
               ContainsSubstring("END with an error and 4 bytes"));
  }
}

TEST_CASE("metadata of a reply has names and values fit for a header, and limits", "[wire]") {
  const auto breaks = [](const Pairs& pairs) {
    const std::string in_end = Streamed().broken_by(finish("", 0, pairs));
    CHECK(Streamed().broken_by(head({}, pairs)) == in_end);
    return in_end;
  };
  CHECK_THAT(breaks({{"Upper", "x"}}), ContainsSubstring("'Upper' is no name in a reply's metadata"));
  CHECK_THAT(breaks({{"", "x"}}), ContainsSubstring("is no name"));
  CHECK_THAT(breaks({{":", "x"}}), ContainsSubstring("is no name"));
  CHECK_THAT(breaks({{"a b", "x"}}), ContainsSubstring("is no name"));
  CHECK_THAT(breaks({{"a:b", "x"}}), ContainsSubstring("is no name"));
  CHECK_THAT(breaks({{std::string("a\0", 2), "x"}}), ContainsSubstring("'a\\x00' is no name"));
  CHECK_THAT(breaks({{"a", "x\r\nset-cookie: y"}}), ContainsSubstring("line break or a NUL"));
  CHECK_THAT(breaks({{"a", std::string("\0", 1)}}), ContainsSubstring("line break or a NUL"));
  CHECK_THAT(breaks(Pairs(257, {"a", "b"})), ContainsSubstring("257 pairs, the limit is 256"));
  CHECK_THAT(breaks({{"a", std::string(32 << 10, 'x')}}),
             ContainsSubstring("32769 bytes, the limit is 32768"));
  Streamed t;
  t.feed(finish("", 0, {{"x-1!#$%&'*+-.^_`|~", "\xff \t"}, {"a", std::string(32000, 'x')}}));
  CHECK(t.reply.metadata.size() == 2);
}

TEST_CASE("a trickle is legitimate, and bounded", "[wire]") {
  Streamed t;
  constexpr std::uint64_t kSpare = 64 << 10;
  t.feed(GENERATE(head(), head(10 << 20)));
  const ByteVector event = body("data: thirty bytes of an event");
  std::uint64_t frames = 0;
  // The bytes that came bought some more.
  const auto most = [&] { return kSpare + (frames + 1) * 30 / 512; };
  while (frames + 1 <= most()) {
    if (t.feed(event) != Event::need_input) break;
    ++frames;
    t.protocol.taken(30);
    t.protocol.take_control();
  }
  CHECK(frames > kSpare);
  CHECK(t.text().size() == frames * 30);
  CHECK_THAT(t.broken_by(event), ContainsSubstring("BODY frames for a reply of"));
}

TEST_CASE("however a stream's bytes are cut, the same is heard", "[wire][property]") {
  const std::uint64_t seed = 4711;
  std::mt19937_64 rng(seed);
  ChannelLimits limits;
  limits.max_streamed_bytes = 3000;
  limits.max_frame_payload_bytes = 500;
  int broken = 0;
  for (int round = 0; round < 1500; ++round) {
    CAPTURE(seed, round);
    ByteVector bytes = head(rng() % 2 == 0 ? std::nullopt : std::optional<std::uint64_t>(rng() % 3000));
    for (std::uint64_t i = rng() % 12; i > 0; --i) {
      bytes = std::move(bytes) + (rng() % 6 == 0 ? frame({.type = FrameType::log, .call_id = 1}, "", "log")
                                                 : body(std::string(1 + rng() % 400, 'b')));
    }
    bytes = std::move(bytes) + finish(std::string(rng() % 3 * 10, 'e'), rng() % 4 == 0 ? 2 : 0);
    if (rng() % 3 == 0) bytes[rng() % bytes.size()] ^= static_cast<std::byte>(1 << (rng() % 8));

    Streamed whole(limits);
    whole.feed(bytes);
    Streamed cut(limits);
    for (std::span<const std::byte> left = bytes; !left.empty() && !cut.protocol.failed();) {
      const auto piece = left.first(std::min<std::size_t>(left.size(), 1 + rng() % 200));
      cut.feed(piece);
      left = left.subspan(piece.size());
    }
    CHECK(cut.heads == whole.heads);
    CHECK(cut.replies == whole.replies);
    CHECK(cut.protocol.error() == whole.protocol.error());
    CHECK(cut.reply.function_status == whole.reply.function_status);
    CHECK(cut.reply.payload_bytes == whole.reply.payload_bytes);
    CHECK(whole.text().size() <= limits.max_streamed_bytes);
    if (whole.replies == 1) CHECK(cut.text() == whole.text());
    // What came whole before a broken frame may have been handed on already.
    if (whole.protocol.failed()) CHECK(cut.text().starts_with(whole.text()));
    broken += whole.protocol.failed() ? 1 : 0;
  }
  CHECK(broken > 100);
  CHECK(broken < 1500);
}

}  // namespace faaskit::wire
