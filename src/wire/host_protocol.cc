#include "wire/host_protocol.h"

#include <algorithm>
#include <utility>

#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "wire/envelope.pb.h"
#include "wire/metadata.h"

namespace faaskit::wire {
namespace {

// A sandbox's log belongs on its stdout; frames are for the odd line of a runtime. Bytes count headers
// and envelopes, too: a frame without payload is work all the same.
constexpr std::uint64_t kMaxAsideFrames = 1024;
constexpr std::uint64_t kMaxAsideBytes = 256 << 10;
constexpr std::size_t kMaxRuntimeName = 128;
// Enough of a streamed reply for one body(); small frames are gathered to it as far as they are there.
constexpr std::size_t kPartBytes = 64 << 10;
// Metadata beyond it is not kept for the next call's: idle channels are many.
constexpr std::size_t kKeptMetadataBytes = 4 << 10;
constexpr int kKeptPairs = 32;
// Of a name that a sandbox made up, in the message about it.
constexpr std::size_t kShownNameBytes = 64;

std::uint64_t microseconds(std::chrono::microseconds value) {
  return static_cast<std::uint64_t>(std::max<std::chrono::microseconds::rep>(value.count(), 0));
}

std::chrono::microseconds claimed(std::uint64_t microseconds) {
  // Whoever compares it with what was measured counts in nanoseconds.
  return std::chrono::microseconds(
      static_cast<std::int64_t>(std::min<std::uint64_t>(microseconds, INT64_MAX / 1000)));
}

std::size_t bytes_of(const Metadata& metadata) {
  std::size_t bytes = 0;
  for (const auto& [name, value] : metadata) bytes += name.size() + value.size();
  return bytes;
}

// Clearing a field of Protobuf keeps its memory.
template <typename Pairs>
void free_memory(Pairs* pairs) {
  Pairs none;
  pairs->Swap(&none);
}

template <typename Message>
bool parse(Message& message, std::span<const std::byte> bytes) {
  return message.ParseFromArray(bytes.data(), static_cast<int>(bytes.size()));
}

// Appends a frame without payload.
template <typename Message>
void append_frame(std::vector<std::byte>& out, FrameHeader header, const Message& message) {
  const std::size_t at = out.size();
  const std::size_t size = message.ByteSizeLong();
  header.envelope_bytes = static_cast<std::uint32_t>(size);
  out.resize(at + kHeaderBytes + size);
  encode_header(header, out.data() + at);
  message.SerializeWithCachedSizesToArray(reinterpret_cast<std::uint8_t*>(out.data() + at + kHeaderBytes));
}

}  // namespace

struct HostProtocol::Messages {
  pb::Call call;
  pb::End end;
};

HostProtocol::HostProtocol(const ChannelLimits& limits)
    : limits_(limits),
      decoder_({.max_envelope_bytes = limits.max_envelope_bytes,
                .max_payload_bytes = limits.max_frame_payload_bytes}),
      messages_(std::make_unique<Messages>()) {}

HostProtocol::~HostProtocol() = default;

bool HostProtocol::fail(const std::string& what) {
  state_ = State::failed;
  error_ = absl::InternalError(absl::StrCat("sandbox broke the protocol: ", what));
  return false;
}

bool HostProtocol::unparsable() {
  return fail(absl::StrFormat("%s envelope of %d bytes cannot be parsed", to_string(decoder_.header().type),
                              decoder_.envelope().size()));
}

std::string_view HostProtocol::position() const {
  if (decoder_.mid_frame()) return "in the middle of a frame";
  switch (state_) {
    case State::expect_hello: return "before its hello";
    case State::in_call: return reply_state_ == Reply::none ? "before a reply" : "in the middle of a reply";
    case State::idle: return "while idle";
    case State::pinging: return "before its answer to a ping";
    case State::failed: break;
  }
  return "after an error";
}

absl::Status HostProtocol::begin_call(const ChannelCall& call) {
  if (call.payload.size() > limits_.max_payload_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat("payload of %d bytes exceeds the limit of %d",
                                                      call.payload.size(), limits_.max_payload_bytes));
  }
  const std::size_t metadata_bytes = bytes_of(call.metadata);
  if (metadata_bytes > kMaxMetadataBytes || call.metadata.size() > kMaxMetadataPairs) {
    return absl::InvalidArgumentError(
        absl::StrFormat("metadata of %d bytes in %d pairs exceeds the limit of %d bytes or of %d pairs",
                        metadata_bytes, call.metadata.size(), kMaxMetadataBytes, kMaxMetadataPairs));
  }
  const bool streams = call.stream != nullptr;
  const std::uint64_t reply_limit = streams ? limits_.max_streamed_bytes : limits_.max_reply_bytes;
  pb::Call& message = messages_->call;
  message.set_token(call.token);
  message.set_invoker(call.lease.request.invoker);
  message.set_sequence(call.lease.request.sequence);
  message.set_attempt(call.lease.attempt);
  message.set_timeout_us(microseconds(call.timeout));
  message.set_idle_for_us(microseconds(call.idle_for));
  message.set_trace(call.trace);
  message.set_content_type(call.content_type);
  message.set_payload_bytes(call.payload.size());
  // Zero travels as nothing and means the protocol's default.
  const auto unless = [](std::uint64_t value, std::uint64_t usual) { return value == usual ? 0 : value; };
  message.set_max_frame_bytes(
      static_cast<std::uint32_t>(unless(limits_.max_frame_payload_bytes, kDefaultFrameBytes)));
  message.set_max_reply_bytes(unless(reply_limit, kDefaultReplyBytes));
  message.set_streams(streams ? 1 : 0);
  message.clear_metadata();
  for (const auto& [name, value] : call.metadata) {
    pb::Pair& pair = *message.add_metadata();
    pair.set_name(name);
    pair.set_value(value);
  }

