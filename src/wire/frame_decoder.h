// FrameDecoder: bytes in, frames out, in whatever pieces the bytes arrive. No I/O, no knowledge of what a
// frame means, and no copy of a payload.
//
//   while (true) switch (decoder.next(input)) { ... }
//
// A frame is one `head`, then `payload` pieces (none if it has no payload), then `end`. Views given out
// hold until the next call of next(). Memory: at most one header and one envelope.
// After `failed` every further step fails likewise: a stream that lost its frames cannot be trusted again.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "wire/frame.h"

namespace faaskit::wire {

struct FrameLimits {
  std::size_t max_envelope_bytes = 64 << 10;
  std::size_t max_payload_bytes = 1 << 20;
};

enum class FrameError : std::uint8_t {
  none,
  bad_magic,
  bad_version,
  bad_flags,
  envelope_too_large,
  payload_too_large,
};

class FrameDecoder {
 public:
  enum class Step : std::uint8_t {
    need_input,  // `input` is used up
    head,        // header() and envelope() are valid
    payload,     // payload() is the next piece
    end,         // the frame is complete
    failed,      // error()
  };

  explicit FrameDecoder(FrameLimits limits) : limits_(limits) {}

  // Takes one step, and what it used off the front of `input`.
  Step next(std::span<const std::byte>& input);

  const FrameHeader& header() const { return header_; }
  std::span<const std::byte> envelope() const { return envelope_; }
  std::span<const std::byte> payload() const { return payload_; }
  // True if the stream would be torn by ending here.
  bool mid_frame() const { return state_ != State::header || !held_.empty(); }

  FrameError error() const { return error_; }
  // With the operand and the limit: "frame payload of 9000000 bytes, the limit is 1048576".
  std::string error_text() const;

 private:
  enum class State : std::uint8_t { header, envelope, payload, failed };

  FrameError check() const;
  // Collects what came in pieces until `size` bytes are contiguous; empty while they are not.
  const std::byte* gather(std::span<const std::byte>& input, std::size_t size);

  FrameLimits limits_;
  State state_ = State::header;
  FrameError error_ = FrameError::none;
  std::uint32_t payload_left_ = 0;
  FrameHeader header_;
  std::uint32_t first_bytes_ = 0;
  std::span<const std::byte> envelope_;
  std::span<const std::byte> payload_;
  std::vector<std::byte> held_;
};

}  // namespace faaskit::wire
