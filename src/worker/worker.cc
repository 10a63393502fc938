#include "faaskit/worker/worker.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/uio.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <utility>
#include <vector>

#include "wire/frame.h"
#include "wire/metadata.h"
#include "worker/envelope.h"

namespace faaskit::worker {
namespace {

using wire::FrameHeader;
using wire::FrameType;
using wire::kHeaderBytes;

constexpr std::size_t kMaxEnvelope = 64 << 10;
constexpr std::size_t kReadAhead = 64 << 10;
constexpr std::uint32_t kRaised = 2;  // UNKNOWN
// A call's announced payload has its memory reserved up to here; beyond, memory grows with what has come.
constexpr std::uint64_t kMostReserved = 64 << 20;
// "For ever" must not wrap round on a clock that counts nanoseconds in 63 bits.
constexpr std::uint64_t kLongest = std::chrono::microseconds(std::chrono::hours(24 * 365 * 100)).count();

// The two ways in which serving ends. Private to this file: nothing leaves run() but its result.
struct HostIsGone {};
struct HostBrokeProtocol {};

std::uint64_t microseconds(std::chrono::steady_clock::duration time) {
  return static_cast<std::uint64_t>(std::chrono::duration_cast<std::chrono::microseconds>(time).count());
}

std::chrono::microseconds told(std::uint64_t microseconds) {
  return std::chrono::microseconds(static_cast<std::int64_t>(std::min(microseconds, kLongest)));
}

std::string too_long(std::uint64_t bytes, std::uint64_t limit) {
  return "reply has " + std::to_string(bytes) + " bytes, the limit is " + std::to_string(limit);
}

// Makes names lower case. What is wrong with it, or nothing.
std::string check_metadata(Metadata& metadata) {
  std::size_t bytes = 0;
  for (auto& [name, value] : metadata) {
    for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    bytes += name.size() + value.size();
    if (!wire::is_metadata_name(name)) return "'" + name + "' is no name in a reply's metadata";
    if (!wire::is_metadata_value(value)) {
      return "'" + name + "' in a reply's metadata has a line break or a NUL in its value";
    }
  }
  if (bytes <= wire::kMaxMetadataBytes && metadata.size() <= wire::kMaxMetadataPairs) return {};
  return "reply's metadata has " + std::to_string(bytes) + " bytes in " + std::to_string(metadata.size()) +
         " pairs, the limit is " + std::to_string(wire::kMaxMetadataBytes) + " bytes or " +
         std::to_string(wire::kMaxMetadataPairs) + " pairs";
}

std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

// Blocking reads and writes of frames. One read may bring many frames.
class Line {
 public:
  explicit Line(int fd) : fd_(fd), buffer_(std::make_unique_for_overwrite<std::byte[]>(kCapacity)) {}

  FrameHeader header() {
    FrameHeader header;
    const bool magic = wire::decode_header(take(kHeaderBytes).data(), header);
    if (!magic || header.version != wire::kProtocolVersion || (header.flags & ~wire::kKnownFlags) != 0 ||
        header.envelope_bytes > kMaxEnvelope) {
      throw HostBrokeProtocol();
    }
    return header;
  }

  // `size` contiguous bytes, at most kMaxEnvelope; valid until the next read.
  std::span<const std::byte> take(std::size_t size) {
    while (filled_ - at_ < size) {
      if (at_ > 0) {
        std::memmove(buffer_.get(), buffer_.get() + at_, filled_ - at_);
        filled_ -= at_;
        at_ = 0;
      }
      filled_ += read(buffer_.get() + filled_, kCapacity - filled_);
    }
    return {buffer_.get() + std::exchange(at_, at_ + size), size};
  }

  // Past the buffer once that is empty: large payloads are read to where they belong.
  void fill(std::byte* out, std::size_t size) {
    const std::size_t have = std::min(size, filled_ - at_);
    std::memcpy(out, buffer_.get() + at_, have);
    at_ += have;
    for (std::size_t done = have; done < size;) done += read(out + done, size - done);
  }

  void discard(std::size_t size) {
    while (size > 0) {
      const std::size_t part = std::min(size, kReadAhead);
      take(part);
      size -= part;
    }
  }

