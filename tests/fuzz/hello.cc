// The first bytes of a sandbox: whatever they are, the host ends up with a bounded hello, an error, or waits.
#include "frames.h"
#include "wire/host_protocol.h"

namespace faaskit::fuzz {
namespace {

using wire::HostProtocol;
using Event = HostProtocol::Event;

struct Outcome {
  Event event = Event::need_input;
  std::string error{};
  std::string runtime{};
  friend bool operator==(const Outcome&, const Outcome&) = default;
};

Outcome hear(std::string_view bytes, std::uint32_t seed) {
  HostProtocol protocol{ChannelLimits()};
  Pieces pieces(seed);
  Outcome outcome;
  for (std::span<const std::byte> left = as_bytes(bytes);
       !left.empty() && outcome.event == Event::need_input;) {
    const Copy piece(left.first(pieces.next(left.size())));
    left = left.subspan(piece.bytes().size());
    std::span<const std::byte> input = piece.bytes();
    outcome.event = protocol.receive(input);
    FUZZ_CHECK(outcome.event != Event::need_input || input.empty());
  }
  FUZZ_CHECK(!protocol.has_control());
  switch (outcome.event) {
    case Event::need_input: FUZZ_CHECK(!protocol.idle() && !protocol.failed()); break;
    case Event::hello:
      FUZZ_CHECK(protocol.idle());
      FUZZ_CHECK(protocol.hello().protocol_version == 1);
      FUZZ_CHECK(protocol.hello().runtime.size() <= 128);
      FUZZ_CHECK(protocol.hello().runtime_time.count() >= 0 && protocol.hello().init_time.count() >= 0);
      outcome.runtime = protocol.hello().runtime;
      break;
    case Event::failed: {
      FUZZ_CHECK(protocol.failed() && !protocol.error().ok());
      outcome.error = std::string(protocol.error().message());
      FUZZ_CHECK(!outcome.error.empty() && outcome.error.size() < 500);
      std::span<const std::byte> more = as_bytes("FKIT");
      FUZZ_CHECK(protocol.receive(more) == Event::failed);
      break;
    }
    default: FUZZ_CHECK(!"an event before the hello");
  }
  return outcome;
}

}  // namespace
}  // namespace faaskit::fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace faaskit::fuzz;
  Input in(data, size);
  const std::uint8_t how = in.byte();
  const std::uint32_t seed = in.two() + 1u;
  std::string bytes;
  // Raw bytes; a HELLO with a raw envelope; or any frames.
  if (how % 3 == 0) {
    bytes = in.rest();
  } else if (how % 3 == 1) {
    append_frame(bytes, {.type = FrameType::hello}, in.rest(), {});
  } else {
    while (!in.empty() && bytes.size() < 10000) append_sandbox_frame(in, bytes, 1, 1);
  }
  FUZZ_CHECK(hear(bytes, 0) == hear(bytes, seed));
  return 0;
}
