// The demo: functions in Python, Node and C++, real inputs, every answer checked. ./dev demo --help.
//
//   first calls   each function is called once: cold
//   repeats       the same sandboxes again: warm
//   a burst       64 calls at once on the function that starts slowly, at most 8 sandboxes: returned
//                 sandboxes serve callers before the new ones are ready (stolen, queued)
//   afterwards    idle sandboxes are frozen, and the kernel is asked whether they really are
//   a spike       (over HTTP) 1 client becomes 20, of a function that takes 8 s to start: with sandboxes
//                 started on demand, and with 20 provisioned
#include <signal.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <iostream>
#include <iterator>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "door.h"
#include "report.h"
#include "spike.h"
#include "subjects.h"

namespace demo {
namespace {

using namespace std::chrono_literals;
using faaskit::InvocationResult;
using faaskit::StartKind;

constexpr int kRepeats = 50;
constexpr int kBurst = 64;

constexpr const char* kUsage = R"(usage: faaskit_demo [options]
  --http              through the mini-platform's HTTP door (the default)
  --library           through the library, in this process; without the spike
  --no-spike          without the spike
  --spike-init KIND   what the spike's function does while it starts: sleep (the default) or cpu
  --spike-seconds N   how long it does it; default: 8
  --input FILE        a text, or an image (binary PGM), in place of the demo's own; at most 5 MiB
  --json FILE         also write the figures there
  --verbose           print what the library reports while it runs
  --instance NAME     names the cgroups; default: a random name
  --runtime-dir DIR   the home of locks and sockets; default: /run/faaskit
)";

// The signals that end the demo are blocked in all threads and taken by one, which stops the platform;
// calls under way then end, and the demo finds its way out as always. What a handler may do would not do.
class StopSignals {
 public:
  StopSignals() {
    sigemptyset(&set_);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) sigaddset(&set_, signal);
    pthread_sigmask(SIG_BLOCK, &set_, nullptr);
  }
  // From now on a signal runs `stop`, on a thread of its own.
  void watch(std::function<void()> stop) {
    watcher_ = std::thread([this, stop = std::move(stop)] {
      int signal = 0;
      sigwait(&set_, &signal);
      if (done_) return;
      caught_ = signal;
      stop();
    });
  }
  ~StopSignals() {
    done_ = true;
    if (!watcher_.joinable()) return;
    pthread_kill(watcher_.native_handle(), SIGTERM);
    watcher_.join();
  }
  int caught() const { return caught_; }

 private:
  sigset_t set_;
  std::atomic<bool> done_ = false;
  std::atomic<int> caught_ = 0;
  std::thread watcher_;
};

// One of `count` overlapping passages of `text`, so that each call of the burst has its own work.
std::string_view passage(std::string_view text, int index, int count) {
  const std::size_t length = std::min<std::size_t>(text.size(), 1024);
  return text.substr(
      (text.size() - length) * static_cast<std::size_t>(index) / static_cast<std::size_t>(count - 1), length);
}

class Demo {
 public:
  Demo(Door& door, std::vector<Subject> subjects, const StopSignals& signals)
      : door_(door), subjects_(std::move(subjects)), signals_(signals) {}

  // False: not everything went as it must. What went wrong has been printed.
  bool run() {
    for (const Subject& subject : subjects_) {
      const absl::Status deployed = door_.deploy(subject.function);
      if (!deployed.ok()) return fail(absl::StrCat("deploying ", subject.function.name), deployed);
    }
    print_machine();
    return first_calls() && repeats() && burst() && frozen() && verdict();
  }

  std::vector<FunctionReport> reports() const {
    std::vector<FunctionReport> reports;
    for (const Subject& subject : subjects_) reports.push_back(subject.report);
    return reports;
  }

 private:
  void print_machine() { std::cout << "this machine: " << door_.machine() << "\n\n" << std::flush; }

  bool first_calls() {
    std::cout << style_.bold("first calls") << std::endl;
    for (Subject& subject : subjects_) {
      if (signals_.caught()) return false;
      const InvocationResult result = finish(begin(subject, subject.payload));
      if (signals_.caught()) return false;
      record(subject, subject.payload, result);
      std::cout << absl::StrFormat("  %-10s %-6s answered after %s", subject.function.name,
                                   result.ok() ? to_string(result.start) : "failed", to_text(result.total))
                << std::endl;
    }
    return true;
  }