  const std::size_t first = std::min(call.payload.size(), limits_.max_frame_payload_bytes);
  const std::size_t size = message.ByteSizeLong();
  if (size > limits_.max_envelope_bytes) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "trace (%d bytes), content type (%d bytes) and metadata (%d bytes) exceed the "
        "envelope's limit of %d",
        call.trace.size(), call.content_type.size(), metadata_bytes, limits_.max_envelope_bytes));
  }

  ++call_id_;
  head_.clear();
  append_frame(
      head_,
      {.type = FrameType::call, .call_id = call_id_, .payload_bytes = static_cast<std::uint32_t>(first)},
      message);
  if (metadata_bytes > kKeptMetadataBytes) free_memory(message.mutable_metadata());
  state_ = State::in_call;
  heard_of_call_ = false;
  sent_after_call_ = false;
  sending_ = false;
  reply_ = {};
  reply_state_ = Reply::none;
  streams_ = streams;
  streaming_ = false;
  part_whole_ = false;
  settle_next_ = false;
  unknown_length_ = false;
  reply_limit_ = reply_limit;
  announced_ = 0;
  body_bytes_ = 0;
  taken_ = 0;
  granted_ = kDefaultWindowBytes;
  body_frames_ = 0;
  renew_budget();
  return absl::OkStatus();
}

void HostProtocol::begin_ping() {
  pb::Ping message;
  message.set_nonce(++nonce_);
  append_frame(control_, {.type = FrameType::ping}, message);
  state_ = State::pinging;
}

std::vector<std::byte> HostProtocol::take_control() { return std::exchange(control_, {}); }

ReplyHead HostProtocol::take_head() {
  ReplyHead head{.content_type = std::exchange(reply_.content_type, {}),
                 .metadata = std::exchange(reply_.metadata, {})};
  if (!unknown_length_) head.bytes = announced_;
  return head;
}

Bytes HostProtocol::take_body() {
  part_whole_ = false;
  return std::exchange(reply_.payload, {});
}

HostProtocol::Event HostProtocol::receive(std::span<const std::byte>& input) {
  if (settle_next_) return settle();
  while (state_ != State::failed) {
    switch (decoder_.next(input)) {
      case FrameDecoder::Step::need_input: return part_whole_ ? Event::body : Event::need_input;
      case FrameDecoder::Step::head:
        begin_frame();
        // What is whole does not wait for a frame that is not.
        if (part_whole_ && state_ != State::failed && decoder_.header().payload_bytes > input.size()) {
          return Event::body;
        }
        break;
      case FrameDecoder::Step::payload: take_payload(decoder_.payload()); break;
      case FrameDecoder::Step::end: {
        Event event = Event::need_input;
        if (end_frame(event) && event != Event::need_input) return event;
        break;
      }
      case FrameDecoder::Step::failed: fail(decoder_.error_text()); break;
    }
  }
  return Event::failed;
}

