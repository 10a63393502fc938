// A sandbox that is a raw socket, and writes what it likes.
#pragma once

#include <algorithm>

#include "harness.h"
#include "wire/envelope.pb.h"
#include "wire/frames.h"

namespace faaskit::uds {

namespace pb = wire::pb;
using wire::ByteVector;
using wire::frame;
using wire::frame_of;
using wire::FrameType;
using wire::operator+;

inline ByteVector hello_frame() {
  pb::Hello hello;
  hello.set_min_version(1);
  hello.set_max_version(1);
  hello.set_runtime("raw");
  return frame_of(FrameType::hello, 0, hello);
}

inline ByteVector end_frame(std::uint64_t call, std::string_view payload = {}) {
  return frame_of(FrameType::end, call, pb::End(), payload);
}

inline void write_all(const UniqueFd& fd, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    REQUIRE(sent > 0);
    bytes = bytes.subspan(static_cast<std::size_t>(sent));
  }
}

// Reads what is there, at most `most`, without waiting.
inline std::size_t read_some(const UniqueFd& fd, ByteVector& into, std::size_t most = 1 << 20) {
  const std::size_t at = into.size();
  into.resize(at + most);
  const ssize_t got = ::recv(fd.get(), into.data() + at, most, MSG_DONTWAIT);
  into.resize(at + static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  return into.size() - at;
}

// A host that has heard the hello of a raw peer.
struct Pair {
  explicit Pair(ChannelLimits limits = {}, Ends ends = make_ends())
      : peer(std::move(ends.peer)), host(std::move(ends.host), limits) {
    write_all(peer, hello_frame());
    const absl::StatusOr<Hello> hello = host.hello();
    REQUIRE(hello.ok());
    CHECK(hello->runtime == "raw");
  }
  UniqueFd peer;
  Host host;
};

}  // namespace faaskit::uds