  bool repeats() {
    std::cout << style_.bold(absl::StrCat(kRepeats, " more calls of each, one after the other")) << std::endl;
    for (Subject& subject : subjects_)
      for (int i = 0; i < kRepeats; ++i) {
        if (signals_.caught()) return false;
        record(subject, subject.payload, finish(begin(subject, subject.payload)));
      }
    return true;
  }

  bool burst() {
    Subject& slow = subjects_.back();
    std::cout << style_.bold(absl::StrFormat("a burst: %d calls of %s at once, at most %d sandboxes", kBurst,
                                             slow.function.name, kMaxSandboxes))
              << std::endl;
    std::vector<std::future<InvocationResult>> calls;
    for (int i = 0; i < kBurst; ++i) calls.push_back(begin(slow, passage(slow.payload, i, kBurst)));
    std::cout << "  the burst is under way" << std::endl;
    for (int i = 0; i < kBurst; ++i)
      record(slow, passage(slow.payload, i, kBurst), finish(std::move(calls[i])));

    // Starts that the steals made needless are finished all the same: only then is it known what each saved.
    absl::StatusOr<faaskit::QueueStats> known;
    const bool settled = wait_for(
        [&] {
          known = door_.stats(slow.function.name);
          return !known.ok() || known->starts_in_flight == 0;
        },
        60s);
    if (signals_.caught()) return false;
    if (!settled)
      return fail("the burst", absl::DeadlineExceededError("starts are still in flight after 60 s"));
    if (!known.ok()) return fail("the burst's figures", known.status());
    const faaskit::QueueStats& stats = *known;
    std::cout << absl::StrFormat(
        "  %d calls were served by a returned sandbox while a new one was being made for them;\n"
        "  %d new sandboxes found nobody waiting any more\n",
        stats.stolen, stats.surplus_starts);
    if (stats.steals_measured > 0) {
      const std::chrono::microseconds saved(stats.steal_saved_us);
      std::cout << absl::StrFormat(
          "  those steals saved their callers %s of waiting, %s each (%d measured)\n", to_text(saved),
          to_text(saved / static_cast<std::int64_t>(stats.steals_measured)), stats.steals_measured);
    }
    return true;
  }

  // Waits out the grace time, then asks the kernel about every sandbox.
  bool frozen() {
    std::cout << style_.bold("afterwards") << std::endl;
    absl::StatusOr<std::optional<Frozen>> count;
    const bool all = wait_for(
        [&] {
          count = door_.frozen();
          return !count.ok() || !*count || ((*count)->idle > 0 && (*count)->frozen == (*count)->idle);
        },
        10s);
    if (signals_.caught()) return false;
    if (!count.ok()) return fail("freezing", count.status());
    if (!*count) {
      std::cout << "  idle sandboxes run on: this machine has no freezer\n\n";
      return true;
    }
    std::cout << absl::StrFormat("  %d sandboxes are idle; the kernel says that %d of them are frozen\n\n",
                                 (*count)->idle, (*count)->frozen);
    return all || fail("freezing", absl::DeadlineExceededError(absl::StrFormat(
                                       "%d of %d after 10 s", (*count)->frozen, (*count)->idle)));
  }

  bool verdict() {
    print_table(std::cout, reports(), style_);
    std::uint64_t errors = 0, cold = 0, warm = 0, stolen = 0, queued = 0;
    for (const Subject& subject : subjects_) {
      errors += subject.report.errors;
      cold += subject.report.count(StartKind::cold);
      warm += subject.report.count(StartKind::warm);
      stolen += subject.report.count(StartKind::stolen);
      queued += subject.report.count(StartKind::queued);
    }
    if (errors > 0)
      return fail("the answers",
                  absl::InternalError(absl::StrCat(errors, " calls failed or were answered wrongly")));
    if (cold == 0 || warm == 0 || stolen == 0 || queued == 0)
      return fail("the starts",
                  absl::InternalError(absl::StrFormat("%d cold, %d warm, %d stolen, %d queued; none may be 0",
                                                      cold, warm, stolen, queued)));
    std::cout << '\n' << style_.good("every answer was right") << std::endl;
    return true;
  }

  std::future<InvocationResult> begin(const Subject& subject, std::string_view payload) {
    return door_.begin(subject.function.name, payload);
  }

  // When the demo is told to stop, a call that still waits for a sandbox must not wait for its deadline.
  InvocationResult finish(std::future<InvocationResult> call) {
    while (call.wait_for(100ms) != std::future_status::ready) {
      if (signals_.caught()) door_.give_up();
    }
    return call.get();
  }

