// What a function feels of bad neighbours: eight that spin and one that eats memory, in sandboxes beside its
// own, with the limits of faaskit and without.
//
// Weights are what keeps its latency: a neighbour of weight 10 gives way when it wakes. A bound (cpu_max) on
// top caps what a neighbour costs, and makes the tail longer: groups that were stopped come back all at once.
//
// The victim burns 5 ms of CPU time per call, one call after another with a pause between. Its p99 alone, in
// the same run, is the floor. Every answer is checked for the CPU time it says it took.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <vector>

#include "faaskit/local/platform.h"

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kBurnMs = 5;
constexpr int kSpinners = 8;
constexpr int kRounds = 5;

[[noreturn]] void die(const std::string& what) {
  std::fprintf(stderr, "bench_neighbours: %s\n", what.c_str());
  std::exit(1);
}

struct Limits {
  const char* name;
  std::uint32_t cpu_weight;
  std::optional<std::uint32_t> cpu_max_milli;
  std::uint64_t hog_memory;
};

double percentile(std::vector<double> values, double p) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<std::size_t>(p * static_cast<double>(values.size())))];
}

class Bench {
 public:
  explicit Bench(int calls) : calls_(calls) {
    faaskit::local::PlatformOptions options;
    options.shards = 1;
    auto made = faaskit::local::make_platform(std::move(options));
    if (!made.ok()) die(made.status().ToString());
    platform_ = *std::move(made);
    deploy("victim", 1, {"", 100, std::nullopt, 128ull << 20});
  }

  // Latencies of the victim's calls, in ms.
  std::vector<double> measure() {
    std::vector<double> latencies;
    for (int i = 0; i < calls_; ++i) {
      const auto begin = Clock::now();
      faaskit::InvocationResult result = platform_->invoke("victim", "burn " + std::to_string(kBurnMs));
      const std::chrono::duration<double, std::milli> took = Clock::now() - begin;
      if (!result.ok()) die("victim: " + result.status.ToString());
      if (std::atoi(std::string(result.text()).c_str()) < kBurnMs * 1000) die("the victim burnt too little");
      latencies.push_back(took.count());
      std::this_thread::sleep_for(3ms);
    }
    return latencies;
  }

  std::vector<double> measure_beside(const Limits& limits) {
    deploy("spinner", kSpinners, limits);
    deploy("hog", 1, limits);
    std::atomic<bool> stop{false};
    std::atomic<int> spun{0};
    std::atomic<int> hogged{0};
    std::vector<std::thread> callers;
    for (int i = 0; i < kSpinners; ++i) {
      callers.emplace_back([&] {
        while (!stop) {
          if (platform_->invoke("spinner", "spin 300 1").ok()) ++spun;
        }
      });
    }
    // Four times what it may have, where it may have little: it is killed and started again and again.
    callers.emplace_back([&] {
      while (!stop) {
        platform_->invoke("hog", "hog 1024");
        ++hogged;
      }
    });
    while (spun < kSpinners && !stop) std::this_thread::sleep_for(10ms);
    std::vector<double> latencies = measure();
    stop = true;
    for (std::thread& caller : callers) caller.join();
    if (hogged == 0) die("the hog never ate");
    return latencies;
  }

 private:
  void deploy(const std::string& name, std::uint32_t sandboxes, const Limits& limits) {
    faaskit::local::Function function;
    function.name = name;
    function.runtime = "exec";
    function.code_path = FAASKIT_NEIGHBOURS_WORKER;
    function.limits = {.memory_bytes = limits.hog_memory,
                       .pids = 64,
                       .cpu_weight = limits.cpu_weight,
                       .cpu_max_milli = limits.cpu_max_milli};
    function.caps.max_sandboxes = sandboxes;
    function.caps.max_starts = sandboxes;
    function.minimum_isolation = faaskit::Isolation::partial;
    if (absl::Status deployed = platform_->deploy(std::move(function)); !deployed.ok())
      die(deployed.ToString());
  }

  const int calls_;
  std::unique_ptr<faaskit::local::Platform> platform_;
};

}  // namespace

int main(int argc, char** argv) {
  const int calls = argc > 1 ? std::atoi(argv[1]) : 200;
  if (calls < 1) die("usage: bench_neighbours [CALLS PER ROUND]");
  Bench bench(calls);
  bench.measure();  // warms up

  const Limits rows[] = {
      {"weight 10, 256 MiB", 10, std::nullopt, 256ull << 20},
      {"weight 10, 0.25 CPU each, 256 MiB", 10, 250, 256ull << 20},
      {"weight 100, 0.25 CPU each, 256 MiB", 100, 250, 256ull << 20},
      {"no CPU limits, 4 GiB", 100, std::nullopt, 4096ull << 20},
  };
  std::vector<std::vector<double>> alone;
  std::vector<std::vector<std::vector<double>>> beside(std::size(rows));
  for (int round = 0; round < kRounds; ++round) {
    alone.push_back(bench.measure());
    for (std::size_t i = 0; i < std::size(rows); ++i) beside[i].push_back(bench.measure_beside(rows[i]));
  }

  const auto print = [](const char* name, const std::vector<std::vector<double>>& rounds,
                        double floor) -> double {
    std::vector<double> p50;
    std::vector<double> p99;
    for (const std::vector<double>& round : rounds) {
      p50.push_back(percentile(round, 0.50));
      p99.push_back(percentile(round, 0.99));
    }
    const double middle = percentile(p99, 0.5);
    std::printf("%-38s %8.2f %8.2f [%.2f-%.2f]", name, percentile(p50, 0.5), middle,
                *std::min_element(p99.begin(), p99.end()), *std::max_element(p99.begin(), p99.end()));
    if (floor > 0) std::printf("  %6.2fx%s", middle / floor, middle <= 2 * floor ? " ok" : "");
    std::printf("\n");
    return middle;
  };
  std::printf("a function of %d ms CPU, %d calls per round, medians of %d rounds; %u CPUs\n", kBurnMs, calls,
              kRounds, std::thread::hardware_concurrency());
  std::printf("%-38s %8s %8s  (bar: 2x)\n", "neighbours: 8 spinners, 1 memory hog", "p50 ms",
              "p99 ms [spread]");
  const double floor = print("none (alone)", alone, 0);
  for (std::size_t i = 0; i < std::size(rows); ++i) {
    print(rows[i].name, beside[i], floor);
  }
}
