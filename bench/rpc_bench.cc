// One call through a channel to a C++ worker and back, beside its floor (a bare epoll echo of the same
// bytes) and its rival (gRPC unary), all in one run and by turns, so that a noisy machine is noisy for all.
//
//   rpc_bench [--quick] [--json FILE]
//
// A figure is the median over the runs of each run's median; [least - most] over the runs is its spread.
// Cross-core figures on virtual machines are mostly the wake-up of an idle CPU: read the ratios.
#include "rpc_bench.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstring>
#include <fstream>
#include <functional>
#include <optional>

#include <boost/asio/io_context.hpp>

#include "faaskit/uds/channel_factory.h"

namespace faaskit::bench {

std::string payload_of(std::size_t size) {
  std::string out(size, '\0');
  for (std::size_t i = 0; i < size; ++i) out[i] = static_cast<char>('a' + i % 26);
  return out;
}

#ifndef FAASKIT_HAVE_GRPC
Samples run_grpc(const Cell&, const std::string&) { return {}; }
int serve_grpc(const std::string&) { return 1; }
#endif

namespace {

// Forks `server` onto one end of a socketpair, pinned; it is killed at the end.
class Server {
 public:
  Server(const Cell& cell, const std::function<void(int fd)>& server) {
    int fds[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) != 0) return;
    pid_ = ::fork();
    if (pid_ == 0) {
      pin(0, server_cpu(cell));
      ::close(fds[0]);
      server(fds[1]);
      ::_exit(127);
    }
    ::close(fds[1]);
    fd = UniqueFd(fds[0]);
    pin(0, kClientCpu);
  }
  ~Server() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  UniqueFd fd;

 private:
  pid_t pid_ = -1;
};

int epoll_of(int fd) {
  const int epoll = ::epoll_create1(EPOLL_CLOEXEC);
  epoll_event event{};
  event.events = EPOLLIN;
  ::epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
  return epoll;
}

// Waits with epoll, then reads once.
ssize_t wait_and_read(int epoll, int fd, char* buffer, std::size_t size) {
  epoll_event event{};
  while (::epoll_wait(epoll, &event, 1, -1) < 0) {
  }
  return ::recv(fd, buffer, size, 0);
}

// The floor: epoll_wait, recv, send on both sides; nothing is looked at but the size.
Samples run_floor(const Cell& cell) {
  Samples samples;
  const Server server(cell, [](int fd) {
    std::array<char, 65536> buffer;
    const int epoll = epoll_of(fd);
    while (true) {
      const ssize_t size = wait_and_read(epoll, fd, buffer.data(), buffer.size());
      if (size <= 0 || ::send(fd, buffer.data(), static_cast<std::size_t>(size), MSG_NOSIGNAL) != size)
        return;
    }
  });
  const int fd = server.fd.get();
  const UniqueFd epoll(epoll_of(fd));
  const std::string payload = payload_of(cell.payload_bytes);
  std::array<char, 65536> buffer;
  Stopwatch watch(samples);
  for (int i = 0; i < cell.round_trips; ++i) {
    watch.start();
    if (::send(fd, payload.data(), payload.size(), MSG_NOSIGNAL) != static_cast<ssize_t>(payload.size())) {
      return {{}, "send failed"};
    }
    std::size_t got = 0;
    while (got < payload.size()) {
      const ssize_t size = wait_and_read(epoll.get(), fd, buffer.data() + got, buffer.size() - got);
      if (size <= 0) return {{}, "the echo ended"};
      got += static_cast<std::size_t>(size);
    }
    watch.stop();
    if (std::memcmp(buffer.data(), payload.data(), payload.size()) != 0) return {{}, "wrong answer"};
  }
  return samples;
}

// Ours: the public port, handlers on an io_context, a real worker process.
const std::vector<std::string> kCppWorker = {FAASKIT_RPC_WORKER};
const std::vector<std::string> kPythonWorker = {"/usr/bin/python3", "-I", FAASKIT_PYTHON_RUNTIME,
                                                FAASKIT_RPC_FUNCTION, "rpc_function:handler"};

class ChannelRun {
 public:
  ChannelRun(const Cell& cell, std::vector<std::string> worker)
      : cell_(cell), worker_(std::move(worker)), payload_(payload_of(cell.payload_bytes)), watch_(samples_) {}