  void record(Subject& subject, std::string_view payload, const InvocationResult& result) {
    if (signals_.caught()) return;  // cancelled by us
    absl::Status status = result.status;
    if (status.ok()) {
      subject.report.calls.push_back({result.start, result.wait, result.total});
      status = subject.check(payload, result.text());
    }
    if (status.ok()) return;
    // The first few tell the story.
    if (++subject.report.errors > 3) return;
    std::cerr << style_.bad(subject.function.name + ": ") << status.ToString() << '\n';
    if (!result.log_tail.empty()) std::cerr << "  its log ends: " << result.log_tail << '\n';
  }

  // False at the deadline, or when asked to stop.
  template <class Condition>
  bool wait_for(Condition condition, std::chrono::seconds limit) {
    const auto deadline = std::chrono::steady_clock::now() + limit;
    while (!condition()) {
      if (signals_.caught() || std::chrono::steady_clock::now() > deadline) return false;
      std::this_thread::sleep_for(10ms);
    }
    return true;
  }

  bool fail(const std::string& what, const absl::Status& why) {
    std::cerr << style_.bad(what + ": ") << why.ToString() << '\n';
    return false;
  }

  Door& door_;
  std::vector<Subject> subjects_;
  const StopSignals& signals_;
  const Style style_ = Style::for_stdout();
};

int run(const Options& options) {
  StopSignals signals;
  absl::StatusOr<std::vector<Subject>> subjects = make_subjects(options.input);
  if (!subjects.ok()) {
    std::cerr << "faaskit_demo: " << subjects.status().ToString() << '\n';
    return 1;
  }
  absl::StatusOr<std::unique_ptr<Door>> opened = options.library ? open_library(options) : open_http(options);
  if (!opened.ok()) {
    std::cerr << "faaskit_demo: " << opened.status().ToString() << '\n';
    if (::geteuid() != 0)
      std::cerr << "You are not root. Sandboxes need cgroups, namespaces and user ids of their own: run it "
                   "as root\n"
                   "(sudo ./dev demo). ./dev doctor tells what this machine offers.\n";
    return 1;
  }
  Door& door = **opened;
  Demo demo(door, *std::move(subjects), signals);
  Spike spike(door, options, [&signals] { return signals.caught() != 0; });
  signals.watch([&] {
    door.give_up();
    (void)door.stop();
  });
  bool good = demo.run();
  if (good && !options.library && options.spike) good = spike.run();
  const absl::Status stopped = door.stop();
  if (!stopped.ok()) {
    std::cerr << "faaskit_demo: stopping: " << stopped.ToString() << '\n';
    good = false;
  }
  if (const int signal = signals.caught()) {
    std::cout << "\nstopped by " << ::strsignal(signal) << std::endl;
    return 128 + signal;
  }
  if (!options.json.empty()) {
    std::ofstream json(options.json);
    json << to_json(demo.reports(), spike.rows()) << std::flush;
    if (!json) {
      std::cerr << "faaskit_demo: cannot write " << options.json << ": " << std::strerror(errno) << '\n';
      good = false;
    }
  }
  return good ? 0 : 1;
}

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  std::string seconds = "8";
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    std::string* value = name == "--input"           ? &options.input
                         : name == "--json"          ? &options.json
                         : name == "--instance"      ? &options.instance
                         : name == "--runtime-dir"   ? &options.runtime_dir
                         : name == "--spike-init"    ? &options.spike_init
                         : name == "--spike-seconds" ? &seconds
                                                     : nullptr;
    if (name == "--verbose") {
      options.verbose = true;
    } else if (name == "--http" || name == "--library") {
      options.library = name == "--library";
    } else if (name == "--no-spike") {
      options.spike = false;
    } else if (value != nullptr && i + 1 < argc) {
      *value = argv[++i];
    } else {
      return std::nullopt;
    }
  }
  if (!absl::SimpleAtoi(seconds, &options.spike_seconds) || options.spike_seconds < 0 ||
      options.spike_seconds > 60 || (options.spike_init != "sleep" && options.spike_init != "cpu"))
    return std::nullopt;
  return options;
}

}  // namespace
}  // namespace demo

int main(int argc, char** argv) {
  if (argc == 2 && (std::string_view(argv[1]) == "--help" || std::string_view(argv[1]) == "-h")) {
    std::cout << demo::kUsage;
    return 0;
  }
  const std::optional<demo::Options> options = demo::parse(argc, argv);
  if (!options) {
    std::cerr << demo::kUsage;
    return 2;
  }
  return demo::run(*options);
}