  void send(FrameHeader header, std::string_view envelope, std::string_view payload = {}) {
    header.envelope_bytes = static_cast<std::uint32_t>(envelope.size());
    header.payload_bytes = static_cast<std::uint32_t>(payload.size());
    std::array<std::byte, kHeaderBytes> head;
    wire::encode_header(header, head.data());
    std::array<iovec, 3> pieces = {iovec{head.data(), head.size()},
                                   iovec{const_cast<char*>(envelope.data()), envelope.size()},
                                   iovec{const_cast<char*>(payload.data()), payload.size()}};
    msghdr message{};
    message.msg_iov = pieces.data();
    message.msg_iovlen = pieces.size();
    while (message.msg_iovlen > 0) {
      ssize_t sent = ::sendmsg(fd_, &message, MSG_NOSIGNAL);
      if (sent < 0) {
        if (errno == EINTR) continue;
        throw HostIsGone();
      }
      while (message.msg_iovlen > 0 && static_cast<std::size_t>(sent) >= message.msg_iov->iov_len) {
        sent -= static_cast<ssize_t>(message.msg_iov->iov_len);
        ++message.msg_iov;
        --message.msg_iovlen;
      }
      if (message.msg_iovlen > 0) {
        message.msg_iov->iov_base = static_cast<char*>(message.msg_iov->iov_base) + sent;
        message.msg_iov->iov_len -= static_cast<std::size_t>(sent);
      }
    }
  }

 private:
  static constexpr std::size_t kCapacity = kMaxEnvelope + kReadAhead;

  std::size_t read(std::byte* out, std::size_t size) {
    while (true) {
      const ssize_t got = ::recv(fd_, out, size, 0);
      if (got > 0) return static_cast<std::size_t>(got);
      if (got == 0 || errno != EINTR) throw HostIsGone();
    }
  }

  int fd_;
  // Never initialised: pages that no frame reaches are never touched.
  std::unique_ptr<std::byte[]> buffer_;
  std::size_t at_ = 0;
  std::size_t filled_ = 0;
};

class Worker {
 public:
  Worker(Handler handler, Options options)
      : line_(options.fd), handler_(std::move(handler)), options_(std::move(options)) {}

  void serve() {
    envelope_.clear();
    const auto entered = std::chrono::steady_clock::now();
    if (options_.init) options_.init();
    const auto ready = std::chrono::steady_clock::now();
    const bool noted = options_.started != std::chrono::steady_clock::time_point();
    encode_hello(envelope_, wire::kProtocolVersion, 0, options_.runtime,
                 noted ? microseconds(entered - options_.started) : 0,
                 options_.init ? microseconds(ready - entered) : 0);
    line_.send({.type = FrameType::hello}, envelope_);
    while (!draining_) {
      const FrameHeader header = line_.header();
      if (header.type == FrameType::call) {
        call(header);
      } else {
        other(header);
      }
    }
  }

 private:
  // A frame that does not begin a call. Returns the bytes of a credit, else 0.
  std::uint64_t other(const FrameHeader& header) {
    if (header.payload_bytes > frame_limit_) throw HostBrokeProtocol();
    const std::span<const std::byte> envelope = line_.take(header.envelope_bytes);
    std::uint64_t credit = 0;
    switch (header.type) {
      case FrameType::credit:
        if (!decode_credit(as_text(envelope), credit)) throw HostBrokeProtocol();
        break;
      case FrameType::ping:
        if ((header.flags & wire::kPong) == 0) {
          if (header.payload_bytes != 0) throw HostBrokeProtocol();
          line_.send({.type = FrameType::ping, .flags = wire::kPong, .call_id = header.call_id},
                     as_text(envelope));
        }
        break;
      case FrameType::drain: draining_ = true; break;
      case FrameType::cancel:   // a call runs to its end
      case FrameType::resumed:  // its idle time comes with the next call
        break;
      default:
        if ((header.flags & wire::kSkipIfUnknown) == 0) throw HostBrokeProtocol();
    }
    line_.discard(header.payload_bytes);
    return credit;
  }

