// If these failed, a call whose send was cut short would arrive garbled.
#include "wire/call_writer.h"

#include <algorithm>
#include <random>

#include "catch.hpp"
#include "wire/frame_decoder.h"
#include "wire/frames.h"

namespace faaskit::wire {

TEST_CASE("a call's bytes are the same however its writes are cut", "[wire][property]") {
  const std::uint64_t seed = 4711;
  std::mt19937_64 rng(seed);
  for (int round = 0; round < 400; ++round) {
    CAPTURE(seed, round);
    const std::size_t max_frame = 1 + rng() % 64;
    Bytes payload(rng() % 1000);
    for (std::byte& b : payload) b = static_cast<std::byte>(rng());
    const std::size_t first = std::min(payload.size(), max_frame);
    ByteVector head = frame({.type = FrameType::call, .call_id = 9}, "envelope");
    const auto first_bytes = static_cast<std::uint32_t>(first);
    std::memcpy(head.data() + 20, &first_bytes, 4);

    CallWriter writer;
    writer.start(head, 9, payload, max_frame);
    ByteVector written;
    std::vector<iovec> pieces(1 + rng() % 12);
    while (!writer.done()) {
      const std::size_t count = writer.gather(pieces);
      REQUIRE(count > 0);
      ByteVector now;
      for (std::size_t i = 0; i < count; ++i) {
        const auto* data = static_cast<const std::byte*>(pieces[i].iov_base);
        now.insert(now.end(), data, data + pieces[i].iov_len);
      }
      const std::size_t accepted = rng() % (now.size() + 1);
      written.insert(written.end(), now.begin(), now.begin() + static_cast<std::ptrdiff_t>(accepted));
      writer.advance(accepted);
    }
    CHECK(writer.gather(pieces) == 0);

    FrameDecoder decoder({.max_envelope_bytes = 100, .max_payload_bytes = max_frame});
    std::span<const std::byte> input = written;
    ByteVector received;
    std::size_t frames = 0;
    FrameDecoder::Step step;
    while ((step = decoder.next(input)) != FrameDecoder::Step::need_input) {
      REQUIRE(step != FrameDecoder::Step::failed);
      if (step == FrameDecoder::Step::head) {
        CHECK(decoder.header().type == (frames++ == 0 ? FrameType::call : FrameType::body));
        CHECK(decoder.header().call_id == 9);
      }
      if (step == FrameDecoder::Step::payload) {
        received.insert(received.end(), decoder.payload().begin(), decoder.payload().end());
      }
    }
    CHECK(received == payload);
    CHECK(frames == std::max<std::size_t>(1, (payload.size() + max_frame - 1) / max_frame));
  }
}

}  // namespace faaskit::wire
