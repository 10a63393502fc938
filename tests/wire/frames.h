// Frames made by hand, for transcripts.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "wire/frame.h"

namespace faaskit::wire {

using ByteVector = std::vector<std::byte>;

inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

inline std::string as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

inline ByteVector frame(FrameHeader header, std::string_view envelope = {}, std::string_view payload = {}) {
  header.envelope_bytes = static_cast<std::uint32_t>(envelope.size());
  header.payload_bytes = static_cast<std::uint32_t>(payload.size());
  ByteVector out(kHeaderBytes);
  encode_header(header, out.data());
  for (const std::string_view part : {envelope, payload}) {
    const auto bytes = as_bytes(part);
    out.insert(out.end(), bytes.begin(), bytes.end());
  }
  return out;
}

template <typename Message>
ByteVector frame_of(FrameType type, std::uint64_t call_id, const Message& message,
                    std::string_view payload = {}, std::uint16_t flags = 0) {
  return frame({.type = type, .flags = flags, .call_id = call_id}, message.SerializeAsString(), payload);
}

inline ByteVector operator+(ByteVector left, const ByteVector& right) {
  left.insert(left.end(), right.begin(), right.end());
  return left;
}

}  // namespace faaskit::wire
