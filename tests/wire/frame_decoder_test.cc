// If these failed, what a sandbox writes could be read as something else, or held in memory without bound.
#include "wire/frame_decoder.h"

#include <algorithm>
#include <random>

#include "catch.hpp"
#include "wire/frames.h"

namespace faaskit::wire {
namespace {

struct Frame {
  FrameHeader header;
  std::string envelope;
  std::string payload;
  friend bool operator==(const Frame&, const Frame&) = default;
};

ByteVector encode(const Frame& f) { return frame(f.header, f.envelope, f.payload); }

// Feeds `stream` in pieces of the sizes that `next_size` gives; returns the whole frames.
template <typename NextSize>
std::vector<Frame> decode(FrameDecoder& decoder, std::span<const std::byte> stream, NextSize next_size) {
  std::vector<Frame> frames;
  Frame current;
  while (true) {
    const std::size_t size = std::min<std::size_t>(stream.size(), next_size());
    // A copy of exactly this piece, so that a sanitizer sees every read beyond it.
    const ByteVector copy(stream.begin(), stream.begin() + static_cast<std::ptrdiff_t>(size));
    stream = stream.subspan(size);
    std::span<const std::byte> input = copy;
    FrameDecoder::Step step;
    while ((step = decoder.next(input)) != FrameDecoder::Step::need_input) {
      if (step == FrameDecoder::Step::failed) return frames;
      if (step == FrameDecoder::Step::head) current = {decoder.header(), as_text(decoder.envelope()), ""};
      if (step == FrameDecoder::Step::payload) current.payload += as_text(decoder.payload());
      if (step == FrameDecoder::Step::end) frames.push_back(current);
    }
    REQUIRE(input.empty());
    if (stream.empty()) return frames;
  }
}

Frame random_frame(std::mt19937_64& rng) {
  Frame f;
  f.header.type = static_cast<FrameType>(rng() % 20);
  f.header.flags = static_cast<std::uint16_t>(rng() % 4);
  f.header.call_id = rng();
  f.envelope.resize(rng() % 3 == 0 ? 0 : rng() % 200);
  f.payload.resize(rng() % 3 == 0 ? 0 : rng() % 1500);
  for (char& c : f.envelope) c = static_cast<char>(rng());
  for (char& c : f.payload) c = static_cast<char>(rng());
  f.header.envelope_bytes = static_cast<std::uint32_t>(f.envelope.size());
  f.header.payload_bytes = static_cast<std::uint32_t>(f.payload.size());
  return f;
}

}  // namespace

TEST_CASE("the header's bytes are those of the protocol document", "[wire]") {
  std::byte out[kHeaderBytes];
  encode_header({.type = FrameType::end,
                 .flags = kPong,
                 .call_id = 0x0102030405060708,
                 .envelope_bytes = 0x0A,
                 .payload_bytes = 0x0B00},
                out);
  CHECK(as_text(out) ==
        std::string("FKIT\x01\x05\x02\x00\x08\x07\x06\x05\x04\x03\x02\x01\x0A\0\0\0\0\x0B\0\0", 24));
}

TEST_CASE("frames come out the same however their bytes are cut", "[wire][property]") {
  const std::uint64_t seed = 20260731;
  std::mt19937_64 rng(seed);
  for (int round = 0; round < 300; ++round) {
    CAPTURE(seed, round);
    std::vector<Frame> frames(1 + rng() % 8);
    ByteVector stream;
    for (Frame& f : frames) {
      f = random_frame(rng);
      stream = stream + encode(f);
    }
    const std::size_t most = 1 + rng() % (round % 3 == 0 ? 4 : 2000);
    FrameDecoder decoder({.max_envelope_bytes = 200, .max_payload_bytes = 1500});
    CHECK(decode(decoder, stream, [&] { return 1 + rng() % most; }) == frames);
    CHECK_FALSE(decoder.mid_frame());
  }
}

TEST_CASE("half a frame is no frame, at whatever byte it ends", "[wire]") {
  Frame f{{.type = FrameType::end}, "envelope", "payload"};
  f.header.envelope_bytes = 8;
  f.header.payload_bytes = 7;
  const ByteVector whole = encode(f);
  for (std::size_t size = 1; size < whole.size(); ++size) {
    FrameDecoder decoder({});
    CHECK(decode(decoder, std::span(whole).first(size), [] { return 1000; }).empty());
    CHECK(decoder.mid_frame());
  }
}

TEST_CASE("a frame beyond a limit fails at its header, with operand and limit", "[wire]") {
  FrameDecoder::Step last{};
  const auto feed = [&last](const ByteVector& bytes) {
    FrameDecoder decoder({.max_envelope_bytes = 10, .max_payload_bytes = 100});
    std::span<const std::byte> input = bytes;
    REQUIRE(input.size() >= kHeaderBytes);
    last = decoder.next(input);
    return decoder;
  };
  FrameDecoder envelope = feed(frame({}, std::string(11, 'e')));
  CHECK(last == FrameDecoder::Step::failed);
  CHECK(envelope.error() == FrameError::envelope_too_large);
  CHECK(envelope.error_text() == "frame envelope of 11 bytes, the limit is 10");
  FrameDecoder payload = feed(frame({}, "", std::string(101, 'p')));
  CHECK(payload.error() == FrameError::payload_too_large);
  CHECK(payload.error_text() == "frame payload of 101 bytes, the limit is 100");
  CHECK(feed(frame({.version = 9})).error() == FrameError::bad_version);
  CHECK(feed(frame({.flags = 0x100})).error() == FrameError::bad_flags);
  CHECK(feed(frame({}, std::string(10, 'e'), std::string(100, 'p'))).error() == FrameError::none);
  CHECK(last == FrameDecoder::Step::head);
}

TEST_CASE("garbage fails once and for all", "[wire][property]") {
  const std::uint64_t seed = 7;
  std::mt19937_64 rng(seed);
  for (int round = 0; round < 500; ++round) {
    CAPTURE(seed, round);
    ByteVector garbage(kHeaderBytes + rng() % 300);
    for (std::byte& b : garbage) b = static_cast<std::byte>(rng());
    // Now and then a right magic, so that the other fields are reached.
    if (rng() % 2 == 0) std::memcpy(garbage.data(), &kMagic, 4);
    FrameDecoder decoder({.max_envelope_bytes = 64, .max_payload_bytes = 64});
    const std::vector<Frame> frames = decode(decoder, garbage, [&] { return 1 + rng() % 50; });
    if (decoder.error() == FrameError::none) continue;
    CHECK(frames.size() <= 1);
    const ByteVector good = frame({.type = FrameType::hello});
    std::span<const std::byte> input = good;
    CHECK(decoder.next(input) == FrameDecoder::Step::failed);
  }
}

}  // namespace faaskit::wire
