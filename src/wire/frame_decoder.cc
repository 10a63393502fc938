#include "wire/frame_decoder.h"

#include <algorithm>

#include <absl/strings/str_format.h>

namespace faaskit::wire {

const std::byte* FrameDecoder::gather(std::span<const std::byte>& input, std::size_t size) {
  if (held_.empty() && input.size() >= size) {
    const std::byte* all = input.data();
    input = input.subspan(size);
    return all;
  }
  const std::size_t taken = std::min(size - held_.size(), input.size());
  held_.insert(held_.end(), input.begin(), input.begin() + static_cast<std::ptrdiff_t>(taken));
  input = input.subspan(taken);
  return held_.size() == size ? held_.data() : nullptr;
}

FrameError FrameDecoder::check() const {
  if (header_.version != kProtocolVersion) return FrameError::bad_version;
  if ((header_.flags & ~kKnownFlags) != 0) return FrameError::bad_flags;
  if (header_.envelope_bytes > limits_.max_envelope_bytes) return FrameError::envelope_too_large;
  if (header_.payload_bytes > limits_.max_payload_bytes) return FrameError::payload_too_large;
  return FrameError::none;
}

FrameDecoder::Step FrameDecoder::next(std::span<const std::byte>& input) {
  switch (state_) {
    case State::header: {
      if (input.empty()) return Step::need_input;
      const std::byte* bytes = gather(input, kHeaderBytes);
      if (bytes == nullptr) return Step::need_input;
      error_ = decode_header(bytes, header_) ? check() : FrameError::bad_magic;
      std::memcpy(&first_bytes_, bytes, sizeof first_bytes_);
      held_.clear();
      if (error_ != FrameError::none) {
        state_ = State::failed;
        return Step::failed;
      }
      state_ = State::envelope;
      [[fallthrough]];
    }
    case State::envelope: {
      const std::byte* bytes = nullptr;
      if (header_.envelope_bytes != 0) {
        bytes = gather(input, header_.envelope_bytes);
        if (bytes == nullptr) return Step::need_input;
      }
      envelope_ = {bytes, header_.envelope_bytes};
      payload_left_ = header_.payload_bytes;
      state_ = State::payload;
      return Step::head;
    }
    case State::payload: {
      held_.clear();  // the envelope has been seen
      if (payload_left_ == 0) {
        state_ = State::header;
        return Step::end;
      }
      if (input.empty()) return Step::need_input;
      payload_ = input.first(std::min<std::size_t>(payload_left_, input.size()));
      input = input.subspan(payload_.size());
      payload_left_ -= static_cast<std::uint32_t>(payload_.size());
      return Step::payload;
    }
    case State::failed: break;
  }
  return Step::failed;
}

std::string FrameDecoder::error_text() const {
  switch (error_) {
    case FrameError::none: return "no error";
    case FrameError::bad_magic:
      return absl::StrFormat("frame begins with bytes %08x instead of the magic %08x", first_bytes_, kMagic);
    case FrameError::bad_version:
      return absl::StrFormat("frame has version %d, only %d is spoken here", header_.version,
                             kProtocolVersion);
    case FrameError::bad_flags:
      return absl::StrFormat("frame has flags %04x, known are %04x", header_.flags, kKnownFlags);
    case FrameError::envelope_too_large:
      return absl::StrFormat("frame envelope of %d bytes, the limit is %d", header_.envelope_bytes,
                             limits_.max_envelope_bytes);
    case FrameError::payload_too_large:
      return absl::StrFormat("frame payload of %d bytes, the limit is %d", header_.payload_bytes,
                             limits_.max_payload_bytes);
  }
  return "unknown error";
}

}  // namespace faaskit::wire