bool HostProtocol::begin_frame() {
  const FrameHeader& header = decoder_.header();
  skipping_ = !is_known(header.type);
  if (skipping_) {
    if ((header.flags & kSkipIfUnknown) != 0) return on_aside();
    return fail(absl::StrFormat("frame of unknown type %d", static_cast<int>(header.type)));
  }
  if (state_ == State::expect_hello) {
    if (header.type == FrameType::hello) return on_hello();
    return fail(absl::StrFormat("%s before HELLO", to_string(header.type)));
  }
  if (header.type == FrameType::ping && (header.flags & kPong) != 0) return on_pong();
  switch (header.type) {
    case FrameType::reply_head:
    case FrameType::body:
    case FrameType::end:
    case FrameType::log: break;
    default: return fail(absl::StrFormat("%s is not for a sandbox to send now", to_string(header.type)));
  }
  if (state_ == State::pinging) {
    return fail(
        absl::StrFormat("%s for call %d instead of PONG %d", to_string(header.type), header.call_id, nonce_));
  }
  if (state_ != State::in_call) {
    return fail(absl::StrFormat("%s for call %d while no call runs; the last one was %d",
                                to_string(header.type), header.call_id, call_id_));
  }
  if (header.call_id != call_id_) {
    return fail(absl::StrFormat("%s for call %d while call %d runs", to_string(header.type), header.call_id,
                                call_id_));
  }
  heard_of_call_ = true;
  if (header.type == FrameType::log) return on_aside();
  if (sending_) {
    return fail(absl::StrFormat("%s of call %d before the whole call was sent", to_string(header.type),
                                header.call_id));
  }
  switch (header.type) {
    case FrameType::reply_head: return on_head();
    case FrameType::body: return on_body();
    default: return on_end();
  }
}

bool HostProtocol::on_hello() {
  pb::Hello message;
  if (!parse(message, decoder_.envelope())) return unparsable();
  if (decoder_.header().payload_bytes != 0) return fail("HELLO with a payload");
  if (message.min_version() > kProtocolVersion || message.max_version() < kProtocolVersion) {
    state_ = State::failed;
    error_ = absl::FailedPreconditionError(
        absl::StrFormat("sandbox speaks protocol versions %d to %d, the host %d", message.min_version(),
                        message.max_version(), kProtocolVersion));
    return false;
  }
  hello_.protocol_version = kProtocolVersion;
  hello_.capabilities = message.capabilities();
  // For logs and tables: nothing of a stranger's goes there as it came.
  hello_.runtime =
      absl::CHexEscape(std::string(message.runtime()).substr(0, kMaxRuntimeName)).substr(0, kMaxRuntimeName);
  hello_.runtime_time = claimed(message.runtime_us());
  hello_.init_time = claimed(message.init_us());
  return true;
}

bool HostProtocol::on_pong() {
  const FrameHeader& header = decoder_.header();
  pb::Ping message;
  if (!parse(message, decoder_.envelope())) return unparsable();
  if (state_ != State::pinging) {
    return fail(
        absl::StrFormat("PONG %d while no ping is out; the last one was %d", message.nonce(), nonce_));
  }
  if (message.nonce() != nonce_ || header.call_id != 0) {
    return fail(absl::StrFormat("PONG %d for call %d instead of PONG %d for none", message.nonce(),
                                header.call_id, nonce_));
  }
  if (header.payload_bytes != 0) {
    return fail(absl::StrFormat("PONG with a payload of %d bytes", header.payload_bytes));
  }
  return true;
}

bool HostProtocol::on_head() {
  if (reply_state_ != Reply::none) return fail("a second REPLY_HEAD");
  if (decoder_.header().payload_bytes != 0) return fail("REPLY_HEAD with a payload");
  pb::ReplyHead message;
  if (!parse(message, decoder_.envelope())) return unparsable();
  unknown_length_ = message.unknown_length() != 0;
  if (unknown_length_ && !streams_) return fail("REPLY_HEAD of unknown length, and nobody streams it");
  announced_ = unknown_length_ ? 0 : message.payload_bytes();
  if (announced_ > reply_limit_) {
    return fail(absl::StrFormat("reply of %d bytes announced, the limit is %d", announced_, reply_limit_));
  }
  if (!take_content_type(std::string(message.content_type()))) return false;
  if (!take_metadata(*message.mutable_metadata())) return false;
  reply_state_ = Reply::head;
  streaming_ = streams_;
  return true;
}

