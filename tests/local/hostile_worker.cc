// A function that breaks the protocol in the way its call names. It speaks on descriptor 3 itself, without a
// runtime between; CRIME in its environment names what it does instead of its hello.
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <string>

#include "wire/frame.h"
#include "worker/envelope.h"

namespace {

using faaskit::wire::FrameHeader;
using faaskit::wire::FrameType;

void write_raw(const std::string& bytes) {
  for (std::size_t done = 0; done < bytes.size();) {
    const ssize_t sent = ::send(3, bytes.data() + done, bytes.size() - done, MSG_NOSIGNAL);
    if (sent <= 0) std::_Exit(0);  // the host has cut the line
    done += static_cast<std::size_t>(sent);
  }
}

std::string header(FrameHeader fields) {
  std::array<std::byte, faaskit::wire::kHeaderBytes> bytes;
  encode_header(fields, bytes.data());
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

std::string frame(FrameType type, std::uint64_t call, const std::string& envelope,
                  const std::string& payload = {}) {
  return header({.type = type,
                 .call_id = call,
                 .envelope_bytes = static_cast<std::uint32_t>(envelope.size()),
                 .payload_bytes = static_cast<std::uint32_t>(payload.size())}) +
         envelope + payload;
}

std::string end(std::uint64_t call, const std::string& reply, std::uint64_t run_time_us = 1) {
  std::string envelope;
  faaskit::worker::encode_end(envelope, 0, "", "text/plain", run_time_us);
  return frame(FrameType::end, call, envelope, reply);
}

std::string read_exactly(std::size_t size) {
  std::string bytes(size, '\0');
  for (std::size_t done = 0; done < size;) {
    const ssize_t got = ::read(3, bytes.data() + done, size - done);
    if (got <= 0) std::_Exit(0);
    done += static_cast<std::size_t>(got);
  }
  return bytes;
}

void hello() {
  const std::string crime = std::getenv("CRIME") == nullptr ? "" : std::getenv("CRIME");
  const std::uint64_t lie = std::numeric_limits<std::uint64_t>::max() / 2;
  std::string envelope;
  faaskit::worker::encode_hello(envelope, 1, 0, "hostile", crime == "lies" ? lie : 0,
                                crime == "lies" ? lie : 0);
  if (crime == "garbage") write_raw(std::string(64, '\xff'));
  if (crime == "silence") ::pause();
  if (crime == "leaves") std::_Exit(0);
  if (crime == "wrong frame") write_raw(end(0, "hello?"));
  if (crime == "future") {
    std::string future;
    faaskit::worker::encode_hello(future, 99, 0, "hostile");
    write_raw(frame(FrameType::hello, 0, future));
  }
  write_raw(frame(FrameType::hello, 0, envelope));
  if (crime == "two hellos") write_raw(frame(FrameType::hello, 0, envelope));
}

void commit(const std::string& crime, std::uint64_t call) {
  const FrameHeader honest{.type = FrameType::end, .call_id = call};
  FrameHeader forged = honest;
  if (crime == "garbage") write_raw(std::string(4096, '\xff'));
  if (crime == "oversize payload") {
    forged.payload_bytes = 1u << 30;
    write_raw(header(forged));
  }
  if (crime == "oversize envelope") {
    forged.envelope_bytes = 1u << 30;
    write_raw(header(forged));
  }
  if (crime == "half a header") {
    write_raw(header(honest).substr(0, 10));
    std::_Exit(0);
  }
  if (crime == "half a frame") {
    const std::string whole = end(call, "the whole answer");
    write_raw(whole.substr(0, whole.size() - 4));
    std::_Exit(0);
  }
  if (crime == "half a frame, and waits") {
    write_raw(end(call, "the whole answer").substr(0, 30));
    ::pause();
  }
  if (crime == "another call") write_raw(end(call + 7, "not asked for"));
  if (crime == "answers twice") {
    write_raw(end(call, "first") + end(call, "second"));
    ::pause();
  }
  if (crime == "answers the next one") write_raw(end(call, "first") + end(call + 1, "second"));
  if (crime == "a body without a head") write_raw(frame(FrameType::body, call, "", "body"));
  if (crime == "announces too much") {
    std::string envelope;
    faaskit::worker::encode_reply_head(envelope, "text/plain", std::uint64_t{1} << 40);
    write_raw(frame(FrameType::reply_head, call, envelope));
  }
  if (crime == "more than announced") {
    std::string envelope;
    faaskit::worker::encode_reply_head(envelope, "text/plain", 10);
    write_raw(frame(FrameType::reply_head, call, envelope) +
              frame(FrameType::body, call, "", std::string(100, 'x')));
  }
  if (crime == "an envelope of nonsense") write_raw(frame(FrameType::end, call, std::string(60, '\xff')));
  if (crime == "floods the channel") {
    const std::string line = frame(FrameType::log, call, "", std::string(60000, 'l'));
    for (;;) write_raw(line);
  }
  if (crime == "floods stdout") {
    static std::array<char, 65536> block;
    block.fill('x');
    for (;;) (void)!::write(1, block.data(), block.size());
  }
  if (crime == "stops reading and writes") {
    for (;;) write_raw(end(call, std::string(1 << 20, 'z')));
  }
  if (crime == "lies") return write_raw(end(call, "lied", std::numeric_limits<std::uint64_t>::max() / 2));
  write_raw(end(call, crime));
}

}  // namespace

int main() {
  hello();
  for (;;) {
    const std::string head = read_exactly(faaskit::wire::kHeaderBytes);
    FrameHeader call;
    if (!decode_header(reinterpret_cast<const std::byte*>(head.data()), call)) return 2;
    read_exactly(call.envelope_bytes);
    const std::string crime = read_exactly(call.payload_bytes);
    if (call.type == FrameType::call) commit(crime, call.call_id);
  }
}
