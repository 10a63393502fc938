// What a host may send to a worker. The C++ worker itself runs here, with its two system calls replaced: what
// it receives comes from memory, in one piece and then in crumbs, and what it sends is read as a host reads.
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <map>
#include <stdexcept>

#include "faaskit/worker/worker.h"
#include "frames.h"
#include "wire/frame_decoder.h"
#include "worker/envelope.h"

namespace faaskit::fuzz {
namespace {

struct Line {
  std::string_view in{};
  std::string out{};
  Pieces pieces{0};
  bool crumbs = false;
};
Line line;

int channel() {
  static const int fd = [] {
    int fds[2];
    FUZZ_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
    return fds[0];
  }();
  return fd;
}

worker::Response function(const worker::Request& request) {
  const std::string_view text = request.text();
  std::size_t metadata = 0;
  for (const auto& [name, value] : request.metadata) metadata += name.size() + value.size();
  FUZZ_CHECK(metadata + request.trace.size() + request.content_type.size() <= 64 << 10);
  FUZZ_CHECK(request.idle_for.count() >= 0);
  FUZZ_CHECK(request.deadline + std::chrono::seconds(1) >= std::chrono::steady_clock::now());
  worker::Response reply{.payload = std::string(text), .content_type = std::string(request.content_type)};
  switch (text.empty() ? 0 : text[0]) {
    case 1: throw std::runtime_error(std::string(text));
    case 2: return {.error = std::string(9000, 'e')};
    case 3: return {.payload = std::string(3000, 'z')};
    case 4:
      for (const auto& [name, value] : request.metadata) reply.metadata.emplace_back(name, value);
      return reply;
    case 5:
    case 6:
      reply.stream = [text](worker::Writer& writer) {
        for (std::size_t at = 1; at < text.size(); at += 3) writer.write(text.substr(at, 3));
        if (text[0] == 6) throw std::runtime_error("half-way");
      };
      return reply;
    case 7: throw 7;
    default: return reply;
  }
}

// What the worker said: all but the times, and BODY joined, since where it is cut may follow from when credit
// was read.
std::string story(std::string_view out) {
  wire::FrameDecoder decoder({.max_envelope_bytes = 64 << 10, .max_payload_bytes = UINT32_MAX});
  std::string told;
  bool first = true;
  std::span<const std::byte> input = as_bytes(out);
  for (auto step = decoder.next(input); step != wire::FrameDecoder::Step::need_input;
       step = decoder.next(input)) {
    FUZZ_CHECK(step != wire::FrameDecoder::Step::failed);
    const FrameHeader& header = decoder.header();
    const std::string envelope(reinterpret_cast<const char*>(decoder.envelope().data()),
                               decoder.envelope().size());
    if (step == wire::FrameDecoder::Step::payload) {
      told.append(reinterpret_cast<const char*>(decoder.payload().data()), decoder.payload().size());
    }
    if (step != wire::FrameDecoder::Step::head) continue;
    FUZZ_CHECK(first == (header.type == FrameType::hello));
    first = false;
    if (header.type == FrameType::body) {
      FUZZ_CHECK(header.payload_bytes > 0 && envelope.empty());
      continue;
    }
    told += std::string(wire::to_string(header.type)) + std::to_string(header.call_id) + " " +
            std::to_string(header.flags) + " " + std::to_string(header.payload_bytes) + " ";
    switch (header.type) {
      case FrameType::hello: {
        pb::Hello hello;
        FUZZ_CHECK(hello.ParseFromString(envelope) && hello.min_version() == 1 && hello.max_version() == 1);
        break;
      }
      case FrameType::end: {
        pb::End end;
        FUZZ_CHECK(end.ParseFromString(envelope));
        FUZZ_CHECK(std::string(end.message()).size() <= wire::kMaxMessageBytes);
        FUZZ_CHECK(std::string(end.content_type()).size() <= wire::kMaxContentTypeBytes);
        end.set_run_time_us(0);
        told += end.SerializeAsString();
        break;
      }
      case FrameType::reply_head: {
        pb::ReplyHead head;
        FUZZ_CHECK(head.ParseFromString(envelope) && header.payload_bytes == 0);
        told += envelope;
        break;
      }
      case FrameType::ping:
        FUZZ_CHECK(header.flags == wire::kPong && header.payload_bytes == 0);
        told += envelope;
        break;
      default: FUZZ_CHECK(!"a frame that no worker sends");
    }
  }
  FUZZ_CHECK(!decoder.mid_frame());
  return told;
}

std::string serve(std::string_view bytes, std::uint32_t seed) {
  line = {.in = bytes, .out = {}, .pieces = Pieces(seed), .crumbs = seed != 0};
  const int status = worker::run(function, {.fd = channel(), .on_thaw = [](std::chrono::microseconds) {}});
  FUZZ_CHECK(status == 0 || status == 2);
  return story(line.out) + std::to_string(status);
}

// The hand that reads envelopes, and Protobuf: what both take, they take alike.
void compare(const std::string& bytes) {
  worker::CallEnvelope hand;
  const Copy copy(as_bytes(bytes));
  const std::string_view view(reinterpret_cast<const char*>(copy.bytes().data()), copy.bytes().size());
  pb::Call call;
  if (!worker::decode_call(view, hand) || !call.ParseFromString(bytes)) return;
  FUZZ_CHECK(hand.token == call.token() && hand.invoker == call.invoker());
  FUZZ_CHECK(hand.sequence == call.sequence() && hand.attempt == call.attempt());
  FUZZ_CHECK(hand.timeout_us == call.timeout_us() && hand.idle_for_us == call.idle_for_us());
  FUZZ_CHECK(hand.trace == std::string(call.trace()) &&
             hand.content_type == std::string(call.content_type()));
  FUZZ_CHECK(hand.payload_bytes == call.payload_bytes() && hand.max_frame_bytes == call.max_frame_bytes());
  FUZZ_CHECK(hand.window_bytes == call.window_bytes() && hand.max_reply_bytes == call.max_reply_bytes());
  FUZZ_CHECK(hand.metadata.size() == static_cast<std::size_t>(call.metadata_size()));
  for (std::size_t i = 0; i < hand.metadata.size(); ++i) {
    FUZZ_CHECK(hand.metadata[i].first == std::string(call.metadata(static_cast<int>(i)).name()));
    FUZZ_CHECK(hand.metadata[i].second == std::string(call.metadata(static_cast<int>(i)).value()));
  }
}

void append_call(Input& in, std::string& out, std::uint64_t id) {
  const std::uint8_t how = in.byte();
  const std::uint8_t more = in.byte();
  std::string payload = in.text(how % 8 == 7 ? in.two() % 5000 : in.byte() % 64);
  if (!payload.empty()) payload[0] = static_cast<char>(more % 9);
  pb::Call call;
  call.set_payload_bytes(payload.size() + (how / 8 % 4 == 3 ? in.byte() : how / 8 % 8 == 2 ? in.eight() : 0));
  call.set_timeout_us(more / 16 == 1 ? in.eight() : 1000000);
  call.set_idle_for_us(more / 16 == 2 ? in.eight() : 0);
  call.set_max_frame_bytes(more / 16 % 4 == 3 ? in.two() : 0);
  call.set_window_bytes(more / 16 % 4 == 2 ? in.byte() : 0);
  call.set_max_reply_bytes(more / 16 % 8 == 5 ? in.two() : 0);
  call.set_streams(more / 16 % 2);
  call.set_content_type(in.text(how / 32 == 7 ? in.two() % 1200 : 3));
  if (how / 32 == 6) add_metadata(in, call);
  append_frame(out, {.type = FrameType::call, .call_id = id}, call.SerializeAsString(), payload,
               how == 255 ? in.four() : 0);
}

}  // namespace
}  // namespace faaskit::fuzz

