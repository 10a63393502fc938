// faaskit-mini: functions over HTTP, on one machine, in one program. What a host application does with
// faaskit.
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <boost/asio/buffer.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/posix/stream_descriptor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>

#include "access.h"
#include "api.h"
#include "budget.h"
#include "faaskit/code/checks.h"
#include "faaskit/code/code_store.h"
#include "faaskit/registry/sqlite_registry.h"
#include "functions.h"
#include "listener.h"
#include "options.h"
#include "state.h"

namespace mini {
namespace {

using namespace std::chrono_literals;
using faaskit::local::Platform;
using Clock = std::chrono::steady_clock;

void say(const std::string& text) { std::cerr << absl::StrCat("faaskit-mini: ", text, "\n") << std::flush; }

// Events quote what functions print: it must not pass for lines of ours, nor drive a terminal.
std::string on_one_line(const std::string& text) {
  std::string line;
  for (std::size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    // U+0080 to U+009F begin with 0xc2.
    const bool c1 = c == 0xc2 && i + 1 < text.size() && static_cast<unsigned char>(text[i + 1]) < 0xa0;
    if (c == '\n') {
      line += "\\n";
    } else if (c < 0x20 || c == 0x7f || c1) {
      line += absl::StrFormat("\\x%02x", c);
    } else {
      line += text[i];
    }
  }
  return line;
}

// A reader of our stderr that goes away ends nothing. A handler and not SIG_IGN, which sandboxes would
// inherit.
void outlive_readers() {
  struct sigaction action{};
  action.sa_handler = [](int) {};
  action.sa_flags = SA_RESTART;
  ::sigaction(SIGPIPE, &action, nullptr);
}

// Events of the library, on stderr; a terminal that does not take them holds up no shard.
class EventPrinter final : public faaskit::EventSink {
 public:
  EventPrinter(asio::any_io_executor desk, bool all) : desk_(std::move(desk)), all_(all) {}
  void emit(faaskit::Event event) override {
    if (!all_ && event.severity == faaskit::Severity::info) return;
    if (++waiting_ > 1000) {
      --waiting_;
      return;
    }
    asio::post(desk_, [this, event = std::move(event)] {
      --waiting_;
      say(on_one_line(absl::StrCat(std::string(event.name), event.function.empty() ? "" : " ", event.function,
                                   ": ", event.detail)));
    });
  }

 private:
  const asio::any_io_executor desk_;
  const bool all_;
  std::atomic<int> waiting_{0};
};

// The first SIGTERM or SIGINT asks for an orderly end, the second for one at once. The end of stdin counts as
// one, if that is asked for.
class Signals {
 public:
  explicit Signals(bool heed_stdin) : set_(loop_, SIGTERM, SIGINT), stdin_(loop_) {
    if (heed_stdin) stdin_.assign(::dup(STDIN_FILENO));
  }
  // Blocks until one comes, or the deadline. False: none came.
  bool wait_until(Clock::time_point deadline) {
    bool caught = false;
    asio::steady_timer timer(loop_, deadline);
    set_.async_wait([&](boost::system::error_code error, int) {
      if (!error) caught = true;
      timer.cancel();
    });
    timer.async_wait([&](boost::system::error_code error) {
      if (!error) set_.cancel();
      if (stdin_.is_open()) stdin_.cancel();
    });
    read_stdin([&] {
      caught = true;
      timer.cancel();
      set_.cancel();
    });
    loop_.restart();
    loop_.run();
    return caught;
  }

 private:
  // What it says is nobody's business; that it ends is.
  template <class Ended>
  void read_stdin(Ended ended) {
    if (!stdin_.is_open()) return;
    stdin_.async_read_some(asio::buffer(ignored_),
                           [this, ended](boost::system::error_code error, std::size_t) {
                             if (error == asio::error::operation_aborted) return;
                             if (!error) return read_stdin(ended);
                             stdin_.close();
                             ended();
                           });
  }

