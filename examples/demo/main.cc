// The demo: three functions, real inputs, every answer checked. See what it prints; ./dev demo --help.
//
//   first calls   each function is called once: cold
//   repeats       the same sandboxes again: warm
//   a burst       64 calls at once on the function that starts slowly, at most 8 sandboxes: returned
//                 sandboxes serve callers before the new ones are ready (stolen, queued)
//   afterwards    idle sandboxes are frozen, and the kernel is asked whether they really are
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
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "checks.h"
#include "faaskit/local/platform.h"
#include "report.h"

namespace demo {
namespace {

namespace asio = boost::asio;
using namespace std::chrono_literals;
using faaskit::InvocationResult;
using faaskit::StartKind;
using faaskit::local::Platform;

constexpr int kRepeats = 50;
constexpr int kBurst = 64;
constexpr std::uint32_t kMaxSandboxes = 8;
constexpr std::size_t kMaxInputBytes = 5 << 20;  // a call carries 6 MiB by default
constexpr std::size_t kMaxSpellBytes = 16 << 10;

struct Options {
  std::string input;
  std::string json;
  std::string instance;
  std::string runtime_dir;
  bool verbose = false;
};

constexpr const char* kUsage = R"(usage: faaskit_demo [options]
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

class PrintEvents final : public faaskit::EventSink {
 public:
  void emit(faaskit::Event event) override {
    // One insertion per line: any thread may be here.
    std::cerr << absl::StrFormat("event: %s %s %s\n", event.name, event.function, event.detail);
  }
};

// A function, and how to tell whether it answered a payload rightly.
struct Subject {
  faaskit::local::Function function;
  std::string payload;
  std::function<absl::Status(std::string_view payload, std::string_view answer)> check;
  FunctionReport report;
};

absl::Status same(std::string_view expected, std::string_view answer) {
  if (expected == answer) return absl::OkStatus();
  return absl::InternalError(absl::StrFormat("expected %s\n  answered %s", expected, answer));
}

absl::StatusOr<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), {}};
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  if (content.size() > kMaxInputBytes)
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", content.size(), " bytes, the limit is ", kMaxInputBytes));
  return content;
}

absl::StatusOr<std::vector<Subject>> make_subjects(const Options& options) {
  // The build puts the functions and their data beside this program.
  std::error_code ignored;
  const std::string home = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path().string();
  const std::string files = home + "/faaskit_demo.files";
  absl::StatusOr<std::string> text = read_file(files + "/data/LICENSE");
  absl::StatusOr<std::string> picture = read_file(files + "/data/blobs.pgm");
  if (!options.input.empty()) {
    absl::StatusOr<std::string> input = read_file(options.input);
    if (!input.ok()) return input.status();
    (input->starts_with("P5") ? picture : text) = *std::move(input);
  }
  if (!text.ok()) return text.status();
  if (!picture.ok()) return picture.status();
  absl::StatusOr<Image> image = read_pgm(*picture);
  if (!image.ok()) return image.status();
  absl::StatusOr<Speller> speller = Speller::load(files + "/functions/spell/vocabulary.txt");
  if (!speller.ok()) return speller.status();

  std::vector<Subject> subjects(3);
  subjects[0].function.name = "wordstats";
  subjects[0].function.code_path = files + "/functions/wordstats.py";
  subjects[0].function.handler = "wordstats:handler";
  subjects[0].payload = *text;
  subjects[0].check = [expected = expected_wordstats(*text)](std::string_view, std::string_view answer) {
    return same(expected, answer);
  };
  subjects[1].function.name = "threshold";
  subjects[1].function.runtime = "exec";
  subjects[1].function.code_path = home + "/faaskit_demo_threshold";
  subjects[1].payload = *std::move(picture);
  subjects[1].check = [image = *std::move(image)](std::string_view, std::string_view answer) {
    return check_threshold(image, answer);
  };
  subjects[2].function.name = "spell";
  subjects[2].function.code_path = files + "/functions/spell";
  subjects[2].function.handler = "main:handler";
  subjects[2].function.caps.max_sandboxes = kMaxSandboxes;
  // A large document is for the counting; comparing each of its words with all others would take us too long.
  subjects[2].payload = misspell(std::string_view(*text).substr(0, kMaxSpellBytes));
  subjects[2].check = [speller = *std::move(speller)](std::string_view payload, std::string_view answer) {
    return same(speller.expected(payload), answer);
  };
  for (Subject& subject : subjects) subject.report.name = subject.function.name;
  return subjects;
}

// One of `count` overlapping passages of `text`, so that each call of the burst has its own work.
std::string_view passage(std::string_view text, int index, int count) {
  const std::size_t length = std::min<std::size_t>(text.size(), 1024);
  return text.substr(
      (text.size() - length) * static_cast<std::size_t>(index) / static_cast<std::size_t>(count - 1), length);
}

class Demo {
 public:
  Demo(Platform& platform, std::vector<Subject> subjects, const StopSignals& signals)
      : platform_(platform), subjects_(std::move(subjects)), signals_(signals) {}

