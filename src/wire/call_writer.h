// CallWriter: a call as the bytes of its frames, handed out for gathering writes. The payload is pointed
// at where it lies, however many frames it is cut into, and kept until the call is settled.
#pragma once

#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

#include "faaskit/port/channel.h"
#include "wire/frame.h"

namespace faaskit::wire {

class CallWriter {
 public:
  // `head` (the header and envelope of the CALL frame) must stay in place until done().
  void start(std::span<const std::byte> head, std::uint64_t call_id, Bytes payload,
             std::size_t max_frame_bytes);

  bool done() const { return head_done_ >= head_.size() && chunk_at_ >= payload_.size() && !in_header_; }
  // Next bytes to write, in order; entries hold until the next member is called. 0 when done().
  std::size_t gather(std::span<iovec> out);
  // `written` of the bytes last gathered went out.
  void advance(std::size_t written);
  // Forgets what is left, and gives the payload's memory back.
  void reset() { take_payload(); }
  // The same, for a call that is to be made elsewhere: the whole payload, however much of it was written.
  Bytes take_payload();

 private:
  // Frames named in one gathering write; more follow with the next.
  static constexpr std::size_t kHeaders = 8;

  std::size_t chunk_end() const;

  std::span<const std::byte> head_;
  std::size_t head_done_ = 0;
  Bytes payload_;
  std::size_t max_frame_bytes_ = 0;
  std::uint64_t call_id_ = 0;
  // The chunk being sent begins at a multiple of max_frame_bytes_; its BODY header precedes it.
  std::size_t chunk_at_ = 0;
  bool in_header_ = false;
  std::size_t header_done_ = 0;
  std::array<std::array<std::byte, kHeaderBytes>, kHeaders> headers_;
};

}  // namespace faaskit::wire