bool HostProtocol::check_length(std::uint64_t bytes) {
  if (unknown_length_) {
    if (bytes <= reply_limit_) return true;
    return fail(absl::StrFormat("reply of %d bytes, the limit is %d", bytes, reply_limit_));
  }
  if (bytes <= announced_) return true;
  return fail(absl::StrFormat("reply has %d bytes, its head announced %d", bytes, announced_));
}

bool HostProtocol::check_credit(std::uint64_t bytes) {
  if (bytes <= granted_) return true;
  return fail(absl::StrFormat("%d bytes of body, the credit given was %d", bytes, granted_));
}

bool HostProtocol::on_body() {
  if (reply_state_ != Reply::head) return fail("BODY without a REPLY_HEAD");
  if (!decoder_.envelope().empty()) return fail("BODY with an envelope");
  if (decoder_.header().payload_bytes == 0) return fail("BODY without a payload");
  body_bytes_ += decoder_.header().payload_bytes;
  if (!check_length(body_bytes_) || !check_credit(body_bytes_)) return false;
  const std::uint64_t least_mean =
      std::min<std::uint64_t>(kLeastMeanBody, (limits_.max_frame_payload_bytes + 1) / 2);
  const std::uint64_t bytes = streaming_ ? body_bytes_ : announced_;
  const std::uint64_t most = (streaming_ ? kSpareStreamFrames : kSpareBodyFrames) + bytes / least_mean;
  if (++body_frames_ > most) {
    return fail(absl::StrFormat("%d BODY frames for a reply of %d bytes, the limit is %d", body_frames_,
                                bytes, most));
  }
  // Reserved when the bytes are on their way, and not on a mere announcement.
  if (reply_.payload.capacity() == 0) {
    reply_.payload.reserve(streaming_ ? decoder_.header().payload_bytes : announced_);
  }
  return true;
}

bool HostProtocol::on_end() {
  pb::End& message = messages_->end;
  if (!parse(message, decoder_.envelope())) return unparsable();
  const std::uint64_t last = decoder_.header().payload_bytes;
  const bool failed = message.status() != 0;
  body_bytes_ += last;
  if (reply_state_ == Reply::none) {
    if (last > reply_limit_) {
      return fail(absl::StrFormat("reply of %d bytes, the limit is %d", last, reply_limit_));
    }
    if (!take_content_type(std::string(message.content_type()))) return false;
    if (!take_metadata(*message.mutable_metadata())) return false;
    reply_.payload.reserve(last);
  } else if (streaming_ && failed) {
    if (last != 0) return fail(absl::StrFormat("END with an error and %d bytes of a reply", last));
  } else {
    if (!check_length(body_bytes_)) return false;
    if (!unknown_length_ && body_bytes_ != announced_) {
      return fail(absl::StrFormat("reply has %d bytes, its head announced %d", body_bytes_, announced_));
    }
    if (streaming_ && !check_credit(body_bytes_)) return false;
  }
  if (message.message().size() > kMaxMessageBytes) {
    return fail(absl::StrFormat("END message of %d bytes, the limit is %d", message.message().size(),
                                kMaxMessageBytes));
  }
  // Whatever code the sandbox names, it is the function that failed: its word must not pass for one of
  // ours, on which callers decide whether to try again.
  if (failed) reply_.function_status = absl::UnknownError(std::string(message.message()));
  reply_.claimed_run_time = claimed(message.run_time_us());
  reply_.payload_bytes = body_bytes_;
  reply_state_ = Reply::last;
  return true;
}

bool HostProtocol::take_content_type(std::string type) {
  if (type.size() > kMaxContentTypeBytes) {
    return fail(absl::StrFormat("reply's content type of %d bytes, the limit is %d", type.size(),
                                kMaxContentTypeBytes));
  }
  reply_.content_type = std::move(type);
  return true;
}

