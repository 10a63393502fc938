// If these failed, a worker built now would break under a host that uses more of the protocol than today's.
// The host is a raw socket here.
#include <fstream>

#include "harness.h"
#include "wire/envelope.pb.h"
#include "wire/frame_decoder.h"
#include "wire/frames.h"

namespace faaskit::uds {
namespace {

namespace pb = wire::pb;
using wire::ByteVector;
using wire::frame;
using wire::frame_of;
using wire::FrameType;
using wire::operator+;

std::vector<std::string> worker() {
  if (GENERATE(true, false)) return {FAASKIT_ECHO_WORKER};
  if (::access(FAASKIT_PYTHON, X_OK) != 0) FAASKIT_SKIP("no python3 at " FAASKIT_PYTHON);
  return {FAASKIT_PYTHON, "-I", FAASKIT_PYTHON_RUNTIME, FAASKIT_FUNCTIONS, "functions:handler"};
}

struct Frame {
  wire::FrameHeader header;
  std::string envelope;
  std::string payload;
};

class RawHost {
 public:
  explicit RawHost(std::vector<std::string> argv = worker(), Ends ends = make_ends())
      : process(std::move(argv), std::move(ends.peer)), fd_(std::move(ends.host)) {
    const Frame hello = read();
    REQUIRE(hello.header.type == FrameType::hello);
    pb::Hello message;
    REQUIRE(message.ParseFromString(hello.envelope));
    CHECK(message.min_version() == 1);
    CHECK(message.max_version() == 1);
  }

  void write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
      const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
      if (sent < 0) {
        REQUIRE(errno == EAGAIN);
        wait(POLLOUT);
        continue;
      }
      bytes = bytes.subspan(static_cast<std::size_t>(sent));
    }
  }

  Frame read() {
    const std::string header = read_exactly(wire::kHeaderBytes);
    Frame out;
    REQUIRE(wire::decode_header(wire::as_bytes(header).data(), out.header));
    out.envelope = read_exactly(out.header.envelope_bytes);
    out.payload = read_exactly(out.header.payload_bytes);
    return out;
  }

  void close() { fd_.reset(); }

  Process process;

 private:
  void wait(short events) {
    pollfd ready{fd_.get(), events, 0};
    REQUIRE(::poll(&ready, 1, 10000) == 1);
  }
  std::string read_exactly(std::size_t size) {
    std::string out(size, '\0');
    for (std::size_t at = 0; at < size;) {
      wait(POLLIN);
      const ssize_t got = ::recv(fd_.get(), out.data() + at, size - at, 0);
      REQUIRE(got > 0);
      at += static_cast<std::size_t>(got);
    }
    return out;
  }

  UniqueFd fd_;
};

ByteVector call_frame(std::uint64_t id, std::string_view payload, std::uint64_t total,
                      const std::string& what = "echo", std::uint64_t window = 0) {
  pb::Call call;
  call.set_payload_bytes(total);
  call.set_content_type(what);
  call.set_timeout_us(1000000);
  call.set_window_bytes(window);
  return frame_of(FrameType::call, id, call, payload);
}

ByteVector ping(std::uint64_t nonce) {
  pb::Ping message;
  message.set_nonce(nonce);
  return frame_of(FrameType::ping, 0, message);
}

void check_pong(const Frame& got, std::uint64_t nonce) {
  CHECK(got.header.type == FrameType::ping);
  CHECK(got.header.flags == wire::kPong);
  pb::Ping message;
  REQUIRE(message.ParseFromString(got.envelope));
  CHECK(message.nonce() == nonce);
}

ByteVector credit(std::uint64_t call, std::uint64_t bytes) {
  pb::Credit message;
  message.set_bytes(bytes);
  return frame_of(FrameType::credit, call, message);
}

}  // namespace

TEST_CASE("a worker answers pings, and skips what it may", "[uds][process]") {
  RawHost host;
  host.write(ping(7) + frame({.type = FrameType::cancel, .call_id = 9}) +
             frame({.type = FrameType::resumed}) +
             frame({.type = static_cast<FrameType>(200), .flags = wire::kSkipIfUnknown}, "x",
                   std::string(100000, 'y')) +
             credit(3, 5) + call_frame(4, "after all that", 14));
  check_pong(host.read(), 7);
  const Frame end = host.read();
  CHECK(end.header.type == FrameType::end);
  CHECK(end.header.call_id == 4);
  CHECK(end.payload == "after all that");
}

TEST_CASE("a ping between the parts of a call is answered, and the call is whole", "[uds][process]") {
  RawHost host;
  host.write(call_frame(1, "one", 9) + ping(1) + frame({.type = FrameType::body, .call_id = 1}, "", "two") +
             ping(2));
  check_pong(host.read(), 1);
  check_pong(host.read(), 2);
  host.write(frame({.type = FrameType::body, .call_id = 1}, "", "six"));
  CHECK(host.read().payload == "onetwosix");
}

