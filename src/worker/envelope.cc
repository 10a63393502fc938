#include "worker/envelope.h"

#include <cstring>

namespace faaskit::worker {
namespace {

// Protobuf's wire types.
constexpr std::uint32_t kVarint = 0;
constexpr std::uint32_t kFixed64 = 1;
constexpr std::uint32_t kBytes = 2;
constexpr std::uint32_t kFixed32 = 5;

// A number with another type than ours is another field, and skipped as Protobuf skips it.
constexpr std::uint32_t varint_of(std::uint32_t number) { return number << 3 | kVarint; }
constexpr std::uint32_t fixed64_of(std::uint32_t number) { return number << 3 | kFixed64; }
constexpr std::uint32_t bytes_of(std::uint32_t number) { return number << 3 | kBytes; }

struct Field {
  std::uint32_t key = 0;  // number and type
  std::uint64_t value = 0;
  std::string_view bytes;
};

class Reader {
 public:
  explicit Reader(std::string_view in) : in_(in) {}

  // False at the end, and when the message is broken: then ok() is false too.
  bool next(Field& field) {
    if (in_.empty() || !ok_) return false;
    std::uint64_t key = 0;
    if (!varint(key) || key >> 3 == 0 || key > UINT32_MAX) return broken();
    field.key = static_cast<std::uint32_t>(key);
    switch (key & 7) {
      case kVarint: return varint(field.value) || broken();
      case kFixed64: return fixed(field.value, 8) || broken();
      case kFixed32: return fixed(field.value, 4) || broken();
      case kBytes: {
        std::uint64_t size = 0;
        if (!varint(size) || size > in_.size()) return broken();
        field.bytes = in_.substr(0, size);
        in_.remove_prefix(size);
        return true;
      }
      default: return broken();
    }
  }
  bool ok() const { return ok_; }

 private:
  bool broken() { return ok_ = false; }
  bool varint(std::uint64_t& value) {
    value = 0;
    for (unsigned shift = 0; shift < 64 && !in_.empty(); shift += 7) {
      const auto byte = static_cast<unsigned char>(in_.front());
      in_.remove_prefix(1);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return true;
    }
    return false;
  }
  bool fixed(std::uint64_t& value, std::size_t size) {
    if (in_.size() < size) return false;
    value = 0;
    std::memcpy(&value, in_.data(), size);
    in_.remove_prefix(size);
    return true;
  }

  std::string_view in_;
  bool ok_ = true;
};

void put_varint(std::string& out, std::uint64_t value) {
  while (value >= 0x80) {
    out.push_back(static_cast<char>(value | 0x80));
    value >>= 7;
  }
  out.push_back(static_cast<char>(value));
}

// As in proto3, what has its default value is left out.
void put_uint(std::string& out, std::uint32_t number, std::uint64_t value) {
  if (value == 0) return;
  put_varint(out, number << 3 | kVarint);
  put_varint(out, value);
}

void put_bytes(std::string& out, std::uint32_t number, std::string_view value) {
  if (value.empty()) return;
  put_varint(out, number << 3 | kBytes);
  put_varint(out, value.size());
  out.append(value);
}

void put_metadata(std::string& out, std::uint32_t number, const Metadata& metadata) {
  std::string pair;
  for (const auto& [name, value] : metadata) {
    pair.clear();
    put_bytes(pair, 1, name);
    put_bytes(pair, 2, value);
    // Also if it is empty: one of several is never left out.
    put_varint(out, number << 3 | kBytes);
    put_varint(out, pair.size());
    out.append(pair);
  }
}

bool decode_pair(std::string_view bytes, std::pair<std::string_view, std::string_view>& pair) {
  Reader reader(bytes);
  Field field;
  while (reader.next(field)) {
    if (field.key == bytes_of(1)) pair.first = field.bytes;
    if (field.key == bytes_of(2)) pair.second = field.bytes;
  }
  return reader.ok();
}

}  // namespace

bool decode_call(std::string_view bytes, CallEnvelope& call) {
  call = {};
  Reader reader(bytes);
  Field field;
  while (reader.next(field)) {
    switch (field.key) {
      case varint_of(1): call.token = field.value; break;
      case fixed64_of(2): call.invoker = field.value; break;
      case varint_of(3): call.sequence = field.value; break;
      case varint_of(4): call.attempt = static_cast<std::uint32_t>(field.value); break;
      case varint_of(5): call.timeout_us = field.value; break;
      case varint_of(6): call.idle_for_us = field.value; break;
      case bytes_of(7): call.trace = field.bytes; break;
      case bytes_of(8): call.content_type = field.bytes; break;
      case varint_of(9): call.payload_bytes = field.value; break;
      case varint_of(10): call.max_frame_bytes = static_cast<std::uint32_t>(field.value); break;
      case varint_of(11): call.window_bytes = field.value; break;
      case varint_of(12): call.max_reply_bytes = field.value; break;
      case bytes_of(13):
        if (!decode_pair(field.bytes, call.metadata.emplace_back())) return false;
        break;
      case varint_of(14): call.streams = field.value != 0; break;
      default: break;
    }
  }
  return reader.ok();
}

bool decode_credit(std::string_view bytes, std::uint64_t& credit) {
  credit = 0;
  Reader reader(bytes);
  Field field;
  while (reader.next(field)) {
    if (field.key == varint_of(1)) credit = field.value;
  }
  return reader.ok();
}

void encode_hello(std::string& out, std::uint32_t version, std::uint64_t capabilities,
                  std::string_view runtime, std::uint64_t runtime_us, std::uint64_t init_us) {
  put_uint(out, 1, version);
  put_uint(out, 2, version);
  put_uint(out, 3, capabilities);
  put_bytes(out, 4, runtime);
  put_uint(out, 5, runtime_us);
  put_uint(out, 6, init_us);
}

void encode_reply_head(std::string& out, std::string_view content_type,
                       std::optional<std::uint64_t> payload_bytes, const Metadata& metadata) {
  put_bytes(out, 1, content_type);
  put_uint(out, 2, payload_bytes.value_or(0));
  put_metadata(out, 3, metadata);
  put_uint(out, 4, payload_bytes ? 0 : 1);
}

void encode_end(std::string& out, std::uint32_t status, std::string_view message,
                std::string_view content_type, std::uint64_t run_time_us, const Metadata& metadata) {
  put_uint(out, 1, status);
  put_bytes(out, 2, message);
  put_bytes(out, 3, content_type);
  put_uint(out, 4, run_time_us);
  put_metadata(out, 5, metadata);
}

}  // namespace faaskit::worker
