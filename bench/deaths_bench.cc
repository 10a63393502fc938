// How long a caller waits for the bad news: from kill(2) on the sandbox that runs its call to its answer.
//
// Alone, and beside eight callers that keep the other sandboxes of the function busy. Every answer is
// checked: kUnavailable, with the signal; and the next call must be served. The bar is 100 ms at p99; exit
// status 1 if it is missed.
#include <signal.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <future>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "faaskit/local/platform.h"

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kNeighbours = 8;
constexpr double kBarMs = 100;

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "bench_deaths: %s\n", what.c_str());
  std::exit(1);
}

// Knows which sandbox said last that it has begun.
class Begun final : public faaskit::LogSink {
 public:
  void write(faaskit::LogRecord record) override {
    if (record.bytes.find("paused") == std::string::npos) return;
    std::lock_guard lock(mutex_);
    sandbox_ = record.sandbox;
    changed_.notify_all();
  }
  faaskit::SandboxId wait() {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, 30s, [this] { return sandbox_.host != 0; })) die("no call began in 30 s");
    return std::exchange(sandbox_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  faaskit::SandboxId sandbox_{};
};

faaskit::Bytes bytes(std::string_view text) {
  faaskit::Bytes out(text.size());
  std::memcpy(out.data(), text.data(), text.size());
  return out;
}

class Bench {
 public:
  Bench() {
    faaskit::local::PlatformOptions options;
    options.logs = begun_;
    auto made = faaskit::local::make_platform(std::move(options));
    if (!made.ok()) die(made.status().ToString());
    platform_ = *std::move(made);
    faaskit::local::Function function;
    function.name = "f";
    function.runtime = "exec";
    function.code_path = FAASKIT_FAILURES_WORKER;
    function.env = {{"VERSION", "1"}};
    function.minimum_isolation = faaskit::Isolation::partial;
    function.caps = {.max_sandboxes = kNeighbours + 2, .max_starts = 4};
    if (absl::Status deployed = platform_->deploy(std::move(function)); !deployed.ok())
      die(deployed.ToString());
  }

  // From the kill to the answer, in ms.
  double kill_one() {
    Clock::time_point answered;
    std::promise<faaskit::InvocationResult> promise;
    std::future<faaskit::InvocationResult> future = promise.get_future();
    platform_->async_invoke("f", bytes("pause"), {.timeout = 60s}, [&](faaskit::InvocationResult result) {
      answered = Clock::now();
      promise.set_value(std::move(result));
    });
    const faaskit::SandboxId victim = begun_->wait();
    pid_t pid = -1;
    for (const faaskit::SandboxView& view : platform_->sandboxes()) {
      if (view.id == victim) pid = view.pid;
    }
    if (pid <= 0) die("the sandbox that began is not there");
    const auto killed = Clock::now();
    if (::kill(pid, SIGKILL) != 0) die("kill");
    const faaskit::InvocationResult result = future.get();
    if (!absl::IsUnavailable(result.status) || result.status.message().find("signal 9") == std::string::npos)
      die("not the answer of a death: " + result.status.ToString());
    if (const faaskit::InvocationResult next = platform_->invoke("f", "version"); !next.ok())
      die("the next call: " + next.status.ToString());
    return std::chrono::duration<double, std::milli>(answered - killed).count();
  }

  std::vector<double> kill_many(int kills, bool neighbours) {
    std::atomic<bool> stop{false};
    std::vector<std::thread> callers;
    for (int i = 0; neighbours && i < kNeighbours; ++i) {
      callers.emplace_back([&] {
        while (!stop) {
          const faaskit::InvocationResult result = platform_->invoke("f", "version");
          if (result.text() != "1") die("a neighbour's call: " + result.status.ToString());
        }
      });
    }
    std::vector<double> times;
    for (int i = 0; i < kills; ++i) times.push_back(kill_one());
    stop = true;
    for (std::thread& caller : callers) caller.join();
    return times;
  }

 private:
  std::shared_ptr<Begun> begun_ = std::make_shared<Begun>();
  std::unique_ptr<faaskit::local::Platform> platform_;
};

bool print(const char* name, std::vector<double> times) {
  std::sort(times.begin(), times.end());
  const auto at = [&](double p) {
    return times[std::min(times.size() - 1, static_cast<std::size_t>(p * static_cast<double>(times.size())))];
  };
  const bool met = at(0.99) < kBarMs;
  std::printf("%-24s %6zu %10.2f %10.2f %10.2f  %s\n", name, times.size(), at(0.5), at(0.99), times.back(),
              met ? "ok" : "MISSED");
  return met;
}

}  // namespace

int main(int argc, char** argv) {
  const int kills = argc > 1 ? std::atoi(argv[1]) : 200;
  if (kills < 1) die("usage: bench_deaths [KILLS]");
  Bench bench;
  std::printf("from kill(2) on a busy sandbox to its caller's answer; bar: p99 below %.0f ms\n", kBarMs);
  std::printf("%-24s %6s %10s %10s %10s\n", "", "kills", "p50 ms", "p99 ms", "max ms");
  bool met = print("alone", bench.kill_many(kills, false));
  met = print("beside 8 busy callers", bench.kill_many(kills, true)) && met;
  return met ? 0 : 1;
}
