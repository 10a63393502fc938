// If these failed, a streamed reply could overrun its receiver, reach one that is gone, or bring a host down
// from a thread that is late. The peer is a raw socket, and writes what it likes.
#include <deque>
#include <functional>
#include <thread>

#include "harness.h"
#include "wire/envelope.pb.h"
#include "wire/frame_decoder.h"
#include "wire/frames.h"

namespace faaskit::uds {
namespace {

namespace pb = wire::pb;
using wire::ByteVector;
using wire::frame;
using wire::frame_of;
using wire::FrameType;
using wire::operator+;

struct Receiver final : ReplyStream {
  void head(ReplyHead head) override { heads.push_back(std::move(head)); }
  void body(Bytes part, Taken taken) override {
    text += to_text(part);
    slips.push_back(std::move(taken));
    if (on_body) on_body();
  }
  std::vector<ReplyHead> heads;
  std::string text;
  std::deque<Taken> slips;
  std::function<void()> on_body;
};

ByteVector stream_head() {
  pb::ReplyHead head;
  head.set_unknown_length(1);
  head.set_content_type("text/plain");
  return frame_of(FrameType::reply_head, 1, head);
}

ByteVector part(std::string_view text) { return frame({.type = FrameType::body, .call_id = 1}, "", text); }

ByteVector finish(std::uint32_t status = 0) {
  pb::End end;
  end.set_status(status);
  end.set_message(status == 0 ? "" : "no more");
  return frame_of(FrameType::end, 1, end);
}

// A host in a call with a stream, and a raw peer that has read the call.
struct Streaming {
  Streaming() : host(start()) {
    pb::Hello message;
    message.set_min_version(1);
    message.set_max_version(1);
    write(frame_of(FrameType::hello, 0, message));
    REQUIRE(host.hello().ok());
    ChannelCall call = call_of("x");
    call.stream = receiver;
    host.begin(std::move(call));
    read();
  }

  UniqueFd start() {
    Ends ends = make_ends();
    peer = std::move(ends.peer);
    return std::move(ends.host);
  }
  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(peer.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
      if (sent < 0) {
        REQUIRE(errno == EAGAIN);
        REQUIRE(host.loop.step());
        continue;
      }
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
  }
  // What is there, without waiting.
  ByteVector read() {
    ByteVector bytes(4096);
    const ssize_t got = ::recv(peer.get(), bytes.data(), bytes.size(), MSG_DONTWAIT);
    bytes.resize(got > 0 ? static_cast<std::size_t>(got) : 0);
    return bytes;
  }
  void hear(std::size_t bytes) {
    REQUIRE(host.loop.until([&] { return receiver->text.size() >= bytes; }));
  }

