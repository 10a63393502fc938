#include "wire/call_writer.h"

#include <algorithm>
#include <utility>

namespace faaskit::wire {
namespace {

iovec piece(const std::byte* data, std::size_t size) { return {const_cast<std::byte*>(data), size}; }

}  // namespace

void CallWriter::start(std::span<const std::byte> head, std::uint64_t call_id, Bytes payload,
                       std::size_t max_frame_bytes) {
  head_ = head;
  head_done_ = 0;
  payload_ = std::move(payload);
  max_frame_bytes_ = max_frame_bytes;
  call_id_ = call_id;
  chunk_at_ = 0;
  in_header_ = false;
  header_done_ = 0;
}

Bytes CallWriter::take_payload() {
  Bytes payload = std::move(payload_);
  start({}, 0, {}, 1);
  return payload;
}

std::size_t CallWriter::chunk_end() const {
  return std::min(payload_.size(), (chunk_at_ / max_frame_bytes_ + 1) * max_frame_bytes_);
}

std::size_t CallWriter::gather(std::span<iovec> out) {
  std::size_t count = 0;
  std::size_t headers = 0;
  if (head_done_ < head_.size() && count < out.size()) {
    out[count++] = piece(head_.data() + head_done_, head_.size() - head_done_);
  }
  std::size_t at = chunk_at_;
  bool header = in_header_;
  std::size_t skip = header_done_;
  while (at < payload_.size() && count < out.size()) {
    const std::size_t end = std::min(payload_.size(), (at / max_frame_bytes_ + 1) * max_frame_bytes_);
    if (header) {
      if (headers == headers_.size()) break;
      std::byte* bytes = headers_[headers++].data();
      encode_header({.type = FrameType::body,
                     .call_id = call_id_,
                     .payload_bytes = static_cast<std::uint32_t>(end - at)},
                    bytes);
      out[count++] = piece(bytes + skip, kHeaderBytes - skip);
      header = false;
      skip = 0;
    } else {
      out[count++] = piece(payload_.data() + at, end - at);
      at = end;
      header = true;
    }
  }
  return count;
}

void CallWriter::advance(std::size_t written) {
  const std::size_t of_head = std::min(written, head_.size() - head_done_);
  head_done_ += of_head;
  written -= of_head;
  while (written > 0) {
    if (in_header_) {
      const std::size_t part = std::min(written, kHeaderBytes - header_done_);
      header_done_ += part;
      written -= part;
      if (header_done_ == kHeaderBytes) {
        in_header_ = false;
        header_done_ = 0;
      }
    } else {
      const std::size_t end = chunk_end();
      const std::size_t part = std::min(written, end - chunk_at_);
      chunk_at_ += part;
      written -= part;
      in_header_ = chunk_at_ == end && end < payload_.size();
    }
  }
}

}  // namespace faaskit::wire
