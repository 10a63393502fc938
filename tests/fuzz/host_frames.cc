// What a sandbox may send in the course of its life, with calls and pings begun in between. Two hosts hear
// the same bytes, one of them in pieces: they must come to the same events, within the same bounds.
#include "frames.h"
#include "wire/frame_decoder.h"
#include "wire/host_protocol.h"

namespace faaskit::fuzz {
namespace {

using wire::HostProtocol;
using Event = HostProtocol::Event;

struct NoStream final : ReplyStream {
  void head(ReplyHead) override {}
  void body(Bytes, Taken) override {}
};

ChannelLimits limits_of(std::uint8_t how) {
  ChannelLimits limits;
  switch (how % 4) {
    case 0:
      limits.max_frame_payload_bytes = 1000;
      limits.max_reply_bytes = 5000;
      limits.max_streamed_bytes = 20000;
      limits.max_payload_bytes = 2000;
      limits.max_envelope_bytes = 4096;
      break;
    case 1: limits.max_reply_bytes = 3 << 20; break;
    case 2:
      limits.max_frame_payload_bytes = 16;
      limits.max_reply_bytes = 64;
      break;
    default: limits.max_streamed_bytes = 4 << 20;
  }
  return limits;
}

class Host {
 public:
  Host(const ChannelLimits& limits, std::uint32_t seed) : limits_(limits), protocol_(limits), pieces_(seed) {}

  void hear(std::string_view bytes) {
    for (std::span<const std::byte> left = as_bytes(bytes); !left.empty();) {
      const Copy piece(left.first(pieces_.next(left.size())));
      left = left.subspan(piece.bytes().size());
      std::span<const std::byte> input = piece.bytes();
      while (event(input)) {
      }
    }
  }

  bool begin_call(const ChannelCall& call) {
    const std::uint64_t before = protocol_.call_id();
    const absl::Status status = protocol_.begin_call(call);
    FUZZ_CHECK(status.ok() || absl::IsInvalidArgument(status));
    FUZZ_CHECK(protocol_.in_call() == status.ok() && protocol_.idle() != status.ok());
    FUZZ_CHECK(protocol_.call_id() == before + (status.ok() ? 1 : 0));
    FUZZ_CHECK(status.ok() || !status.message().empty());
    if (!status.ok()) return false;
    FUZZ_CHECK(call.payload.size() <= limits_.max_payload_bytes);
    FUZZ_CHECK(protocol_.head().size() <= wire::kHeaderBytes + limits_.max_envelope_bytes);
    FUZZ_CHECK(protocol_.reset_proves_never_began());
    streams_ = call.stream != nullptr;
    head_ = false;
    given_ = taken_ = credit_ = 0;
    return true;
  }
  void ping() {
    protocol_.begin_ping();
    FUZZ_CHECK(!protocol_.idle() && !protocol_.in_call());
    pinging_ = true;
    ++nonce_;
  }
  void take(std::uint64_t bytes) {
    bytes = std::min(bytes, given_ - taken_);
    if (bytes == 0 || !protocol_.in_call()) return;
    taken_ += bytes;
    protocol_.taken(bytes);
  }
  // What the host owes: credit for the call at hand or one that just ended, and pings.
  void send_control() {
    if (!protocol_.has_control()) return;
    const std::vector<std::byte> control = protocol_.take_control();
    wire::FrameDecoder decoder({});
    std::span<const std::byte> input = control;
    for (auto step = decoder.next(input); step != wire::FrameDecoder::Step::need_input;
         step = decoder.next(input)) {
      FUZZ_CHECK(step != wire::FrameDecoder::Step::failed);
      if (step != wire::FrameDecoder::Step::head) continue;
      const FrameHeader& header = decoder.header();
      FUZZ_CHECK(header.payload_bytes == 0);
      if (header.type == FrameType::ping) {
        pb::Ping message;
        FUZZ_CHECK(
            message.ParseFromArray(decoder.envelope().data(), static_cast<int>(decoder.envelope().size())));
        FUZZ_CHECK(message.nonce() == nonce_);
        continue;
      }
      FUZZ_CHECK(header.type == FrameType::credit);
      pb::Credit message;
      FUZZ_CHECK(
          message.ParseFromArray(decoder.envelope().data(), static_cast<int>(decoder.envelope().size())));
      FUZZ_CHECK(message.bytes() > 0 && message.bytes() <= wire::kDefaultWindowBytes);
      if (header.call_id != protocol_.call_id()) continue;
      credit_ += message.bytes();
      // No more than was made room for.
      FUZZ_CHECK(credit_ <= (streams_ ? taken_ : limits_.max_reply_bytes));
      FUZZ_CHECK(!protocol_.reset_proves_never_began());
    }
    FUZZ_CHECK(!decoder.mid_frame());
  }