  asio::io_context loop_{1};
  asio::signal_set set_;
  asio::posix::stream_descriptor stdin_;
  char ignored_[256];
};

// Where things are if nobody said.
void fill_in(Options& options) {
  const bool root = ::geteuid() == 0;
  if (options.state_dir.empty()) {
    const char* home = std::getenv("HOME");
    options.state_dir = root ? "/var/lib/faaskit-mini"
                             : absl::StrCat(home != nullptr ? home : "/tmp", "/.local/state/faaskit-mini");
  }
  std::error_code error;
  if (options.functions_dir.empty()) {
    const auto here = std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
    const auto beside = here / "faaskit-mini.functions";
    if (std::filesystem::is_directory(beside, error)) options.functions_dir = beside.string();
  } else {
    options.functions_dir =
        std::filesystem::absolute(options.functions_dir, error).lexically_normal().string();
  }
}

absl::StatusOr<std::unique_ptr<faaskit::auth::JwtVerifier>> make_jwt(const Options& options) {
  using faaskit::auth::JwtAlgorithm;
  faaskit::auth::JwtOptions jwt;
  const std::pair<JwtAlgorithm, const std::string*> files[] = {
      {JwtAlgorithm::hs256, &options.jwt_hs256_file},
      {JwtAlgorithm::rs256, &options.jwt_rs256_file},
      {JwtAlgorithm::eddsa, &options.jwt_eddsa_file}};
  for (const auto& [algorithm, path] : files) {
    if (path->empty()) continue;
    auto material = read_small_file(*path, 64 << 10);
    if (!material.ok()) return material.status();
    // A secret that was written with an editor.
    while (algorithm == JwtAlgorithm::hs256 && material->ends_with('\n')) material->pop_back();
    jwt.keys.push_back({.algorithm = algorithm, .material = *std::move(material)});
  }
  if (jwt.keys.empty()) return nullptr;
  jwt.audience = options.jwt_audience;
  if (!options.jwt_issuer.empty()) jwt.issuer = options.jwt_issuer;
  return faaskit::auth::make_jwt_verifier(std::move(jwt));
}

absl::Status announce(const Options& options, std::uint16_t port) {
  if (!options.port_file.empty()) {
    const std::string aside = options.port_file + ".new";
    std::ofstream file(aside);
    file << port << '\n' << std::flush;
    if (!file || ::rename(aside.c_str(), options.port_file.c_str()) != 0) {
      return absl::PermissionDeniedError(
          absl::StrCat("write ", options.port_file, ": ", std::strerror(errno)));
    }
  }
  if (options.ready_fd >= 0) {
    const std::string line = absl::StrCat(port, "\n");
    if (::write(options.ready_fd, line.data(), line.size()) < 0) say("--ready-fd: cannot be written");
    ::close(options.ready_fd);
  }
  return absl::OkStatus();
}

absl::Status serve(Options options) {
  Signals signals(options.stop_on_stdin_eof);
  auto budget = make_budget(options.shards, options.max_sandboxes, options.max_connections);
  if (!budget.ok()) return budget.status();
  auto state = State::open(options.state_dir);
  if (!state.ok()) return state.status();
  auto token = faaskit::auth::load_or_make_admin_token(state->path("admin-token"));
  if (!token.ok()) return token.status();
  auto jwt = make_jwt(options);
  if (!jwt.ok()) return jwt.status();

  // Last to go: sinks write on it.
  asio::thread_pool desk(4);
  asio::thread_pool yard(4);

  auto registry = faaskit::registry::make_sqlite_registry(
      {.path = state->path("registry/registry.db"), .max_functions = options.max_functions});
  if (!registry.ok()) return registry.status();
  auto named = (*registry)->codes();
  if (!named.ok()) return named.status();
  auto code_store = faaskit::code::make_code_store({.root = state->path("code"),
                                                    .folders = options.functions_dir,
                                                    .disk_budget_bytes = options.disk_budget_bytes,
                                                    .known = *std::move(named)});
  if (!code_store.ok()) return code_store.status();
  const std::shared_ptr<faaskit::CodeStore> codes = *std::move(code_store);

  auto log_files = faaskit::sinks::make_log_file_sink(
      {.folder = state->path("logs"), .blocking = desk.get_executor(), .max_open_files = budget->log_files});
  if (!log_files.ok()) return log_files.status();
  const std::shared_ptr<faaskit::sinks::LogFileSink> logs = *std::move(log_files);
  auto record_file_made = faaskit::sinks::make_record_file_sink(
      {.path = state->path("records.jsonl"), .blocking = desk.get_executor()});
  if (!record_file_made.ok()) return record_file_made.status();
  const std::shared_ptr<faaskit::sinks::RecordFileSink> record_file = *std::move(record_file_made);
  const std::shared_ptr<faaskit::sinks::RecordRing> ring = faaskit::sinks::make_record_ring(10'000);
  const std::shared_ptr<faaskit::sinks::MetricsSink> metrics = faaskit::sinks::make_metrics_sink();

  faaskit::local::PlatformOptions wanted;
  wanted.shards = options.shards;
  wanted.instance = options.instance;
  wanted.runtime_dir = !options.runtime_dir.empty() ? options.runtime_dir
                       : ::geteuid() == 0           ? "/run/faaskit"
                                                    : state->path("run");
  wanted.freezer = options.freezer;
  wanted.host.freeze = options.freeze;
  wanted.host.limits.max_sandboxes = budget->sandboxes;
  if (options.max_memory_mb != 0) wanted.host.limits.max_memory_bytes = options.max_memory_mb << 20;
  if (options.max_starts != 0) wanted.host.limits.max_concurrent_starts = options.max_starts;
  wanted.host.parked_seats = std::min<std::uint32_t>(wanted.host.parked_seats, budget->sandboxes / 4);
  wanted.channel.max_payload_bytes = options.max_payload_bytes;
  wanted.channel.hello_timeout = options.start_timeout;
  wanted.events = std::make_shared<EventPrinter>(desk.get_executor(), options.verbose);
  wanted.logs = logs;
  wanted.records = faaskit::sinks::make_tee_record_sink({record_file, ring, metrics});
  wanted.codes = codes;
  wanted.allow_host_network = options.allow_host_network;
  auto made = faaskit::local::make_platform(std::move(wanted));
  if (!made.ok()) return made.status();
  const std::unique_ptr<Platform> platform = *std::move(made);
  const faaskit::Isolation isolation = platform->factory().isolation();
  if (isolation < faaskit::Isolation::process && options.minimum_isolation == faaskit::Isolation::process) {
    say(absl::StrCat(
        "this machine gives sandboxes isolation '", std::string(to_string(isolation)),
        "': functions are refused unless they ask for no more, or --minimum-isolation allows it"));
  }

  // A host application puts its own between or behind: a scanner, a policy.
  std::vector<std::shared_ptr<faaskit::DeployCheck>> checks = {
      faaskit::code::make_handler_check(), faaskit::code::make_elf_check(),
      faaskit::code::make_syntax_check(platform->factory(), platform->freezer())};
  Functions functions(**registry, *codes, *platform, std::move(checks),
                      {.minimum_isolation = options.minimum_isolation});
  if (absl::Status restored = functions.restore(); !restored.ok()) return restored;
  for (const KnownPtr& known : functions.list()) {
    if (!known->state.ok()) {
      say(on_one_line(
          absl::StrCat("'", known->registered.name, "' cannot run: ", std::string(known->state.message()))));
    }
  }

  AccessOptions access_options{
      .hosts = options.hosts, .origins = options.origins, .jwt_deploy = options.jwt_deploy};
  if (options.address != "0.0.0.0" && options.address != "::") {
    const bool v6 = options.address.find(':') != std::string::npos;
    access_options.hosts.push_back(v6 ? absl::StrCat("[", options.address, "]") : options.address);
  }
  const Access access(*std::move(token), *std::move(jwt), std::move(access_options));
  Api api({.state = &*state,
           .access = &access,
           .functions = &functions,
           .platform = platform.get(),
           .codes = codes.get(),
           .logs = logs.get(),
           .record_file = record_file.get(),
           .records = ring.get(),
           .metrics = metrics.get(),
           .desk = desk.get_executor(),
           .yard = yard.get_executor()},
          {.open_metrics = options.open_metrics,
           .max_payload_bytes = options.max_payload_bytes,
           .max_archive_bytes = options.max_archive_bytes});
  auto listening = Listener::open({.address = options.address,
                                   .port = options.port,
                                   .max_connections = budget->connections,
                                   .timeouts = {.idle = options.idle_timeout, .head = options.head_timeout}},
                                  platform->executors().shards, api);
  if (!listening.ok()) return listening.status();
  const std::unique_ptr<Listener> door = *std::move(listening);
  api.set_door(door.get());
  door->start();
  const bool v6 = options.address.find(':') != std::string::npos;
  say(absl::StrCat("listening on http://", v6 ? "[" : "", options.address, v6 ? "]" : "", ":", door->port(),
                   ", admin token in ", state->path("admin-token")));
  if (absl::Status told = announce(options, door->port()); !told.ok()) say(std::string(told.message()));

  while (!signals.wait_until(Clock::now() + 1h)) {
  }

  // Whoever waits is answered now, what runs has its time, nobody new comes in.
  say("stopping");
  const auto deadline = Clock::now() + options.grace;
  api.stop();
  platform->invoker().async_stop([](const absl::Status&) {});
  door->stop();
  while (Clock::now() < deadline && !door->wait_until_empty(Clock::now() + 20ms)) {
    if (signals.wait_until(Clock::now() + 20ms)) break;
  }
  const absl::Status stopped = platform->stop(10s);
  // Their calls are over; what is not taken within a moment is not waited for.
  if (!door->wait_until_empty(Clock::now() + 1s)) door->cut();
  // A deploy that is being looked at has its bound; nothing it works on may go before it.
  yard.join();
  const absl::Status logged = logs->close(5s);
  const absl::Status recorded = record_file->close(5s);
  desk.join();
  const bool empty = door->wait_until_empty(Clock::now() + 5s);
  if (!empty) return absl::DeadlineExceededError("connections are left after 5 s");
  if (!stopped.ok()) return stopped;
  if (!logged.ok()) return logged;
  return recorded;
}

}  // namespace
}  // namespace mini

int main(int argc, char** argv) {
  absl::StatusOr<mini::Options> options = mini::parse_options(argc, argv);
  if (!options.ok()) {
    std::cerr << "faaskit-mini: " << options.status().message() << "\n\n" << mini::kUsage;
    return 2;
  }
  if (options->help) {
    std::cout << mini::kUsage;
    return 0;
  }
  mini::outlive_readers();
  mini::fill_in(*options);
  const absl::Status served = mini::serve(*std::move(options));
  if (served.ok()) return 0;
  std::cerr << "faaskit-mini: " << served.message() << '\n';
  if (::geteuid() != 0) {
    std::cerr
        << "You are not root: sandboxes need cgroups, namespaces and user ids of their own. As root it just "
           "works;\nelse --freezer none and --minimum-isolation none accept what there is. ./dev doctor "
           "tells "
           "what this machine offers.\n";
  }
  return 1;
}