  Samples run() {
    Server server(cell_, [this](int fd) {
      std::vector<char*> argv;
      for (std::string& arg : worker_) argv.push_back(arg.data());
      argv.push_back(nullptr);
      if (fd == 3) {
        ::fcntl(3, F_SETFD, 0);
      } else {
        ::dup2(fd, 3);
      }
      ::execv(argv[0], argv.data());
    });
    ::fcntl(server.fd.get(), F_SETFL, O_NONBLOCK);
    auto factory = uds::make_channel_factory();
    if (!factory.ok()) return {{}, factory.status().ToString()};
    auto channel = (*factory)->open(std::move(server.fd), io_.get_executor());
    if (!channel.ok()) return {{}, channel.status().ToString()};
    channel_ = *std::move(channel);
    channel_->async_hello([this](const absl::StatusOr<Hello>& hello) {
      if (!hello.ok()) return stop(hello.status().ToString());
      next();
    });
    io_.run();
    channel_.reset();
    if (!samples_.error.empty()) samples_.ns.clear();
    return std::move(samples_);
  }

 private:
  void next() {
    if (samples_.ns.size() == static_cast<std::size_t>(cell_.round_trips)) return stop("");
    ChannelCall call;
    call.token = samples_.ns.size() + 1;
    call.lease = {.request = {.invoker = 0x123456789ABCDEF, .sequence = samples_.ns.size()}, .attempt = 1};
    call.timeout = std::chrono::seconds(1);
    call.content_type = "application/json";
    const auto bytes = std::as_bytes(std::span(payload_));
    call.payload.assign(bytes.begin(), bytes.end());
    watch_.start();
    channel_->begin_call(std::move(call), [this](CallResult result) {
      watch_.stop();
      if (!result.status.ok()) return stop(result.status.ToString());
      if (result.reply.payload.size() != payload_.size() ||
          std::memcmp(result.reply.payload.data(), payload_.data(), payload_.size()) != 0) {
        return stop("wrong answer");
      }
      next();
    });
  }
  void stop(std::string error) {
    samples_.error = std::move(error);
    io_.stop();
  }

  const Cell cell_;
  std::vector<std::string> worker_;
  const std::string payload_;
  Samples samples_;
  Stopwatch watch_;
  asio::io_context io_{1};
  std::unique_ptr<Channel> channel_;
};

struct Figure {
  double median_us = 0;
  double least_us = 0;
  double most_us = 0;
  std::string error;
  bool skipped = false;
};

template <typename T>
T median(std::vector<T> values) {
  std::nth_element(values.begin(), values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2),
                   values.end());
  return values[values.size() / 2];
}

// The first tenth of a run warms up.
double run_median(const Samples& samples) {
  const auto warm = static_cast<std::ptrdiff_t>(samples.ns.size() / 10);
  return median(std::vector<std::uint32_t>(samples.ns.begin() + warm, samples.ns.end())) / 1000.0;
}

Figure figure(const std::vector<Samples>& runs) {
  Figure out;
  std::vector<double> medians;
  for (const Samples& run : runs) {
    if (!run.error.empty()) out.error = run.error;
    if (!run.ns.empty()) medians.push_back(run_median(run));
  }
  out.skipped = medians.empty() && out.error.empty();
  if (medians.empty()) return out;
  out.median_us = median(medians);
  out.least_us = *std::min_element(medians.begin(), medians.end());
  out.most_us = *std::max_element(medians.begin(), medians.end());
  return out;
}