template <typename Pairs>
bool HostProtocol::take_metadata(Pairs& pairs) {
  if (pairs.empty()) return true;
  const auto count = static_cast<std::size_t>(pairs.size());
  if (count > kMaxMetadataPairs) {
    return fail(absl::StrFormat("reply's metadata has %d pairs, the limit is %d", count, kMaxMetadataPairs));
  }
  std::size_t bytes = 0;
  reply_.metadata.reserve(count);
  for (pb::Pair& pair : pairs) {
    bytes += pair.name().size() + pair.value().size();
    if (!is_metadata_name(pair.name())) {
      return fail(absl::StrFormat("'%s' is no name in a reply's metadata",
                                  absl::CHexEscape(std::string(pair.name()).substr(0, kShownNameBytes))));
    }
    if (!is_metadata_value(pair.value())) {
      return fail(absl::StrFormat("'%s' in a reply's metadata has a line break or a NUL in its value",
                                  std::string(pair.name()).substr(0, kShownNameBytes)));
    }
    reply_.metadata.emplace_back(std::move(*pair.mutable_name()), std::move(*pair.mutable_value()));
  }
  if (bytes > kMaxMetadataBytes) {
    return fail(absl::StrFormat("reply's metadata of %d bytes, the limit is %d", bytes, kMaxMetadataBytes));
  }
  if (pairs.size() > kKeptPairs) free_memory(&pairs);
  return true;
}

bool HostProtocol::on_aside() {
  const FrameHeader& header = decoder_.header();
  const char* when = state_ == State::in_call ? "in one call" : "in one idle spell";
  if (++aside_frames_ > kMaxAsideFrames) {
    return fail(absl::StrFormat("%d frames of LOG or to skip %s, the limit is %d", aside_frames_, when,
                                kMaxAsideFrames));
  }
  aside_bytes_ += kHeaderBytes + header.envelope_bytes + std::uint64_t{header.payload_bytes};
  if (aside_bytes_ > kMaxAsideBytes) {
    return fail(absl::StrFormat("%d bytes of LOG or to skip %s, the limit is %d", aside_bytes_, when,
                                kMaxAsideBytes));
  }
  return true;
}

bool HostProtocol::take_payload(std::span<const std::byte> piece) {
  if (skipping_ || decoder_.header().type == FrameType::log) return true;
  reply_.payload.insert(reply_.payload.end(), piece.begin(), piece.end());
  return true;
}

bool HostProtocol::end_frame(Event& event) {
  if (skipping_) return true;
  switch (decoder_.header().type) {
    case FrameType::hello:
      state_ = State::idle;
      event = Event::hello;
      break;
    case FrameType::ping:
      state_ = State::idle;
      event = Event::pong;
      break;
    case FrameType::reply_head:
      if (streaming_) event = Event::head;
      break;
    case FrameType::body:
      if (!streaming_) {
        grant_credit(body_bytes_);
        break;
      }
      part_whole_ = true;
      if (reply_.payload.size() >= kPartBytes) event = Event::body;
      break;
    case FrameType::end:
      settle_next_ = streaming_ && !reply_.payload.empty();
      event = settle_next_ ? Event::body : settle();
      break;
    default: break;
  }
  return true;
}

HostProtocol::Event HostProtocol::settle() {
  settle_next_ = false;
  state_ = State::idle;
  renew_budget();
  return Event::reply;
}

void HostProtocol::taken(std::uint64_t bytes) {
  taken_ += bytes;
  // With END all is said and sent.
  if (reply_state_ == Reply::head) grant_credit(taken_);
}

void HostProtocol::grant_credit(std::uint64_t consumed) {
  // In halves of the window, so that the worker is never idle for want of it, and never beyond what is
  // still to come.
  const std::uint64_t outstanding = granted_ - consumed;
  const std::uint64_t wanted = unknown_length_ ? UINT64_MAX : announced_;
  if (granted_ >= wanted || outstanding > kDefaultWindowBytes / 2) return;
  const std::uint64_t more = std::min<std::uint64_t>(kDefaultWindowBytes - outstanding, wanted - granted_);
  granted_ += more;
  sent_after_call_ = true;
  pb::Credit message;
  message.set_bytes(more);
  append_frame(control_, {.type = FrameType::credit, .call_id = call_id_}, message);
}

}  // namespace faaskit::wire