// Put in the place of the system's by the linker.
extern "C" ssize_t __wrap_recv(int, void* out, std::size_t size, int) {
  auto& line = faaskit::fuzz::line;
  const std::size_t part = line.in.empty() ? 0 : line.pieces.next(std::min(size, line.in.size()));
  std::memcpy(out, line.in.data(), part);
  line.in.remove_prefix(part);
  return static_cast<ssize_t>(part);
}

extern "C" ssize_t __wrap_sendmsg(int, const msghdr* message, int) {
  auto& line = faaskit::fuzz::line;
  std::size_t size = 0;
  for (std::size_t i = 0; i < message->msg_iovlen; ++i) size += message->msg_iov[i].iov_len;
  std::size_t left = line.crumbs ? line.pieces.next(size) : size;
  const std::size_t sent = left;
  for (std::size_t i = 0; left > 0; ++i) {
    const std::size_t part = std::min(left, message->msg_iov[i].iov_len);
    line.out.append(static_cast<const char*>(message->msg_iov[i].iov_base), part);
    left -= part;
  }
  FUZZ_CHECK(line.out.size() < 64 << 20);
  return static_cast<ssize_t>(sent);
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace faaskit::fuzz;
  Input in(data, size);
  const std::uint32_t seed = in.two() + 1u;
  const std::uint8_t how = in.byte();
  std::string bytes;
  if (how % 16 == 15) {
    bytes = in.rest();
  } else if (how % 16 == 14) {
    const std::string envelope(in.rest());
    compare(envelope);
    append_frame(bytes, {.type = FrameType::call, .call_id = 1}, envelope, {});
  } else {
    std::uint64_t id = 0;
    while (!in.empty() && bytes.size() < 20000) {
      const std::uint8_t what = in.byte();
      if (what < 100) {
        append_call(in, bytes, ++id);
      } else if (what < 150) {
        append_frame(bytes, {.type = FrameType::body, .call_id = what < 145 ? id : id + 1}, {},
                     in.text(in.byte()));
      } else if (what < 190) {
        pb::Credit credit;
        credit.set_bytes(what % 8 == 0 ? in.eight() : in.byte());
        append_frame(bytes, {.type = FrameType::credit, .call_id = what < 180 ? id : 0},
                     credit.SerializeAsString(), {});
      } else if (what < 220) {
        pb::Ping ping;
        ping.set_nonce(in.byte());
        const std::uint16_t flags = what < 215 ? 0 : in.two();
        append_frame(bytes, {.type = FrameType::ping, .flags = flags, .call_id = what % 4 == 0 ? id : 0},
                     ping.SerializeAsString(), {});
      } else if (what < 240) {
        append_frame(bytes, {.type = static_cast<FrameType>(what - 220), .flags = in.byte(), .call_id = id},
                     in.text(in.byte() % 16), in.text(in.byte()));
      } else {
        bytes += in.take(what - 239);
      }
    }
  }
  FUZZ_CHECK(serve(bytes, 0) == serve(bytes, seed));
  return 0;
}