  void call(const FrameHeader& header) {
    CallEnvelope envelope;
    // Kept aside: reading a long payload reuses the buffer that the envelope came in.
    call_envelope_.assign(as_text(line_.take(header.envelope_bytes)));
    if (!decode_call(call_envelope_, envelope)) throw HostBrokeProtocol();
    frame_limit_ = envelope.max_frame_bytes != 0 ? envelope.max_frame_bytes : wire::kDefaultFrameBytes;
    if (header.payload_bytes > std::min<std::uint64_t>(envelope.payload_bytes, frame_limit_)) {
      throw HostBrokeProtocol();
    }

    Request request;
    // The function begins only when the whole call is here: the host relies on it to tell whether a call
    // whose sandbox died can safely run elsewhere.
    request.payload = payload(header, envelope.payload_bytes);
    const auto started = std::chrono::steady_clock::now();
    request.content_type = envelope.content_type;
    request.trace = envelope.trace;
    request.deadline = started + told(envelope.timeout_us);
    request.idle_for = told(envelope.idle_for_us);
    request.cold = std::exchange(cold_, false);
    request.invoker = envelope.invoker;
    request.sequence = envelope.sequence;
    request.attempt = envelope.attempt;

    request.metadata = envelope.metadata;
    const std::uint64_t limit =
        envelope.max_reply_bytes != 0 ? envelope.max_reply_bytes : wire::kDefaultReplyBytes;
    Response response = run(request);
    if (response.error.empty()) response.error = check_metadata(response.metadata);
    if (response.error.empty() && response.content_type.size() > wire::kMaxContentTypeBytes) {
      response.error = "reply's content type has " + std::to_string(response.content_type.size()) +
                       " bytes, the limit is " + std::to_string(wire::kMaxContentTypeBytes);
    }
    bool head_sent = false;
    if (response.error.empty() && response.stream) {
      StreamWriter writer(*this, header.call_id, envelope, response, limit);
      response.error = guarded([&] {
        response.stream(writer);
        writer.flush();
      });
      // Also if the function swallowed it: half a reply is never passed off as whole.
      if (response.error.empty()) response.error = writer.error();
      head_sent = writer.head_sent();
    } else if (response.error.empty() && response.payload.size() > limit) {
      response.error = too_long(response.payload.size(), limit);
    }
    if (!response.error.empty()) response.payload.clear();
    const std::uint64_t ran = microseconds(std::chrono::steady_clock::now() - started);
    std::fflush(stdout);
    if (head_sent) {
      end_stream(header.call_id, response.error, ran);
    } else {
      answer(header.call_id, envelope, response, ran);
    }
  }

  std::span<const std::byte> payload(const FrameHeader& header, std::uint64_t total) {
    if (header.payload_bytes == total && total <= kReadAhead) return line_.take(total);
    payload_.clear();
    payload_.reserve(std::min(total, kMostReserved));
    payload_.resize(header.payload_bytes);
    line_.fill(payload_.data(), header.payload_bytes);
    for (std::uint64_t at = header.payload_bytes; at < total;) {
      const FrameHeader next = line_.header();
      if (next.type != FrameType::body) {
        if (next.type == FrameType::call) throw HostBrokeProtocol();
        other(next);
        continue;
      }
      if (next.call_id != header.call_id || next.envelope_bytes != 0 ||
          next.payload_bytes > std::min<std::uint64_t>(total - at, frame_limit_)) {
        throw HostBrokeProtocol();
      }
      payload_.resize(at + next.payload_bytes);
      line_.fill(payload_.data() + at, next.payload_bytes);
      at += next.payload_bytes;
    }
    return payload_;
  }

  // The function's error, or nothing. What ends the serving passes through.
  template <typename Function>
  std::string guarded(Function function) {
    std::string error;
    try {
      function();
      return {};
    } catch (const HostIsGone&) {
      throw;
    } catch (const HostBrokeProtocol&) {
      throw;
    } catch (const std::exception& thrown) {
      error = thrown.what();
    } catch (...) {
      error = "an exception that is no std::exception";
    }
    return error.empty() ? "an exception without a message" : error;
  }

  Response run(const Request& request) {
    Response response;
    const std::string error = guarded([&] {
      if (options_.on_thaw && request.idle_for.count() > 0) options_.on_thaw(request.idle_for);
      response = handler_(request);
    });
    if (error.empty()) return response;
    Response failed;
    failed.error = error;
    return failed;
  }

  // One reply made part by part: sent as it comes if the host streams, else collected in the response.
  class StreamWriter final : public Writer {
   public:
    StreamWriter(Worker& worker, std::uint64_t call_id, const CallEnvelope& call, Response& response,
                 std::uint64_t limit)
        : worker_(worker),
          call_id_(call_id),
          streams_(call.streams),
          response_(response),
          limit_(limit),
          credit_(call.window_bytes != 0 ? call.window_bytes : wire::kDefaultWindowBytes) {
      response_.payload.clear();
    }

    void write(std::string_view part) override {
      if (part.empty()) return;
      bytes_ += part.size();
      if (bytes_ > limit_) throw std::length_error(too_long(bytes_, limit_));
      if (!streams_ || joining(part.size())) {
        response_.payload.append(part);
        if (streams_ && response_.payload.size() >= wire::kLeastMeanBody) flush();
        return;
      }
      send(part);
    }
    // What was joined goes out before the end.
    void flush() {
      if (!streams_ || response_.payload.empty()) return;
      const std::string joined = std::exchange(response_.payload, {});
      send(joined);
    }
    bool head_sent() const { return head_sent_; }
    std::string error() const { return bytes_ > limit_ ? too_long(bytes_, limit_) : std::string(); }

   private:
    // Near the number of frames that may have any size.
    static constexpr std::uint64_t kManyFrames = 65000;

