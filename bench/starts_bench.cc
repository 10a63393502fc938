// How many sandboxes may be made at once? Starts per second, and how long each takes from the moment it is
// taken on until it is ready, at 1 to 64 at once: isolated processes with all limits, in C++ and in Python.
//
// The floor is a bare posix_spawn of a program that ends at once, so many of them at a time; it pays for no
// isolation and no runtime. Every start is counted: a round in which one fails is no result.
// Needs root and cgroups; says so and ends without.
#include <spawn.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "faaskit/local/platform.h"

extern char** environ;

namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kAtOnce[] = {1, 2, 4, 8, 16, 32, 64};
constexpr int kSkipped = 0;

[[noreturn]] void die(const std::string& what, int status = 1) {
  std::fprintf(stderr, "bench_starts: %s\n", what.c_str());
  std::exit(status);
}

double percentile(std::vector<double> values, double p) {
  std::sort(values.begin(), values.end());
  return values[std::min(values.size() - 1,
                         static_cast<std::size_t>(p * static_cast<double>(values.size())))];
}
double median(const std::vector<double>& values) { return percentile(values, 0.5); }

struct Round {
  double per_second = 0;
  double p50_ms = 0;
  double p99_ms = 0;
};

// All of them are wanted from the beginning; the host takes on so many at a time.
Round start_all(faaskit::local::Function function, int at_once, int starts) {
  faaskit::local::PlatformOptions options;
  options.host.limits.max_concurrent_starts = static_cast<std::uint32_t>(at_once);
  auto made = faaskit::local::make_platform(std::move(options));
  if (!made.ok()) {
    die("skipped: " + made.status().ToString(), absl::IsInvalidArgument(made.status()) ? 1 : kSkipped);
  }
  faaskit::local::Platform& platform = **made;
  function.provisioned = static_cast<std::uint32_t>(starts);
  function.caps.max_sandboxes = function.caps.max_starts = static_cast<std::uint32_t>(starts);
  const std::string name = function.name;
  const auto begun = Clock::now();
  if (absl::Status deployed = platform.deploy(std::move(function)); !deployed.ok()) {
    die("skipped: " + deployed.ToString(), absl::IsFailedPrecondition(deployed) ? kSkipped : 1);
  }
  std::map<faaskit::SandboxId, double> ready;
  while (ready.size() < static_cast<std::size_t>(starts)) {
    for (const faaskit::SandboxView& view : platform.sandboxes()) {
      if (view.state == faaskit::HostState::ending || view.state == faaskit::HostState::gone)
        die(name + ": a sandbox ended before it was used");
      if (view.state != faaskit::HostState::starting)
        ready.try_emplace(view.id, std::chrono::duration<double, std::milli>(view.age).count());
    }
    if (Clock::now() - begun > 120s) die(name + ": not all were ready after 120 s");
    std::this_thread::sleep_for(200us);
  }
  const double took = std::chrono::duration<double>(Clock::now() - begun).count();
  if (platform.stats(name).starts_failed != 0) die(name + ": a start failed");
  std::vector<double> times;
  for (const auto& [id, time] : ready) times.push_back(time);
  if (absl::Status stopped = platform.stop(); !stopped.ok()) die(stopped.ToString());
  return {.per_second = starts / took, .p50_ms = percentile(times, 0.5), .p99_ms = percentile(times, 0.99)};
}

