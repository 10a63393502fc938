// A grammar of frames: decisions in, frames out, most of them nearly right. Random bytes alone would end at
// the magic.
#pragma once

#include <vector>

#include "input.h"
#include "wire/envelope.pb.h"
#include "wire/frame.h"

namespace faaskit::fuzz {

namespace pb = wire::pb;
using wire::FrameHeader;
using wire::FrameType;

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// `lies`: added to the header's lengths, without any bytes to it.
inline void append_frame(std::string& out, FrameHeader header, std::string_view envelope,
                         std::string_view payload, std::uint32_t lies = 0) {
  header.envelope_bytes = static_cast<std::uint32_t>(envelope.size()) + (lies & 0xff);
  header.payload_bytes = static_cast<std::uint32_t>(payload.size()) + (lies >> 8);
  std::byte bytes[wire::kHeaderBytes];
  wire::encode_header(header, bytes);
  out.append(reinterpret_cast<const char*>(bytes), sizeof bytes).append(envelope).append(payload);
}

template <typename Message>
void add_metadata(Input& in, Message& message) {
  static const char* const kNames[] = {":status", "x-a", "content-type", "", ":", "X", "a b", "x\n"};
  const std::size_t count = in.byte() % 8 == 7 ? in.byte() + std::size_t{100} : in.byte() % 4;
  for (std::size_t i = 0; i < count; ++i) {
    pb::Pair& pair = *message.add_metadata();
    const std::uint8_t how = in.byte();
    pair.set_name(how < 200 ? std::string(kNames[how % 3]) : how < 220 ? in.text(how % 16) : kNames[how % 8]);
    pair.set_value(in.text(how % 32 == 31 ? 2000 : how % 8));
  }
}

// What a sandbox may send, or nearly.
inline std::string sandbox_envelope(Input& in, FrameType type, std::uint64_t nonce) {
  switch (type) {
    case FrameType::hello: {
      pb::Hello hello;
      const std::uint8_t how = in.byte();
      hello.set_min_version(how < 200 ? 1 : how % 4);
      hello.set_max_version(how < 200 ? 1 : how / 4 % 4);
      hello.set_runtime(in.text(in.byte()));
      hello.set_runtime_us(in.eight());
      hello.set_init_us(how % 2 == 0 ? 0 : in.eight());
      return hello.SerializeAsString();
    }
    case FrameType::reply_head: {
      pb::ReplyHead head;
      const std::uint8_t how = in.byte();
      head.set_payload_bytes(how % 8 == 0 ? 0 : how % 8 < 7 ? in.two() : in.eight());
      head.set_unknown_length(how / 8 % 3 == 0 ? 1 : 0);
      head.set_content_type(in.text(how / 32 == 7 ? in.two() % 1100 : how / 32));
      add_metadata(in, head);
      return head.SerializeAsString();
    }
    case FrameType::end: {
      pb::End end;
      const std::uint8_t how = in.byte();
      end.set_status(how % 4 == 0 ? how : 0);
      end.set_message(in.text(how / 4 % 8 == 7 ? in.two() % 8400 : how / 4 % 8));
      end.set_content_type(in.text(how / 32 == 7 ? in.two() % 1100 : how / 32));
      end.set_run_time_us(in.eight());
      add_metadata(in, end);
      return end.SerializeAsString();
    }
    case FrameType::ping: {
      pb::Ping ping;
      ping.set_nonce(in.byte() < 200 ? nonce : in.eight());
      return ping.SerializeAsString();
    }
    case FrameType::log: {
      pb::Log log;
      log.set_level(in.byte());
      return log.SerializeAsString();
    }
    default: return {};
  }
}

inline void append_sandbox_frame(Input& in, std::string& out, std::uint64_t call, std::uint64_t nonce) {
  static constexpr FrameType kUsual[] = {FrameType::end,  FrameType::reply_head, FrameType::body,
                                         FrameType::body, FrameType::log,        FrameType::ping,
                                         FrameType::hello};
  const std::uint8_t what = in.byte();
  const std::uint8_t how = in.byte();
  FrameHeader header;
  header.type = what < 224 ? kUsual[what % 7] : static_cast<FrameType>(what - 224);
  const bool of_call = header.type != FrameType::hello && header.type != FrameType::ping;
  header.call_id = !of_call ? 0 : how % 16 < 13 ? call : how % 16 == 13 ? call + 1 : in.eight();
  header.flags = header.type == FrameType::ping ? wire::kPong : 0;
  if (how / 16 == 15) header.flags = in.two();
  if (how / 16 == 14) header.flags = wire::kSkipIfUnknown;
  if (how / 16 == 13) header.version = in.byte();
  const std::string envelope =
      how / 16 == 12 ? in.text(in.two() % 5000) : sandbox_envelope(in, header.type, nonce);
  const std::uint8_t size = header.type == FrameType::hello || header.type == FrameType::ping ||
                                    header.type == FrameType::reply_head
                                ? (how / 16 == 11 ? 3 : 0)
                                : in.byte();
  const std::size_t payload = size < 128 ? size : size < 240 ? (size - 127) * 64 : std::size_t{in.two()} * 16;
  append_frame(out, header, envelope, in.text(payload), how / 16 == 10 ? in.four() : 0);
}

}  // namespace faaskit::fuzz
