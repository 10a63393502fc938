// What the parts of rpc_bench share.
#pragma once

#include <sched.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

namespace faaskit::bench {

struct Cell {
  std::size_t payload_bytes = 0;
  bool same_core = true;
  int round_trips = 0;
};

// Nanoseconds of each round trip; empty with `error` set if an answer was wrong or missing.
struct Samples {
  std::vector<std::uint32_t> ns;
  std::string error;
};

inline void pin(pid_t pid, int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  ::sched_setaffinity(pid, sizeof set, &set);
}

constexpr int kClientCpu = 1;
constexpr int kOtherCpu = 2;
inline int server_cpu(const Cell& cell) { return cell.same_core ? kClientCpu : kOtherCpu; }

class Stopwatch {
 public:
  explicit Stopwatch(Samples& samples) : samples_(samples) {}
  void start() { started_ = std::chrono::steady_clock::now(); }
  void stop() {
    const auto ns = std::chrono::steady_clock::now() - started_;
    samples_.ns.push_back(static_cast<std::uint32_t>(std::chrono::nanoseconds(ns).count()));
  }

 private:
  Samples& samples_;
  std::chrono::steady_clock::time_point started_;
};

std::string payload_of(std::size_t size);

// gRPC unary, sync API, unix: address; `binary` is run again as its server.
Samples run_grpc(const Cell& cell, const std::string& binary);
int serve_grpc(const std::string& address);

}  // namespace faaskit::bench
