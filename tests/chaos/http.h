// One keep-alive connection to the server, blocking, with a deadline on everything.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

namespace chaos {

using Clock = std::chrono::steady_clock;

struct Answer {
  int status = 0;
  std::map<std::string, std::string> headers{};  // names in lower case
  std::string body{};
  std::string header(const std::string& name) const {
    const auto found = headers.find(name);
    return found == headers.end() ? std::string() : found->second;
  }
};

enum class Outcome : std::uint8_t {
  pending,
  answered,
  closed,     // by the server, before its answer
  timed_out,  // no answer by the deadline
  abandoned,  // by us
  malformed,  // something that is no answer
};

class Connection {
 public:
  Connection(std::uint16_t port, std::string token) : port_(port), token_(std::move(token)) {}
  ~Connection() { close(); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  struct Sent {
    std::string_view method, path, body;
    std::string headers{};  // whole lines
    Clock::time_point deadline{};
    Clock::time_point abandon = Clock::time_point::max();
    bool reset = false;  // how it is abandoned: with RST, not FIN
  };
  // `fresh`: the connection was made for this request.
  Outcome request(const Sent& sent, Answer& answer);
  bool fresh() const { return fresh_; }
  bool open();
  void close();

 private:
  // 0: the other side closed, -1: the deadline, -2: an error.
  int wait_for_more(Clock::time_point deadline);
  bool send_all(std::string_view text, Clock::time_point deadline);

  const std::uint16_t port_;
  const std::string token_;
  int fd_ = -1;
  bool fresh_ = false;
  std::string received_;
};

}  // namespace chaos