    bool joining(std::size_t size) const {
      return !response_.payload.empty() || (frames_ >= kManyFrames && size < wire::kLeastMeanBody);
    }
    void send(std::string_view part) {
      if (!std::exchange(head_sent_, true)) {
        worker_.envelope_.clear();
        encode_reply_head(worker_.envelope_, response_.content_type, std::nullopt, response_.metadata);
        worker_.line_.send({.type = FrameType::reply_head, .call_id = call_id_}, worker_.envelope_);
      }
      frames_ += worker_.body(call_id_, part, credit_);
    }

    Worker& worker_;
    const std::uint64_t call_id_;
    const bool streams_;
    Response& response_;
    const std::uint64_t limit_;
    std::uint64_t credit_;
    std::uint64_t bytes_ = 0;
    std::uint64_t frames_ = 0;
    bool head_sent_ = false;
  };

  void end_stream(std::uint64_t call_id, const std::string& error, std::uint64_t run_time) {
    envelope_.clear();
    encode_end(envelope_, error.empty() ? 0 : kRaised,
               std::string_view(error).substr(0, wire::kMaxMessageBytes), {}, run_time);
    line_.send({.type = FrameType::end, .call_id = call_id}, envelope_);
    if (payload_.capacity() > (1 << 20)) payload_ = {};
  }

  void answer(std::uint64_t call_id, const CallEnvelope& call, const Response& response,
              std::uint64_t run_time) {
    const bool failed = !response.error.empty();
    const std::string_view message = std::string_view(response.error).substr(0, wire::kMaxMessageBytes);
    envelope_.clear();
    if (response.payload.size() <= frame_limit_) {
      encode_end(envelope_, failed ? kRaised : 0, message,
                 failed ? std::string_view() : std::string_view(response.content_type), run_time,
                 failed ? Metadata() : response.metadata);
      line_.send({.type = FrameType::end, .call_id = call_id}, envelope_, response.payload);
    } else {
      encode_reply_head(envelope_, response.content_type, response.payload.size(), response.metadata);
      line_.send({.type = FrameType::reply_head, .call_id = call_id}, envelope_);
      std::uint64_t credit = call.window_bytes != 0 ? call.window_bytes : wire::kDefaultWindowBytes;
      body(call_id, response.payload, credit);
      envelope_.clear();
      encode_end(envelope_, 0, {}, {}, run_time);
      line_.send({.type = FrameType::end, .call_id = call_id}, envelope_);
    }
    // What one large call needed is not kept for all the small ones.
    if (payload_.capacity() > (1 << 20)) payload_ = {};
  }

  // Returns the number of frames.
  std::uint64_t body(std::uint64_t call_id, std::string_view left, std::uint64_t& credit) {
    std::uint64_t frames = 0;
    while (!left.empty()) {
      while (credit == 0) {
        const FrameHeader header = line_.header();
        if (header.type == FrameType::call) throw HostBrokeProtocol();
        const std::uint64_t more = other(header);
        if (header.call_id == call_id) credit += more;
      }
      const std::string_view part = left.substr(0, std::min(frame_limit_, credit));
      line_.send({.type = FrameType::body, .call_id = call_id}, {}, part);
      credit -= part.size();
      left.remove_prefix(part.size());
      ++frames;
    }
    return frames;
  }

  Line line_;
  Handler handler_;
  Options options_;
  bool cold_ = true;
  bool draining_ = false;
  // Of one frame's payload: what the call at hand, or the last one, said.
  std::uint64_t frame_limit_ = wire::kDefaultFrameBytes;
  std::string envelope_;       // to send
  std::string call_envelope_;  // received
  std::vector<std::byte> payload_;
};

bool is_channel(int fd) {
  int type = 0;
  socklen_t size = sizeof type;
  return ::getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &size) == 0 && type == SOCK_STREAM;
}

}  // namespace

int run(Handler handler, Options options) {
  const int fd = options.fd;
  if (!is_channel(fd)) return 1;
  ::fcntl(fd, F_SETFD, FD_CLOEXEC);
  // Blocking, whatever it was made as: a worker has nothing else to do than to wait.
  ::fcntl(fd, F_SETFL, ::fcntl(fd, F_GETFL) & ~O_NONBLOCK);
  try {
    Worker(std::move(handler), std::move(options)).serve();
  } catch (const HostIsGone&) {
    return 0;
  } catch (const HostBrokeProtocol&) {
    return 2;
  } catch (const std::exception& thrown) {
    std::fprintf(stderr, "init: %s\n", thrown.what());
    return 3;
  }
  return 0;
}

}  // namespace faaskit::worker
