// What every fuzz target is made of: bytes read as decisions, and a check that stops the program.
// A decision taken from used-up input is zero, so that every input is a whole scenario.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

// libFuzzer's, and replay.cc's, way in.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

#define FUZZ_CHECK(condition)                                                             \
  do {                                                                                    \
    if (!(condition)) {                                                                   \
      std::fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition); \
      std::abort();                                                                       \
    }                                                                                     \
  } while (false)

namespace faaskit::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : left_(data, size) {}

  bool empty() const { return left_.empty(); }
  std::uint8_t byte() { return number<std::uint8_t>(); }
  std::uint16_t two() { return number<std::uint16_t>(); }
  std::uint32_t four() { return number<std::uint32_t>(); }
  std::uint64_t eight() { return number<std::uint64_t>(); }
  // At most `most` bytes, as they are.
  std::string_view take(std::size_t most) {
    const std::size_t size = std::min(most, left_.size());
    const std::string_view out(reinterpret_cast<const char*>(left_.data()), size);
    left_ = left_.subspan(size);
    return out;
  }
  std::string_view rest() { return take(left_.size()); }
  // Of that size, whatever is left: long texts must not cost the fuzzer long inputs.
  std::string text(std::size_t size) {
    std::string out(take(size));
    out.resize(size, 'a');
    return out;
  }

 private:
  template <typename Number>
  Number number() {
    Number value = 0;
    const std::string_view bytes = take(sizeof value);
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }

  std::span<const std::uint8_t> left_;
};

// The sizes in which bytes arrive; 0 as a seed: all at once.
class Pieces {
 public:
  explicit Pieces(std::uint32_t seed) : state_(seed) {}
  std::size_t next(std::size_t left) {
    if (state_ == 0) return left;
    state_ = state_ * 1664525 + 1013904223;
    if (state_ == 0) state_ = 1;
    const std::uint32_t random = state_ >> 8;
    // Single bytes now and then, else up to a few frames.
    const std::size_t size = random % 4 == 0 ? 1 : 1 + (random >> 2) % (random % 3 == 0 ? 30 : 3000);
    return std::min(left, size);
  }

 private:
  std::uint32_t state_;
};

// Bytes in a block of their own, of just their size: one read beyond them is seen by a sanitizer.
class Copy {
 public:
  explicit Copy(std::span<const std::byte> bytes) : size_(bytes.size()) {
    data_ = std::malloc(size_ == 0 ? 1 : size_);
    FUZZ_CHECK(data_ != nullptr);
    if (size_ > 0) std::memcpy(data_, bytes.data(), size_);
  }
  Copy(const Copy&) = delete;
  Copy& operator=(const Copy&) = delete;
  ~Copy() { std::free(data_); }
  std::span<const std::byte> bytes() const { return {static_cast<const std::byte*>(data_), size_}; }

 private:
  void* data_;
  std::size_t size_;
};

}  // namespace faaskit::fuzz