int run_all(bool quick, const std::string& json, const std::string& binary) {
  constexpr int kRuns = 7;
  bool wrong = false;
  std::string rows;
  std::printf("RPC round trip, us: median of %d runs [spread]\n", kRuns);
  std::printf("%-22s %-22s %-22s %-24s %-18s %s\n", "", "epoll echo (floor)", "faaskit channel", "gRPC unary",
              "x floor (bar 1.6)", "x gRPC (bar 0.25)");
  for (const bool same_core : {true, false}) {
    for (const std::size_t size : {64, 1024}) {
      Cell cell{size, same_core, (same_core ? 20000 : 3000) / (quick ? 10 : 1)};
      std::vector<Samples> floors, ours, rivals;
      for (int i = 0; i < kRuns; ++i) {
        floors.push_back(run_floor(cell));
        ours.push_back(ChannelRun(cell, kCppWorker).run());
        rivals.push_back(run_grpc(cell, binary));
      }
      const Figure floor = figure(floors), our = figure(ours), rival = figure(rivals);
      for (const Figure* f : {&floor, &our, &rival}) {
        if (f->error.empty()) continue;
        std::printf("error: %s\n", f->error.c_str());
        wrong = true;
      }
      const auto text = [](const Figure& f) {
        char out[64];
        if (f.skipped) return std::string("skipped: not installed");
        std::snprintf(out, sizeof out, "%.2f [%.2f-%.2f]", f.median_us, f.least_us, f.most_us);
        return std::string(out);
      };
      const auto ratio = [](double value, double base, double bar, bool applies) {
        char out[64];
        if (base <= 0) return std::string("-");
        std::snprintf(out, sizeof out, "%.2f%s", value / base,
                      !applies              ? ""
                      : value / base <= bar ? " ok"
                                            : " OVER");
        return std::string(out);
      };
      char name[64];
      std::snprintf(name, sizeof name, "%zu B, %s core", size, same_core ? "same" : "cross");
      // The bars are for one core: across cores it is the wake-up of the CPU that is measured.
      std::printf("%-22s %-22s %-22s %-24s %-18s %s\n", name, text(floor).c_str(), text(our).c_str(),
                  text(rival).c_str(), ratio(our.median_us, floor.median_us, 1.6, same_core).c_str(),
                  ratio(our.median_us, rival.median_us, 0.25, same_core).c_str());
      std::fflush(stdout);
      char row[512];
      std::snprintf(row, sizeof row,
                    "%s{\"name\":\"rpc %s\",\"us\":%.3f,\"us_min\":%.3f,\"us_max\":%.3f,\"floor_us\":%.3f,"
                    "\"grpc_us\":%.3f,\"bar_floor\":1.6,\"bar_grpc\":0.25}",
                    rows.empty() ? "" : ",", name, our.median_us, our.least_us, our.most_us, floor.median_us,
                    rival.median_us);
      rows += row;
    }
  }
  if (::access(kPythonWorker[0].c_str(), X_OK) == 0) {
    const Cell cell{64, true, 20000 / (quick ? 10 : 1)};
    std::vector<Samples> runs;
    for (int i = 0; i < kRuns; ++i) runs.push_back(ChannelRun(cell, kPythonWorker).run());
    const Figure f = figure(runs);
    wrong = wrong || !f.error.empty();
    std::printf("%-45s %.2f [%.2f-%.2f]%s\n", "64 B, same core, Python function", f.median_us, f.least_us,
                f.most_us, f.error.c_str());
  }
  if (!json.empty()) std::ofstream(json) << "{\"rows\":[" << rows << "]}\n";
  return wrong ? 1 : 0;
}

}  // namespace
}  // namespace faaskit::bench

int main(int argc, char** argv) {
  bool quick = false;
  std::string json;
  for (int i = 1; i < argc; ++i) {
    const std::string arg = argv[i];
    if (arg == "--quick") {
      quick = true;
    } else if (arg == "--json" && i + 1 < argc) {
      json = argv[++i];
    } else if (arg == "--serve-grpc" && i + 1 < argc) {
      return faaskit::bench::serve_grpc(argv[++i]);
    } else {
      std::fprintf(stderr, "usage: rpc_bench [--quick] [--json FILE]\n");
      return 2;
    }
  }
  return faaskit::bench::run_all(quick, json, "/proc/self/exe");
}