Round spawn_all(int at_once, int starts) {
  std::atomic<int> left{starts};
  std::vector<std::vector<double>> times(static_cast<std::size_t>(at_once));
  std::vector<std::thread> threads;
  const auto begun = Clock::now();
  for (int i = 0; i < at_once; ++i) {
    threads.emplace_back([&left, &mine = times[static_cast<std::size_t>(i)]] {
      while (left.fetch_sub(1) > 0) {
        const auto one = Clock::now();
        char program[] = "/bin/true";
        char* const arguments[] = {program, nullptr};
        pid_t pid = -1;
        int status = -1;
        if (::posix_spawn(&pid, program, nullptr, nullptr, arguments, environ) != 0 ||
            ::waitpid(pid, &status, 0) != pid || status != 0) {
          die("/bin/true does not run");
        }
        mine.push_back(std::chrono::duration<double, std::milli>(Clock::now() - one).count());
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  const double took = std::chrono::duration<double>(Clock::now() - begun).count();
  std::vector<double> all;
  for (const std::vector<double>& mine : times) all.insert(all.end(), mine.begin(), mine.end());
  return {.per_second = starts / took, .p50_ms = percentile(all, 0.5), .p99_ms = percentile(all, 0.99)};
}

void print(const char* what, int at_once, const std::vector<Round>& rounds) {
  std::vector<double> rates, p50, p99;
  for (const Round& round : rounds) {
    rates.push_back(round.per_second);
    p50.push_back(round.p50_ms);
    p99.push_back(round.p99_ms);
  }
  const auto spread = [](const std::vector<double>& values) {
    char text[40];
    std::snprintf(text, sizeof text, "[%.4g-%.4g]", *std::min_element(values.begin(), values.end()),
                  *std::max_element(values.begin(), values.end()));
    return std::string(text);
  };
  std::printf("%-22s %4d %9.1f %-16s %8.2f %9.2f %-16s\n", what, at_once, median(rates),
              spread(rates).c_str(), median(p50), median(p99), spread(p99).c_str());
  std::fflush(stdout);
}

}  // namespace

int main(int argc, char** argv) {
  const int starts = argc > 1 ? std::atoi(argv[1]) : 96;
  const int rounds = argc > 2 ? std::atoi(argv[2]) : 5;
  if (starts < 1 || rounds < 1) die("usage: bench_starts [STARTS PER ROUND] [ROUNDS]");
  if (::geteuid() != 0) die("skipped: isolated sandboxes with limits need root", kSkipped);

  char folder[] = "/tmp/bench_starts.XXXXXX";
  if (::mkdtemp(folder) == nullptr) die("no temporary folder");
  const std::string code = std::string(folder) + "/main.py";
  std::ofstream(code) << "def handler(event, context):\n    return event\n";
  ::chmod(folder, 0755);
  ::chmod(code.c_str(), 0644);

  const auto function = [](const char* name, const char* runtime, const std::string& path) {
    faaskit::local::Function made;
    made.name = name;
    made.runtime = runtime;
    made.code_path = path;
    if (made.runtime == "python3") made.handler = "main:handler";
    made.minimum_isolation = faaskit::Isolation::partial;
    return made;
  };
  const faaskit::local::Function functions[] = {function("cpp", "exec", FAASKIT_FAILURES_WORKER),
                                                function("python", "python3", code)};
  const std::size_t rows = std::size(functions) + 1;
  std::vector<std::vector<std::vector<Round>>> results(rows);
  for (auto& row : results) row.resize(std::size(kAtOnce));
  start_all(functions[0], 4, 16);  // warms up
  start_all(functions[1], 4, 16);
  for (int round = 0; round < rounds; ++round) {
    for (std::size_t i = 0; i < std::size(kAtOnce); ++i) {
      results[0][i].push_back(spawn_all(kAtOnce[i], starts * 4));
      for (std::size_t f = 0; f < std::size(functions); ++f)
        results[f + 1][i].push_back(start_all(functions[f], kAtOnce[i], starts));
    }
  }
  std::printf("%d starts per round, medians of %d rounds; %u CPUs\n", starts, rounds,
              std::thread::hardware_concurrency());
  std::printf("%-22s %4s %9s %-16s %8s %9s\n", "", "at", "starts/s", "[spread]", "p50 ms", "p99 ms [spread]");
  for (std::size_t i = 0; i < std::size(kAtOnce); ++i)
    print("posix_spawn /bin/true", kAtOnce[i], results[0][i]);
  for (std::size_t f = 0; f < std::size(functions); ++f) {
    for (std::size_t i = 0; i < std::size(kAtOnce); ++i)
      print(functions[f].name.c_str(), kAtOnce[i], results[f + 1][i]);
  }
  ::unlink(code.c_str());
  ::rmdir(folder);
}
