// The frame: 24 bytes of header, then an envelope (Protobuf), then raw payload. docs/protocol.md has the
// tables. Standard library only: the worker side, which links nothing else, uses this file too.
//
//   0  u32 magic "FKIT"     8  u64 call id (0: no call)
//   4  u8  version         16  u32 envelope bytes
//   5  u8  type            20  u32 payload bytes
//   6  u16 flags               all little endian
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string_view>

namespace faaskit::wire {

static_assert(std::endian::native == std::endian::little, "the codec copies integers as they are");

inline constexpr std::size_t kHeaderBytes = 24;
inline constexpr std::uint32_t kMagic = 0x54494B46;  // "FKIT"
inline constexpr std::uint8_t kProtocolVersion = 1;

enum class FrameType : std::uint8_t {
  hello = 1,        // worker: its init has run
  call = 2,         // host: a call, with the first part of its payload
  reply_head = 3,   // worker: a reply in several frames begins
  body = 4,         // both: further payload of a call or a reply
  end = 5,          // worker: the call is settled; a small reply is this frame alone
  credit = 6,       // host: so many more body bytes may be sent
  cancel = 7,       // host: nobody waits for this call any more
  log = 8,          // worker: a line for the call's log
  drain = 9,        // host: leave once the call is done
  ping = 10,        // host; the worker answers with the flag `pong`
  resumed = 11,     // host: continued from a snapshot
  specialise = 12,  // host: a generic sandbox becomes one function's
};

inline constexpr std::uint16_t kSkipIfUnknown = 1;
inline constexpr std::uint16_t kPong = 2;
inline constexpr std::uint16_t kKnownFlags = kSkipIfUnknown | kPong;

// What a CALL means by leaving the field out.
inline constexpr std::uint32_t kDefaultFrameBytes = 1 << 20;
inline constexpr std::uint32_t kDefaultWindowBytes = 1 << 20;
inline constexpr std::uint32_t kDefaultReplyBytes = 6 << 20;

// Of the texts in a reply's envelopes. Runtimes keep to them, and the host insists.
inline constexpr std::size_t kMaxMessageBytes = 8 << 10;
inline constexpr std::size_t kMaxContentTypeBytes = 1 << 10;

// What BODY frames must carry on average, but for some to spare. Or half the frame limit, if that is less:
// whoever sends to the last byte of each credit, in full frames, ends each with a part of one.
inline constexpr std::uint64_t kLeastMeanBody = 512;
inline constexpr std::uint64_t kSpareBodyFrames = 64;
// The same of a streamed reply, whose frames are as small as what the function has to say.
inline constexpr std::uint64_t kSpareStreamFrames = 64 << 10;

struct FrameHeader {
  std::uint8_t version = kProtocolVersion;
  FrameType type{};
  std::uint16_t flags = 0;
  std::uint64_t call_id = 0;
  std::uint32_t envelope_bytes = 0;
  std::uint32_t payload_bytes = 0;
  friend bool operator==(const FrameHeader&, const FrameHeader&) = default;
};

inline void encode_header(const FrameHeader& header, std::byte* out) {
  std::memcpy(out, &kMagic, 4);
  out[4] = std::byte{header.version};
  out[5] = std::byte{static_cast<std::uint8_t>(header.type)};
  std::memcpy(out + 6, &header.flags, 2);
  std::memcpy(out + 8, &header.call_id, 8);
  std::memcpy(out + 16, &header.envelope_bytes, 4);
  std::memcpy(out + 20, &header.payload_bytes, 4);
}

// False: `in` does not begin with the magic. The other fields are for the caller to judge.
inline bool decode_header(const std::byte* in, FrameHeader& header) {
  std::uint32_t magic = 0;
  std::memcpy(&magic, in, 4);
  header.version = std::to_integer<std::uint8_t>(in[4]);
  header.type = static_cast<FrameType>(in[5]);
  std::memcpy(&header.flags, in + 6, 2);
  std::memcpy(&header.call_id, in + 8, 8);
  std::memcpy(&header.envelope_bytes, in + 16, 4);
  std::memcpy(&header.payload_bytes, in + 20, 4);
  return magic == kMagic;
}

inline constexpr bool is_known(FrameType type) {
  return type >= FrameType::hello && type <= FrameType::specialise;
}

inline constexpr std::string_view to_string(FrameType type) {
  constexpr std::array<std::string_view, 13> kNames = {
      "unknown", "HELLO", "CALL",  "REPLY_HEAD", "BODY",    "END",       "CREDIT",
      "CANCEL",  "LOG",   "DRAIN", "PING",       "RESUMED", "SPECIALISE"};
  return is_known(type) ? kNames[static_cast<std::size_t>(type)] : kNames[0];
}

}  // namespace faaskit::wire
