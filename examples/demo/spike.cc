#include "spike.h"

#include <algorithm>
#include <atomic>
#include <iostream>
#include <mutex>
#include <thread>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "subjects.h"

namespace demo {
namespace {

using namespace std::chrono_literals;
using Clock = std::chrono::steady_clock;

constexpr int kClients = 20;
constexpr auto kSpell = 10s;  // after the step

}  // namespace

bool Spike::run() {
  const Style style = Style::for_stdout();
  std::cout << '\n'
            << style.bold(
                   absl::StrFormat("a spike: 1 client becomes %d, of a function whose start takes %d s (%s)",
                                   kClients, options_.spike_seconds, options_.spike_init))
            << std::endl;
  const bool good = row("started on demand", 0) && row(absl::StrCat("provisioned: ", kClients), kClients);
  if (stop_()) return false;
  std::cout << '\n';
  print_spike(std::cout, rows_, style);
  std::cout << std::flush;
  return good;
}

bool Spike::row(const std::string& name, std::uint32_t provisioned) {
  faaskit::local::Function function;
  function.name = "slowstart";
  function.handler = "main:handler";
  function.code_path = functions_folder() + "/slowstart";
  function.env = {{"INIT_SECONDS", absl::StrCat(options_.spike_seconds)}, {"INIT_KIND", options_.spike_init}};
  function.caps.max_sandboxes = kClients;
  function.caps.max_starts = kClients;
  function.provisioned = provisioned;
  absl::Status status = door_.deploy(function);
  std::cout << "  " << name << ": " << (provisioned > 0 ? "waiting until they are there" : "one client")
            << std::endl;
  // Twenty inits of CPU time share a few cores.
  const auto deadline = Clock::now() + 120s + std::chrono::seconds(options_.spike_seconds * kClients);
  while (status.ok() && provisioned > 0) {
    absl::StatusOr<faaskit::QueueStats> stats = door_.stats(function.name);
    if (!stats.ok()) status = stats.status();
    if (stop_()) return false;
    if (stats.ok() && stats->idle >= provisioned) break;
    if (Clock::now() > deadline)
      status =
          absl::DeadlineExceededError(absl::StrFormat("%d of %d are provisioned", stats->idle, provisioned));
    std::this_thread::sleep_for(50ms);
  }
  // The one client, with a sandbox of its own.
  for (int i = 0; status.ok() && i < 20; ++i) {
    if (stop_()) return false;
    status = door_.begin(function.name, "x").get().status;
  }
  SpikeRow row{.name = name};
  const bool good = status.ok() && step(row);
  rows_.push_back(row);
  if (!status.ok())
    std::cerr << Style::for_stdout().bad(absl::StrCat("the spike: ", status.ToString())) << '\n';
  (void)door_.remove(function.name);
  return good;
}

bool Spike::step(SpikeRow& row) {
  std::cout << "  the step: " << kClients << " clients for " << kSpell.count() << " s" << std::endl;
  std::mutex mutex;
  std::vector<nanoseconds> times;
  std::atomic<std::uint64_t> errors{0};
  std::string first_error;
  const auto end = Clock::now() + kSpell;
  std::vector<std::thread> clients;
  for (int i = 0; i < kClients; ++i) {
    clients.emplace_back([&, i] {
      const std::string payload = absl::StrCat("client ", i);
      while (Clock::now() < end && !stop_()) {
        const auto begun = Clock::now();
        const faaskit::InvocationResult result = door_.begin("slowstart", payload).get();
        const nanoseconds took = Clock::now() - begun;
        std::lock_guard lock(mutex);
        times.push_back(took);
        if (!result.ok() || result.text() != payload) {
          ++errors;
          if (first_error.empty()) first_error = result.ok() ? "a wrong answer" : result.status.ToString();
        }
      }
    });
  }
  for (std::thread& client : clients) client.join();
  if (stop_()) return false;
  row.calls = times.size();
  row.errors = errors;
  row.p50 = percentile(times, 0.5);
  row.p99 = percentile(times, 0.99);
  row.max = times.empty() ? nanoseconds{} : *std::max_element(times.begin(), times.end());
  if (errors > 0) std::cerr << Style::for_stdout().bad(absl::StrCat("the spike: ", first_error)) << '\n';
  return errors == 0;
}

}  // namespace demo