  UniqueFd peer;
  std::shared_ptr<Receiver> receiver = std::make_shared<Receiver>();
  Host host;
};

}  // namespace

TEST_CASE("a streamed reply arrives part by part, and its end is the result", "[uds]") {
  Streaming t;
  t.write(stream_head() + part("one"));
  t.hear(3);
  CHECK(t.receiver->heads.size() == 1);
  CHECK(t.receiver->heads[0].content_type == "text/plain");
  CHECK_FALSE(t.host.result.has_value());
  t.write(part("two"));
  t.hear(6);
  SECTION("whole") {
    t.write(finish());
    CHECK(t.host.finish().reply.function_status.ok());
  }
  SECTION("cut short by its function") {
    t.write(finish(2));
    CHECK(t.host.finish().reply.function_status == absl::UnknownError("no more"));
  }
  CHECK(t.host.result->status.ok());
  CHECK(t.host.result->reply.payload_bytes == 6);
  CHECK(t.host.channel->is_open());
  CHECK(t.receiver.use_count() == 1);  // nothing holds on to it
}

TEST_CASE("credit comes when a part is taken, from whatever thread", "[uds]") {
  Streaming t;
  t.write(stream_head() + part(std::string(1 << 20, 'p')));
  t.hear(1 << 20);
  t.host.loop.drain();
  CHECK(t.read().empty());
  SECTION("said") {
    std::thread([&t] {
      for (ReplyStream::Taken& slip : t.receiver->slips) slip();
    }).join();
  }
  SECTION("dropped") {
    std::thread([&t] { t.receiver->slips.clear(); }).join();
  }
  ByteVector got;
  REQUIRE(t.host.loop.until([&] {
    t.host.loop.drain();
    const ByteVector more = t.read();
    got.insert(got.end(), more.begin(), more.end());
    return !got.empty();
  }));
  pb::Credit credit;
  REQUIRE(credit.ParseFromString(wire::as_text(std::span(got).subspan(wire::kHeaderBytes))));
  CHECK(credit.bytes() == 1 << 20);
  t.receiver->slips.clear();  // twice is once
  t.host.loop.drain();
  CHECK(t.read().empty());
}

TEST_CASE("more than its credit cuts a streamed reply", "[uds]") {
  Streaming t;
  t.write(stream_head() + part(std::string(1 << 20, 'p')) + part("x"));
  CHECK(absl::IsInternal(t.host.finish().status));
  CHECK_FALSE(t.host.result->never_began);
  CHECK(t.receiver->text.size() <= 1 << 20);
  CHECK_FALSE(t.host.channel->is_open());
}

TEST_CASE("no stream call comes after the end of its channel, and a late slip is harmless", "[uds]") {
  Streaming t;
  t.write(stream_head() + part("one"));
  SECTION("half a frame, and the end") {
    t.hear(3);
    const ByteVector half = part("never whole");
    t.write(std::span(half).first(half.size() - 1));
    t.peer.reset();
    CHECK(absl::IsUnavailable(t.host.finish().status));
  }
  SECTION("closed by its owner") {
    t.hear(3);
    t.write(part("unheard"));
    t.host.channel->close(absl::CancelledError("deadline"));
    CHECK(t.host.finish().status == absl::CancelledError("deadline"));
  }
  SECTION("closed inside body()") {
    t.receiver->on_body = [&t] { t.host.channel->close(absl::CancelledError("enough")); };
    t.hear(3);
    CHECK(t.host.finish().status == absl::CancelledError("enough"));
  }
  SECTION("destroyed inside body()") {
    t.receiver->on_body = [&t] { t.host.channel.reset(); };
    t.hear(3);
  }
  SECTION("settled") {
    t.write(finish());
    CHECK(t.host.finish().status.ok());
  }
  CHECK(t.receiver.use_count() == 1);
  std::thread([&t] { t.receiver->slips.clear(); }).join();
  t.host.loop.drain();
  CHECK(t.receiver->text == "one");
}

namespace {

// A real worker in C++, and a receiver that takes at once.
struct Echo {
  Echo(ChannelLimits limits = {}, Ends ends = make_ends())
      : process({FAASKIT_ECHO_WORKER}, std::move(ends.peer)), host(std::move(ends.host), limits) {
    REQUIRE(host.hello().ok());
    receiver->on_body = [this] {
      if (takes) receiver->slips.clear();
    };
  }
  CallResult& call(std::string_view payload, std::string what, bool stream = true) {
    ChannelCall call = call_of(payload, std::move(what));
    if (stream) call.stream = receiver;
    call.metadata = {{":path", "/a?b"}, {"x-y", "1"}};
    host.begin(std::move(call));
    return host.finish();
  }
  Process process;
  std::shared_ptr<Receiver> receiver = std::make_shared<Receiver>();
  bool takes = true;
  Host host;
};

}  // namespace

TEST_CASE("a worker streams what its function writes, and knows the metadata", "[uds][process]") {
  Echo t;
  CHECK(t.call("", "metadata").reply.metadata == Metadata{{":path", "/a?b"}, {"x-y", "1"}});
  CHECK(t.receiver->heads.empty());
  SECTION("more than any assembled reply may have") {
    const CallResult& result = t.call("200", "stream");
    REQUIRE(result.status.ok());
    CHECK(result.reply.function_status.ok());
    CHECK(result.reply.payload_bytes == 20000000);
    CHECK(t.receiver->text.size() == 20000000);
    CHECK(t.receiver->heads.size() == 1);
    CHECK_FALSE(t.receiver->heads[0].bytes.has_value());
  }
  SECTION("cut short") {
    CHECK(t.call("3", "stream and fail").reply.function_status == absl::UnknownError("half-way"));
    CHECK(t.receiver->text.size() == 300000);
  }
  SECTION("nothing at all") {
    CHECK(t.call("0", "stream").reply.function_status.ok());
    CHECK(t.receiver->heads.empty());
  }
  SECTION("crumbs without end are joined") {
    const CallResult& result = t.call("200000", "crumbs");
    REQUIRE(result.status.ok());
    CHECK(t.receiver->text.size() == 1000000);
  }
  SECTION("collected, where nobody streams") {
    const CallResult& result = t.call("30", "stream", false);
    REQUIRE(result.status.ok());
    CHECK(result.reply.payload.size() == 3000000);
    const CallResult& refused = t.call("63", "stream", false);
    REQUIRE(refused.status.ok());
    CHECK_THAT(std::string(refused.reply.function_status.message()),
               ContainsSubstring("reply has 6300000 bytes, the limit is 6291456"));
  }
  CHECK(to_text(t.call("still here", "text/plain").reply.payload) == "still here");
}

TEST_CASE("a worker waits for its receiver", "[uds][process]") {
  Echo t;
  t.takes = false;
  ChannelCall call = call_of("30", "stream");
  call.stream = t.receiver;
  t.host.begin(std::move(call));
  REQUIRE(t.host.loop.until([&] { return t.receiver->text.size() == 1 << 20; }));
  CHECK_FALSE(t.host.result.has_value());
  t.takes = true;
  t.receiver->slips.clear();
  CHECK(t.host.finish().reply.payload_bytes == 3000000);
}

TEST_CASE("a stream beyond its limit is cut short, and the sandbox serves on", "[uds][process]") {
  ChannelLimits limits;
  limits.max_streamed_bytes = 250000;
  Echo t(limits);
  CHECK_THAT(std::string(t.call("3", "stream").reply.function_status.message()),
             ContainsSubstring("reply has 300000 bytes, the limit is 250000"));
  CHECK(t.receiver->text.size() == 200000);
  CHECK(to_text(t.call("still here", "text/plain").reply.payload) == "still here");
}

}  // namespace faaskit::uds