  // False: not everything went as it must. What went wrong has been printed.
  bool run() {
    for (const Subject& subject : subjects_) {
      const absl::Status deployed = platform_.deploy(subject.function);
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
  void print_machine() {
    std::cout << absl::StrFormat("this machine: freezer %s; limits %s; isolation %s\n\n",
                                 to_string(platform_.freezer().kind()), platform_.freezer().limits_source(),
                                 to_string(platform_.factory().isolation()))
              << std::flush;
  }

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
    const bool settled =
        wait_for([&] { return platform_.stats(slow.function.name).starts_in_flight == 0; }, 60s);
    if (signals_.caught()) return false;
    if (!settled)
      return fail("the burst", absl::DeadlineExceededError("starts are still in flight after 60 s"));
    const faaskit::QueueStats stats = platform_.stats(slow.function.name);
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
    const faaskit::FreezerKind kind = platform_.freezer().kind();
    if (kind == faaskit::FreezerKind::none) {
      std::cout << "  idle sandboxes run on: this machine has no freezer\n\n";
      return true;
    }
    std::size_t idle = 0, frozen = 0;
    const bool all = wait_for(
        [&] {
          idle = frozen = 0;
          for (const faaskit::SandboxView& sandbox : platform_.sandboxes()) {
            ++idle;
            const auto check = platform_.host().check_kernel(sandbox.id);
            // An answer counts only for a sandbox that stood still while the question was asked.
            if (check && check->frozen && check->before.generation == check->after.generation) ++frozen;
          }
          return idle > 0 && frozen == idle;
        },
        10s);
    if (signals_.caught()) return false;
    std::cout << absl::StrFormat("  %d sandboxes are idle; the kernel says that %d of them are frozen\n\n",
                                 idle, frozen);
    return all || fail("freezing",
                       absl::DeadlineExceededError(absl::StrFormat("%d of %d after 10 s", frozen, idle)));
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
    const auto bytes = std::as_bytes(std::span(payload));
    return platform_.async_invoke(subject.function.name, {bytes.begin(), bytes.end()}, {}, asio::use_future);
  }

  // When the demo is told to stop, a call that still waits for a sandbox must not wait for its deadline.
  InvocationResult finish(std::future<InvocationResult> call) {
    while (call.wait_for(100ms) != std::future_status::ready) {
      if (signals_.caught()) platform_.invoker().async_stop([](const absl::Status&) {});
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

  Platform& platform_;
  std::vector<Subject> subjects_;
  const StopSignals& signals_;
  const Style style_ = Style::for_stdout();
};

int run(const Options& options) {
  StopSignals signals;
  absl::StatusOr<std::vector<Subject>> subjects = make_subjects(options);
  if (!subjects.ok()) {
    std::cerr << "faaskit_demo: " << subjects.status().ToString() << '\n';
    return 1;
  }

  faaskit::local::PlatformOptions wanted;
  wanted.instance = options.instance;
  if (!options.runtime_dir.empty()) wanted.runtime_dir = options.runtime_dir;
  // Eight slow starts at once on a small, busy machine.
  wanted.channel.hello_timeout = 60s;
  if (options.verbose) wanted.events = std::make_shared<PrintEvents>();
  absl::StatusOr<std::unique_ptr<Platform>> platform = faaskit::local::make_platform(wanted);
  if (!platform.ok()) {
    std::cerr << "faaskit_demo: " << platform.status().ToString() << '\n';
    if (::geteuid() != 0)
      std::cerr << "You are not root. Sandboxes need cgroups, namespaces and user ids of their own: run it "
                   "as root\n"
                   "(sudo ./dev demo). ./dev doctor tells what this machine offers.\n";
    return 1;
  }
  // These functions are our own: whatever isolation the machine has will do, and the demo says which.
  for (Subject& subject : *subjects) subject.function.minimum_isolation = (*platform)->factory().isolation();

  Demo demo(**platform, *std::move(subjects), signals);
  signals.watch([&] { (void)(*platform)->stop(); });
  bool good = demo.run();
  const absl::Status stopped = (*platform)->stop();
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
    json << to_json(demo.reports()) << std::flush;
    if (!json) {
      std::cerr << "faaskit_demo: cannot write " << options.json << ": " << std::strerror(errno) << '\n';
      good = false;
    }
  }
  return good ? 0 : 1;
}

std::optional<Options> parse(int argc, char** argv) {
  Options options;
  for (int i = 1; i < argc; ++i) {
    const std::string_view name = argv[i];
    std::string* value = name == "--input"         ? &options.input
                         : name == "--json"        ? &options.json
                         : name == "--instance"    ? &options.instance
                         : name == "--runtime-dir" ? &options.runtime_dir
                                                   : nullptr;
    if (name == "--verbose") {
      options.verbose = true;
    } else if (value != nullptr && i + 1 < argc) {
      *value = argv[++i];
    } else {
      return std::nullopt;
    }
  }
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
