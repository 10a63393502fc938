// What callers notice of a redeploy every 100 ms: 32 of them call one after another, for 30 s.
//
// Every answer is checked: a call that began after a deploy was acknowledged must have run that version or a
// later one, and none may fail. Exit status 1 otherwise.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "faaskit/local/platform.h"

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kClients = 32;
constexpr auto kPeriod = 100ms;

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "bench_redeploy: %s\n", what.c_str());
  std::exit(1);
}

}  // namespace

int main(int argc, char** argv) {
  const int seconds = argc > 1 ? std::atoi(argv[1]) : 30;
  if (seconds < 1) die("usage: bench_redeploy [SECONDS]");
  auto made = faaskit::local::make_platform();
  if (!made.ok()) die(made.status().ToString());
  faaskit::local::Platform& platform = **made;

  std::vector<double> deploys;
  std::atomic<std::uint64_t> acknowledged{0};
  const auto deploy = [&](std::uint64_t version) {
    faaskit::local::Function function;
    function.name = "f";
    function.version = version;
    function.runtime = "exec";
    function.code_path = FAASKIT_FAILURES_WORKER;
    function.env = {{"VERSION", std::to_string(version)}};
    function.minimum_isolation = faaskit::Isolation::partial;
    const auto begun = Clock::now();
    if (absl::Status status = platform.deploy(std::move(function)); !status.ok()) die(status.ToString());
    deploys.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begun).count());
    acknowledged = version;
  };
  deploy(1);

  std::atomic<bool> stop{false};
  std::atomic<std::uint64_t> failed{0};
  std::atomic<std::uint64_t> stale{0};
  std::mutex mutex;
  std::vector<double> latencies;
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&] {
      std::vector<double> mine;
      while (!stop) {
        const std::uint64_t known = acknowledged;
        const auto begun = Clock::now();
        const faaskit::InvocationResult result = platform.invoke("f", "version");
        mine.push_back(std::chrono::duration<double, std::milli>(Clock::now() - begun).count());
        if (!result.ok()) {
          if (++failed <= 5) std::fprintf(stderr, "failed: %s\n", result.status.ToString().c_str());
        } else if (std::strtoull(std::string(result.text()).c_str(), nullptr, 10) < known) {
          ++stale;
        }
      }
      std::lock_guard lock(mutex);
      latencies.insert(latencies.end(), mine.begin(), mine.end());
    });
  }
  const auto begun = Clock::now();
  std::uint64_t version = 1;
  for (auto due = begun + kPeriod; due < begun + std::chrono::seconds(seconds); due += kPeriod) {
    std::this_thread::sleep_until(due);
    deploy(++version);
  }
  stop = true;
  for (std::thread& client : clients) client.join();

  const faaskit::QueueStats stats = platform.stats("f");
  std::sort(latencies.begin(), latencies.end());
  std::sort(deploys.begin(), deploys.end());
  const auto at = [](const std::vector<double>& values, double p) {
    return values[std::min(values.size() - 1,
                           static_cast<std::size_t>(p * static_cast<double>(values.size())))];
  };
  std::printf("%d clients, %d s, a deploy every %d ms\n", kClients, seconds,
              static_cast<int>(kPeriod.count()));
  std::printf("calls %zu (warm %llu, cold %llu, stolen %llu, queued %llu), failed %llu, of older code %llu\n",
              latencies.size(), static_cast<unsigned long long>(stats.warm),
              static_cast<unsigned long long>(stats.cold), static_cast<unsigned long long>(stats.stolen),
              static_cast<unsigned long long>(stats.queued), static_cast<unsigned long long>(failed.load()),
              static_cast<unsigned long long>(stale.load()));
  std::printf("deploys %zu: p50 %.2f ms, p99 %.2f ms, max %.2f ms\n", deploys.size(), at(deploys, 0.5),
              at(deploys, 0.99), deploys.back());
  std::printf("calls: p50 %.2f ms, p99 %.2f ms, max %.2f ms; starts %llu, failed %llu\n", at(latencies, 0.5),
              at(latencies, 0.99), latencies.back(), static_cast<unsigned long long>(stats.starts_admitted),
              static_cast<unsigned long long>(stats.starts_failed));
  return failed == 0 && stale == 0 ? 0 : 1;
}