  HostProtocol& protocol() { return protocol_; }
  std::uint64_t nonce() const { return nonce_; }
  const std::string& story() const { return story_; }
  const std::string& payload() const { return payload_; }

 private:
  void keep(const Bytes& bytes) {
    payload_.append(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  }
  // False: no more of this input.
  bool event(std::span<const std::byte>& input) {
    const bool failed_before = protocol_.failed();
    const std::string error_before(protocol_.error().message());
    const bool said_hello = hello_;
    const bool in_call = protocol_.in_call();
    const Event event = protocol_.receive(input);
    FUZZ_CHECK(!failed_before || (event == Event::failed && protocol_.error().message() == error_before));
    switch (event) {
      case Event::need_input: FUZZ_CHECK(input.empty()); return false;
      case Event::hello:
        FUZZ_CHECK(!said_hello && protocol_.idle());
        hello_ = true;
        story_ += "hello;";
        return true;
      case Event::head: {
        FUZZ_CHECK(in_call && streams_ && !head_);
        head_ = true;
        const ReplyHead head = protocol_.take_head();
        FUZZ_CHECK(head.content_type.size() <= wire::kMaxContentTypeBytes);
        FUZZ_CHECK(!head.bytes || *head.bytes <= limits_.max_streamed_bytes);
        story_ += "head;";
        return true;
      }
      case Event::body: {
        FUZZ_CHECK(in_call && head_);
        const Bytes part = protocol_.take_body();
        FUZZ_CHECK(!part.empty() && part.size() <= wire::kDefaultWindowBytes);
        given_ += part.size();
        FUZZ_CHECK(given_ <= limits_.max_streamed_bytes);
        FUZZ_CHECK(given_ <= wire::kDefaultWindowBytes + taken_);
        keep(part);
        return true;
      }
      case Event::reply: {
        FUZZ_CHECK(in_call && protocol_.idle());
        const ChannelReply reply = protocol_.take_reply();
        FUZZ_CHECK(reply.payload.size() <= limits_.max_reply_bytes);
        FUZZ_CHECK(reply.payload.capacity() <= 2 * limits_.max_reply_bytes);
        FUZZ_CHECK(head_ ? reply.payload.empty() : true);
        FUZZ_CHECK(!head_ || reply.payload_bytes == given_);
        FUZZ_CHECK(head_ || reply.payload_bytes == reply.payload.size());
        FUZZ_CHECK(reply.claimed_run_time.count() >= 0);
        FUZZ_CHECK(reply.function_status.ok() || absl::IsUnknown(reply.function_status));
        FUZZ_CHECK(reply.function_status.message().size() <= wire::kMaxMessageBytes);
        FUZZ_CHECK(reply.content_type.size() <= wire::kMaxContentTypeBytes);
        std::size_t metadata = 0;
        for (const auto& [name, value] : reply.metadata) {
          metadata += name.size() + value.size();
          FUZZ_CHECK(!name.empty() && name.find_first_of(" \r\n") == std::string::npos);
          FUZZ_CHECK(value.find_first_of("\r\n") == std::string::npos);
        }
        FUZZ_CHECK(metadata <= 32 << 10 && reply.metadata.size() <= 256);
        keep(reply.payload);
        story_ += "reply " + std::to_string(payload_.size()) + " " +
                  std::string(reply.function_status.message()) + ";";
        return true;
      }
      case Event::pong:
        FUZZ_CHECK(pinging_ && protocol_.idle());
        pinging_ = false;
        story_ += "pong;";
        return true;
      case Event::failed:
        FUZZ_CHECK(protocol_.failed());
        FUZZ_CHECK(absl::IsInternal(protocol_.error()) || absl::IsFailedPrecondition(protocol_.error()));
        FUZZ_CHECK(protocol_.error().message().size() < 500);
        if (!failed_before) story_ += "failed " + std::string(protocol_.error().message()) + ";";
        return false;
    }
    return false;
  }

  const ChannelLimits limits_;
  HostProtocol protocol_;
  Pieces pieces_;
  std::string story_;
  std::string payload_;  // of all replies, one after the other
  std::uint64_t nonce_ = 0;
  std::uint64_t given_ = 0;  // of the stream
  std::uint64_t taken_ = 0;
  std::uint64_t credit_ = 0;
  bool hello_ = false;
  bool pinging_ = false;
  bool streams_ = false;
  bool head_ = false;
};

ChannelCall make_call(Input& in) {
  const std::uint8_t how = in.byte();
  ChannelCall call;
  call.token = how;
  call.timeout = std::chrono::microseconds(static_cast<std::int64_t>(how % 4 == 3 ? in.eight() : 1000));
  call.payload.resize(how % 8 == 7 ? in.two() : how % 8);
  if (how / 8 % 2 == 1) call.stream = std::make_shared<NoStream>();
  call.trace = in.text(how / 16 == 15 ? in.two() : how / 16);
  if (how / 16 == 14) call.metadata.assign(in.two() % 300, {in.text(4), in.text(in.byte())});
  return call;
}

}  // namespace
}  // namespace faaskit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace faaskit::fuzz;
  Input in(data, size);
  const std::uint8_t how = in.byte();
  const faaskit::ChannelLimits limits = limits_of(how);
  Host whole(limits, 0);
  Host cut(limits, in.two() + 1u);
  std::string bytes;
  if (how < 200) {  // else it has to find its own way to a hello
    pb::Hello hello;
    hello.set_min_version(1);
    hello.set_max_version(1);
    append_frame(bytes, {.type = FrameType::hello}, hello.SerializeAsString(), {});
  }
  std::size_t total = 0;
  while (true) {
    whole.hear(bytes);
    cut.hear(bytes);
    FUZZ_CHECK(whole.story() == cut.story());
    // What came right before a frame that broke the protocol may or may not have been handed on.
    FUZZ_CHECK(whole.protocol().failed() || whole.payload().size() == cut.payload().size());
    FUZZ_CHECK(whole.protocol().position() == cut.protocol().position());
    FUZZ_CHECK(whole.protocol().reset_proves_never_began() == cut.protocol().reset_proves_never_began());
    whole.send_control();
    cut.send_control();
    if (in.empty() || whole.protocol().failed() || total > 8 << 20) break;
    bytes.clear();
    const std::uint8_t next = in.byte();
    if (next < 64 && whole.protocol().idle()) {
      const auto call = make_call(in);
      FUZZ_CHECK(whole.begin_call(call) == cut.begin_call(call));
    } else if (next < 80 && whole.protocol().idle()) {
      whole.ping();
      cut.ping();
    } else if (next < 96) {
      const std::uint64_t taken = next % 2 == 0 ? UINT64_MAX : in.four();
      whole.take(taken);
      cut.take(taken);
    } else if (next < 100) {
      whole.protocol().set_sending(next % 2 == 0);
      cut.protocol().set_sending(next % 2 == 0);
    } else if (next < 120) {
      bytes = in.take(in.byte());
    } else {
      // Sometimes several in one go.
      for (int frames = next < 200 ? 1 : 4; frames > 0; --frames) {
        append_sandbox_frame(in, bytes, whole.protocol().call_id(), whole.nonce());
      }
    }
    total += bytes.size();
  }
  const std::size_t both = std::min(whole.payload().size(), cut.payload().size());
  FUZZ_CHECK(whole.payload().compare(0, both, cut.payload(), 0, both) == 0);
  return 0;
}
