#include "http.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

namespace chaos {
namespace {

int milliseconds_until(Clock::time_point when) {
  if (when == Clock::time_point::max()) return -1;
  const auto left = std::chrono::ceil<std::chrono::milliseconds>(when - Clock::now()).count();
  return static_cast<int>(std::clamp<std::int64_t>(left, 0, 3'600'000));
}

}  // namespace

void Connection::close() {
  if (fd_ >= 0) ::close(fd_);
  fd_ = -1;
  received_.clear();
}

bool Connection::open() {
  fd_ = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd_ < 0) return false;
  const int on = 1;
  ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(port_);
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return true;
  close();
  return false;
}

bool Connection::send_all(std::string_view text, Clock::time_point deadline) {
  while (!text.empty()) {
    const ssize_t size = ::send(fd_, text.data(), text.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (size > 0) {
      text.remove_prefix(static_cast<std::size_t>(size));
      continue;
    }
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return false;
    pollfd wait{.fd = fd_, .events = POLLOUT, .revents = 0};
    if (::poll(&wait, 1, milliseconds_until(deadline)) == 0 && Clock::now() >= deadline) return false;
  }
  return true;
}

int Connection::wait_for_more(Clock::time_point deadline) {
  for (;;) {
    char buffer[16384];
    const ssize_t size = ::recv(fd_, buffer, sizeof buffer, MSG_DONTWAIT);
    if (size > 0) {
      received_.append(buffer, static_cast<std::size_t>(size));
      return static_cast<int>(size);
    }
    if (size == 0) return 0;
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return -2;
    pollfd wait{.fd = fd_, .events = POLLIN, .revents = 0};
    if (::poll(&wait, 1, milliseconds_until(deadline)) == 0 && Clock::now() >= deadline) return -1;
  }
}

Outcome Connection::request(const Sent& sent, Answer& answer) {
  answer = {};
  // What the server closed meanwhile is not taken for a connection.
  if (fd_ >= 0) {
    char byte = 0;
    const ssize_t size = ::recv(fd_, &byte, 1, MSG_DONTWAIT | MSG_PEEK);
    if (size >= 0 || errno != EAGAIN) close();
  }
  fresh_ = fd_ < 0;
  if (fd_ < 0 && !open()) return Outcome::closed;

  std::string head;
  head.reserve(256 + sent.body.size());
  head.append(sent.method).append(" ").append(sent.path).append(" HTTP/1.1\r\nHost: localhost\r\n");
  if (!token_.empty()) head.append("Authorization: Bearer ").append(token_).append("\r\n");
  head.append(sent.headers).append("Content-Length: ").append(std::to_string(sent.body.size()));
  head.append("\r\n\r\n").append(sent.body);
  const Clock::time_point limit = std::min(sent.deadline, sent.abandon);
  const auto give_up = [&] {
    const bool abandoned = sent.abandon <= sent.deadline;
    if (abandoned && sent.reset) {
      const linger now{.l_onoff = 1, .l_linger = 0};
      ::setsockopt(fd_, SOL_SOCKET, SO_LINGER, &now, sizeof now);
    }
    close();
    return abandoned ? Outcome::abandoned : Outcome::timed_out;
  };
  // An answer may come before the body was taken, and the connection be closed behind it.
  if (!send_all(head, limit) && Clock::now() >= limit) return give_up();

  std::size_t end = 0;
  while ((end = received_.find("\r\n\r\n")) == std::string::npos) {
    const int more = wait_for_more(limit);
    if (more == -1) return give_up();
    if (more <= 0) {
      const bool partial = !received_.empty();
      close();
      return partial ? Outcome::malformed : Outcome::closed;
    }
  }
  const std::string_view lines(received_.data(), end + 2);
  std::size_t at = lines.find("\r\n");
  if (!lines.starts_with("HTTP/1.1 ") || at < 12) {
    close();
    return Outcome::malformed;
  }
  std::from_chars(lines.data() + 9, lines.data() + 12, answer.status);
  for (at += 2; at < lines.size();) {
    const std::size_t stop = lines.find("\r\n", at);
    const std::string_view line = lines.substr(at, stop - at);
    at = stop + 2;
    const std::size_t colon = line.find(':');
    if (colon == std::string_view::npos) continue;
    std::string name(line.substr(0, colon));
    for (char& c : name) {
      if (c >= 'A' && c <= 'Z') c = static_cast<char>(c + ('a' - 'A'));
    }
    std::string_view value = line.substr(colon + 1);
    while (value.starts_with(' ')) value.remove_prefix(1);
    answer.headers[name] = std::string(value);
  }
  const std::string length = answer.header("content-length");
  std::size_t size = 0;
  std::from_chars(length.data(), length.data() + length.size(), size);
  if (length.empty() && answer.status != 204) {
    close();
    return Outcome::malformed;
  }
  received_.erase(0, end + 4);
  while (received_.size() < size) {
    const int more = wait_for_more(limit);
    if (more == -1) return give_up();
    if (more <= 0) {
      close();
      return Outcome::malformed;
    }
  }
  answer.body = received_.substr(0, size);
  received_.erase(0, size);
  // A second answer to one request.
  if (!received_.empty()) {
    close();
    return Outcome::malformed;
  }
  if (answer.header("connection") == "close") close();
  return Outcome::answered;
}

}  // namespace chaos