TEST_CASE("a worker sends no more body than it has credit for", "[uds][process]") {
  RawHost host;
  const std::size_t size = (1 << 20) + 1000;  // too much for one frame
  host.write(call_frame(1, std::to_string(size), 7, "size", 1000));
  const Frame head = host.read();
  REQUIRE(head.header.type == FrameType::reply_head);
  pb::ReplyHead announced;
  REQUIRE(announced.ParseFromString(head.envelope));
  CHECK(announced.payload_bytes() == size);
  CHECK(host.read().header.payload_bytes == 1000);
  host.write(ping(5));
  check_pong(host.read(), 5);                   // and no body before it: the credit is used up
  host.write(credit(99, 50) + credit(1, 300));  // the first is for no call of ours
  CHECK(host.read().header.payload_bytes == 300);
  host.write(ping(6));
  check_pong(host.read(), 6);
  host.write(credit(1, size));
  std::size_t got = 1300;
  Frame next = host.read();
  for (; next.header.type == FrameType::body; next = host.read()) got += next.payload.size();
  CHECK(next.header.type == FrameType::end);
  CHECK(got + next.payload.size() == size);
}

TEST_CASE("a drained worker finishes its call and leaves", "[uds][process]") {
  RawHost host;
  host.write(call_frame(1, "last", 4) + frame({.type = FrameType::drain}));
  CHECK(host.read().payload == "last");
  const int status = host.process.wait();
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("a worker leaves with an error when its host breaks the protocol", "[uds][process]") {
  RawHost host;
  SECTION("garbage") { host.write(wire::as_bytes("garbage garbage garbage garbage")); }
  SECTION("an unknown type") { host.write(frame({.type = static_cast<FrameType>(200)})); }
  SECTION("a function it never offered to become") { host.write(frame({.type = FrameType::specialise})); }
  SECTION("body of another call") {
    host.write(call_frame(1, "one", 6) + frame({.type = FrameType::body, .call_id = 2}, "", "two"));
  }
  SECTION("more payload than announced") { host.write(call_frame(1, "one", 2)); }
  SECTION("unknown flags") {
    host.write(frame({.type = static_cast<FrameType>(200), .flags = wire::kSkipIfUnknown | 0x100}));
  }
  SECTION("an envelope beyond the limit, of which nothing comes") {
    wire::FrameHeader header{.type = FrameType::call, .call_id = 1, .envelope_bytes = (64 << 10) + 1};
    ByteVector bytes(wire::kHeaderBytes);
    wire::encode_header(header, bytes.data());
    host.write(bytes);
  }
  SECTION("a payload beyond the limit of a frame, of which nothing comes") {
    wire::FrameHeader header{.type = static_cast<FrameType>(200), .flags = wire::kSkipIfUnknown};
    header.payload_bytes = (1 << 20) + 1;
    ByteVector bytes(wire::kHeaderBytes);
    wire::encode_header(header, bytes.data());
    host.write(bytes);
  }
  SECTION("a first part beyond the limit of its own call") {
    pb::Call call;
    call.set_payload_bytes(20);
    call.set_max_frame_bytes(10);
    host.write(frame_of(FrameType::call, 1, call, "eleven byte"));
  }
  SECTION("a further part beyond the limit of its own call") {
    pb::Call call;
    call.set_payload_bytes(20);
    call.set_max_frame_bytes(10);
    host.write(frame_of(FrameType::call, 1, call, "one") +
               frame({.type = FrameType::body, .call_id = 1}, "", "eleven byte"));
  }
  SECTION("an envelope that is none") {
    host.write(frame({.type = FrameType::call, .call_id = 1}, "\xff\xff"));
  }
  const int status = host.process.wait();
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) != 0);
}

TEST_CASE("times of any size", "[uds][process]") {
  RawHost host;
  std::uint64_t id = 0;
  for (const auto& [timeout, left] : std::vector<std::pair<std::uint64_t, std::string>>{
           {0, "none"}, {3000000000, "some"}, {UINT64_C(1) << 62, "hours"}, {UINT64_MAX, "hours"}}) {
    CAPTURE(timeout);
    pb::Call call;
    call.set_content_type("left");
    call.set_timeout_us(timeout);
    call.set_idle_for_us(timeout);
    host.write(frame_of(FrameType::call, ++id, call));
    CHECK(host.read().payload == left);
  }
}

TEST_CASE("memory grows with what has come of a call, and not with what was announced", "[uds][process]") {
  // The C++ worker; Python takes its memory as it is touched.
  RawHost host({FAASKIT_ECHO_WORKER});
  host.write(call_frame(1, "x", UINT64_C(1) << 62) + ping(1));
  check_pong(host.read(), 1);  // it waits for the rest
  host.close();
  const int status = host.process.wait();
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("the channel is not inherited by what the function starts", "[uds][process]") {
  RawHost host;
  std::ifstream info("/proc/" + std::to_string(host.process.pid()) + "/fdinfo/3");
  std::string key;
  std::string flags;
  while (info >> key && key != "flags:") {
  }
  REQUIRE(info >> flags);
  CHECK((std::stoul(flags, nullptr, 8) & O_CLOEXEC) != 0);
}

}  // namespace faaskit::uds
