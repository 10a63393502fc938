// chaos: the real server with real sandboxes, called at full speed while everything that can be killed or
// changed is, and counted from outside. `chaos --help` lists the options; exit status 0: every count is what
// it must be, 1: one is not, 77: this machine cannot run it, 2: a bad option.
//
// Seeded as far as real processes can be: which call, which fault and which order follow from the seed, when
// they meet does not.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <random>
#include <stdexcept>
#include <thread>

#include "ledger.h"
#include "server.h"

namespace chaos {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

constexpr auto kTimeout = 15s;  // of an ordinary call
constexpr auto kMargin = 5s;    // for a machine that is busy with other things

constexpr const char* kUsage = R"(usage: chaos --server FILE --function FILE --python FILE [OPTION VALUE]...

  --seconds N         how long it calls and kills, 120
  --seed N            1
  --clients N         32
  --kill-every-ms N   50
  --shards N          of the server, 2
  --freezer KIND      automatic, v1, v2
  --memory-mib N      by how much the server's memory may have grown in the end, 64
  --keep              leaves the scratch folder with the server's log
)";

struct Options {
  std::string server{}, function{}, python{}, freezer = "automatic";
  std::uint64_t seconds = 120, seed = 1, clients = 32, kill_every_ms = 50, shards = 2, memory_mib = 64;
  bool keep = false;
};

struct FunctionKind {
  const char* name;
  const char* runtime;
  const char* network;  // none: in place, with the driver's socket in its folder
  int max_sandboxes, init_ms, share;
};
// What calls them differs, and what can go wrong with it: room for all, room for few, slow to start, in
// place, without network, an interpreter.
constexpr FunctionKind kFunctions[] = {
    {"quick", "exec", "host", 8, 0, 40},       {"narrow", "exec", "host", 2, 0, 15},
    {"slow-start", "exec", "host", 6, 40, 15}, {"in-place", "exec", "none", 4, 0, 15},
    {"snake", "python3", "host", 4, 0, 15},
};
constexpr int kFunctionCount = static_cast<int>(std::size(kFunctions));

using Random = std::mt19937_64;
std::uint64_t below(Random& random, std::uint64_t bound) { return random() % bound; }

std::uint32_t crc32(std::string_view text) {
  std::uint32_t sum = ~0u;
  for (const char c : text) {
    sum ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) sum = (sum >> 1) ^ (0xedb88320u & (0u - (sum & 1)));
  }
  return ~sum;
}

std::atomic<bool> interrupted{false};

class Stop {
 public:
  void now() {
    std::lock_guard lock(mutex_);
    stopped_ = true;
    changed_.notify_all();
  }
  // True: it is time to go.
  bool wait_until(Clock::time_point when) {
    std::unique_lock lock(mutex_);
    return changed_.wait_until(lock, when, [&] { return stopped_; });
  }
  bool wait_for(std::chrono::milliseconds time) { return wait_until(Clock::now() + time); }
  bool stopped() { return wait_until(Clock::time_point::min()); }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopped_ = false;
};

// Folders, a small disk that can be filled, the functions' code. Gone at the end, whatever happens.
class Scratch {
 public:
  explicit Scratch(const Options& options) : keep_(options.keep) {
    std::string pattern = (fs::temp_directory_path() / "faaskit-chaos-XXXXXX").string();
    if (::mkdtemp(pattern.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path_ = pattern;
    fs::permissions(path_, fs::perms(0755));
    fs::create_directory(disk());
    // Room for the versions that are kept (10 of each function) and all of the records' files.
    if (::mount("faaskit-chaos", disk().c_str(), "tmpfs", MS_NOSUID | MS_NODEV, "size=384m,mode=0755") != 0) {
      const int error = errno;
      fs::remove_all(path_);
      throw std::runtime_error(std::string("mount a tmpfs: ") + std::strerror(error));
    }
    for (const FunctionKind& kind : kFunctions) {
      const std::string folder = functions() + "/" + kind.name;
      fs::create_directories(folder);
      const bool python = std::string_view(kind.runtime) == "python3";
      fs::copy_file(python ? options.python : options.function, folder + (python ? "/main.py" : "/function"));
    }
  }
  ~Scratch() {
    ::umount2(disk().c_str(), MNT_DETACH);
    if (keep_) {
      std::cerr << "kept: " << path_ << '\n';
      return;
    }
    std::error_code ignored;
    fs::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }
  std::string disk() const { return path_ + "/disk"; }
  std::string functions() const { return path_ + "/functions"; }

 private:
  const bool keep_;
  std::string path_;
};

// Receives what functions report, and kills who reports if a busy one is wanted. A datagram socket of this
// family loses nothing: a sender waits while it is full.
class Reports {
 public:
  Reports(const Scratch& scratch, Ledger& ledger) : ledger_(ledger) {
    names_[0] = "@faaskit-chaos-" + std::to_string(::getpid());
    // As functions without a network see it, and as we do.
    for (const FunctionKind& kind : kFunctions) {
      if (std::string_view(kind.network) == "none")
        places_.push_back(scratch.functions() + "/" + kind.name + "/driver");
    }
    fds_.push_back(bind_to(names_[0]));
    for (const std::string& place : places_) {
      fds_.push_back(bind_to(place));
      ::chmod(place.c_str(), 0777);
    }
    thread_ = std::thread([this] { run(); });
  }
  ~Reports() {
    stop_ = true;
    thread_.join();
    for (const int fd : fds_) ::close(fd);
  }
  static std::string name_for(const FunctionKind& kind) {
    return std::string_view(kind.network) == "none" ? "/code/driver"
                                                    : "@faaskit-chaos-" + std::to_string(::getpid());
  }
  // The next process that reports is killed while it is at work.
  void want_busy(const Server* server) { wanted_ = server; }
  // Everything that was sent has been counted.
  void drain() {
    const std::uint64_t seen = rounds_;
    while (rounds_ < seen + 2) std::this_thread::yield();
  }

 private:
  static int bind_to(const std::string& name) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (name.size() >= sizeof address.sun_path) throw std::runtime_error(name + " is too long for a socket");
    std::memcpy(address.sun_path, name.data(), name.size());
    if (name[0] == '@') address.sun_path[0] = '\0';
    const int fd = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    const int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
    const auto size = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
    if (::bind(fd, reinterpret_cast<const sockaddr*>(&address), size) != 0) {
      throw std::runtime_error("bind " + name + ": " + std::strerror(errno));
    }
    return fd;
  }

  void run() {
    std::vector<pollfd> waits;
    for (const int fd : fds_) waits.push_back({.fd = fd, .events = POLLIN, .revents = 0});
    while (!stop_) {
      ::poll(waits.data(), waits.size(), 10);
      for (const int fd : fds_) {
        while (receive(fd)) {
        }
      }
      ++rounds_;
    }
  }

  bool receive(int fd) {
    char text[128] = {};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(ucred))];
    iovec part{text, sizeof text - 1};
    msghdr message{};
    message.msg_iov = &part;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    if (::recvmsg(fd, &message, MSG_DONTWAIT) < 0) return false;
    Report report;
    for (cmsghdr* at = CMSG_FIRSTHDR(&message); at != nullptr; at = CMSG_NXTHDR(&message, at)) {
      if (at->cmsg_level == SOL_SOCKET && at->cmsg_type == SCM_CREDENTIALS) {
        ucred sender{};
        std::memcpy(&sender, CMSG_DATA(at), sizeof sender);
        report.pid = sender.pid;
      }
    }
    char* end = nullptr;
    report.call = std::strtoull(text, &end, 10);
    report.attempt = static_cast<std::uint32_t>(std::strtoul(end, &end, 10));
    report.stamp = std::strtoull(end, nullptr, 10);
    ledger_.report(report);
    if (wanted_.load(std::memory_order_relaxed) != nullptr) {
      const Clock::time_point began = Clock::now();
      if (const int function = ledger_.at_work(report.call); function >= 0) {
        const Server* server = wanted_.exchange(nullptr);
        if (server != nullptr && server->kill(report.pid)) {
          ledger_.killed(KillKind::busy, {report.pid}, function, began);
        }
      }
    }
    return true;
  }

  Ledger& ledger_;
  std::string names_[1];
  std::vector<std::string> places_;
  std::vector<int> fds_;
  std::atomic<const Server*> wanted_{nullptr};
  std::atomic<std::uint64_t> rounds_{0};
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

void write_file(const std::string& path, const std::string& text) {
  std::ofstream file(path, std::ios::trunc);
  file << text;
}

class Run {
 public:
  Run(const Options& options, const Scratch& scratch, Server& server, Ledger& ledger, Reports& reports)
      : options_(options), scratch_(scratch), server_(server), ledger_(ledger), reports_(reports) {}

  // -- Deploys

  bool deploy(Connection& admin, int index, Answer& answer) {
    const FunctionKind& kind = kFunctions[index];
    const bool in_place = std::string_view(kind.network) == "none";
    const bool python = std::string_view(kind.runtime) == "python3";
    const std::uint64_t stamp = ledger_.deploying(index);
    const std::string folder = scratch_.functions() + "/" + kind.name;
    write_file(folder + "/function.json",
               std::string(R"({"runtime": ")") + kind.runtime + R"(", "handler": ")" +
                   (python ? "main:handler" : "function") + R"(", "network": ")" + kind.network +
                   R"(", "max_sandboxes": )" + std::to_string(kind.max_sandboxes) +
                   R"(, "keep_alive_ms": 1500, "timeout_ms": )" + std::to_string(kTimeout / 1ms) +
                   R"(, "env": {"CHAOS_STAMP": ")" + std::to_string(stamp) + R"(", "CHAOS_SOCKET": ")" +
                   Reports::name_for(kind) + R"(", "CHAOS_INIT_MS": ")" + std::to_string(kind.init_ms) +
                   "\"}}");
    const std::string body = std::string(R"({"path": ")") + kind.name + R"(", "kind": ")" +
                             (in_place ? "mounted" : "copied") + "\"}";
    const std::string path = std::string("/functions/") + kind.name;
    const Outcome outcome = admin.request({.method = "PUT",
                                           .path = path,
                                           .body = body,
                                           .headers = "Content-Type: application/json\r\n",
                                           .deadline = Clock::now() + 60s},
                                          answer);
    if (outcome != Outcome::answered) answer.status = outcome == Outcome::closed ? -1 : -2;
    const bool accepted = answer.status == 200 || answer.status == 201;
    // Without an answer nobody knows; it may run, and need not.
    if (answer.status > 0) ledger_.deployed(index, stamp, accepted);
    return accepted;
  }

  void judge_admin(const char* what, int index, const Answer& answer) {
    const bool lacking = Clock::now() < lacking_until_.load();
    if (answer.status == 507 || answer.status == 503 || answer.status == 400 || answer.status == -1) {
      if (lacking) return;
    }
    // Code is looked at in a sandbox, too, and that one may have been hit.
    if (answer.status == 503 && Clock::now() < last_at_random_.load() + 5s &&
        (answer.body.find("ended") != std::string::npos || answer.body.find("killed") != std::string::npos)) {
      return;
    }
    ledger_.admin_error(std::string(what) + " " + kFunctions[index].name + ": " +
                        std::to_string(answer.status) + " " + answer.body.substr(0, 300));
  }

  void changes() {
    Random random(options_.seed * 1000003 + 1);
    Connection admin(server_.port(), server_.token());
    bool absent[kFunctionCount] = {};
    while (!stop_.wait_for(std::chrono::milliseconds(100 + below(random, 300)))) {
      const int index = static_cast<int>(below(random, kFunctionCount));
      Answer answer;
      if (!absent[index] && below(random, 6) == 0) {
        ledger_.removing(index);
        const std::string path = std::string("/functions/") + kFunctions[index].name;
        const Outcome outcome = admin.request(
            {.method = "DELETE", .path = path, .body = {}, .deadline = Clock::now() + 60s}, answer);
        if (outcome != Outcome::answered) answer.status = outcome == Outcome::closed ? -1 : -2;
        ledger_.removed(index, answer.status == 204);
        if (answer.status != 204) {
          judge_admin("removing", index, answer);
        } else {
          absent[index] = true;
          if (stop_.wait_for(std::chrono::milliseconds(below(random, 60)))) break;
        }
      }
      if (deploy(admin, index, answer)) {
        absent[index] = false;
      } else {
        judge_admin("deploying", index, answer);
      }
    }
    // So that each can be asked whether it still serves.
    for (int index = 0; index < kFunctionCount; ++index) {
      Answer answer;
      const Clock::time_point patience = Clock::now() + 10s;
      while (absent[index]) {
        if (deploy(admin, index, answer)) break;
        judge_admin("deploying", index, answer);
        if (Clock::now() > patience || after_.wait_for(100ms)) break;
      }
    }
  }

  // -- Calls

  void client(std::uint64_t number) {
    Random random(options_.seed * 1000003 + 100 + number);
    Connection connection(server_.port(), "");
    int shares = 0;
    for (const FunctionKind& kind : kFunctions) shares += kind.share;
    while (!stop_.stopped()) {
      int index = 0;
      for (int at = static_cast<int>(below(random, static_cast<std::uint64_t>(shares)));
           at >= kFunctions[index].share; ++index) {
        at -= kFunctions[index].share;
      }
      const std::uint64_t dice = below(random, 1000);
      const CallKind kind = dice < 2 ? CallKind::overdue : dice < 22 ? CallKind::abandoned : CallKind::plain;
      std::uint32_t work_us = 0;
      if (kind == CallKind::overdue) {
        work_us = 3'000'000;
      } else if (below(random, 20) == 0) {
        work_us = static_cast<std::uint32_t>(1000 + below(random, 15'000));
      }
      std::size_t size = below(random, 400);
      if (below(random, 200) == 0) size = below(random, 300'000);
      call(connection, random, index, kind, work_us, size);
    }
  }

  // The answer's status, or 0.
  int call(Connection& connection, Random& random, int index, CallKind kind, std::uint32_t work_us,
           std::size_t size) {
    const CallId id = ledger_.begin(index, kind, work_us);
    std::string body = std::to_string(id) + ' ' + std::to_string(work_us) + ' ';
    const char fill = static_cast<char>('a' + below(random, 26));
    body.append(size, fill);
    const std::string path = std::string("/functions/") + kFunctions[index].name + "/invocations";
    Connection::Sent sent{
        .method = "POST", .path = path, .body = body, .deadline = Clock::now() + kTimeout + kMargin};
    if (kind == CallKind::overdue) sent.headers = "X-Faaskit-Timeout-Ms: 150\r\n";
    if (kind == CallKind::abandoned) {
      sent.abandon = Clock::now() + std::chrono::microseconds(below(random, 10'000));
      sent.reset = below(random, 2) == 0;
    }
    Answer answer;
    const Outcome outcome = connection.request(sent, answer);
    ledger_.end(id, outcome, answer, crc32(body));
    if (outcome == Outcome::closed) (void)stop_.wait_for(1ms);
    return outcome == Outcome::answered ? answer.status : 0;
  }

  // -- Kills

  void kills() {
    Random random(options_.seed * 1000003 + 2);
    Clock::time_point next = Clock::now();
    for (;;) {
      next += std::chrono::milliseconds(options_.kill_every_ms);
      if (stop_.wait_until(next)) return;
      const std::uint64_t dice = below(random, 100);
      if (dice < 40) {
        reports_.want_busy(&server_);
        continue;
      }
      const KillKind kind = dice < 55   ? KillKind::idle
                            : dice < 70 ? KillKind::frozen
                            : dice < 88 ? KillKind::starting
                            : dice < 94 ? KillKind::all
                                        : KillKind::any;
      kill_seen(random, kind);
    }
  }

  void kill_seen(Random& random, KillKind kind) {
    if (kind == KillKind::any) return kill_at_random(random);
    const auto seen = look();
    if (!seen) return;
    const Clock::time_point began = Clock::now();
    const auto index_of = [](const std::string& name) {
      for (int i = 0; i < kFunctionCount; ++i) {
        if (kFunctions[i].name == name) return i;
      }
      return -1;
    };
    if (kind == KillKind::all) {
      const int index = static_cast<int>(below(random, kFunctionCount));
      std::vector<pid_t> dead;
      for (const SandboxSeen& sandbox : *seen) {
        if (sandbox.function == kFunctions[index].name && server_.kill(sandbox.pid))
          dead.push_back(sandbox.pid);
      }
      ledger_.killed(kind, dead, index, began);
      return;
    }
    std::vector<const SandboxSeen*> fit;
    for (const SandboxSeen& sandbox : *seen) {
      const bool wanted = kind == KillKind::idle     ? sandbox.state == "idle" || sandbox.state == "freezing"
                          : kind == KillKind::frozen ? sandbox.state == "frozen"
                                                     : sandbox.state == "starting";
      if (wanted && sandbox.pid > 0) fit.push_back(&sandbox);
    }
    if (fit.empty()) {
      // Nobody is in that state now: somebody at work goes instead.
      reports_.want_busy(&server_);
      return;
    }
    const SandboxSeen& victim = *fit[below(random, fit.size())];
    if (server_.kill(victim.pid)) ledger_.killed(kind, {victim.pid}, index_of(victim.function), began);
  }

  std::optional<std::vector<SandboxSeen>> look() {
    auto seen = server_.sandboxes();
    if (!seen) return seen;
    for (const SandboxSeen& sandbox : *seen) {
      if (sandbox.pid > 0) ledger_.sandbox_seen(sandbox.id, sandbox.pid);
    }
    return seen;
  }

  // One that is being made, or waits to become one, may take a call before it dies. Stopped it takes none,
  // and the server says which sandbox it is.
  void kill_at_random(Random& random) {
    const std::vector<pid_t> all = server_.members();
    if (all.empty()) return;
    const pid_t pid = all[below(random, all.size())];
    last_at_random_ = Clock::now();
    const Clock::time_point began = Clock::now();
    if (!server_.send(pid, SIGSTOP)) return;
    if (!look()) {
      server_.send(pid, SIGCONT);
      return;
    }
    if (server_.kill(pid)) ledger_.killed(KillKind::any, {pid}, -1, began);
  }

  // -- Shortages

  void shortages() {
    Random random(options_.seed * 1000003 + 3);
    while (!stop_.wait_for(std::chrono::milliseconds(2000 + below(random, 2000)))) {
      const std::uint64_t dice = below(random, 3);
      const std::chrono::milliseconds length(100 + below(random, 400));
      lacking_until_ = Clock::now() + length + 60s;
      if (dice == 0) {
        fill_disk(length);
      } else if (dice == 1) {
        ledger_.lacking(Lack::descriptors);
        server_.limit_descriptors(server_.descriptors() + below(random, 6));
        stop_.wait_for(length);
        server_.limit_descriptors(kDescriptors);
        ledger_.no_longer_lacking(Lack::descriptors);
      } else {
        crowd(length);
      }
      lacking_until_ = Clock::now() + 3s;
    }
  }

  void fill_disk(std::chrono::milliseconds length) {
    const std::string path = scratch_.disk() + "/filler";
    ledger_.lacking(Lack::disk);
    const int fd = ::open(path.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
    const std::string zeros(1 << 20, '\0');
    const Clock::time_point end = Clock::now() + length;
    // What somebody else gives free meanwhile is taken, too.
    do {
      for (std::size_t size = zeros.size(); size > 0;) {
        if (::write(fd, zeros.data(), size) < 0) size /= 2;
      }
    } while (!stop_.wait_for(5ms) && Clock::now() < end);
    ::close(fd);
    ::unlink(path.c_str());
    ledger_.no_longer_lacking(Lack::disk);
  }

  // More connections than the server has descriptors for; they say nothing.
  void crowd(std::chrono::milliseconds length) {
    ledger_.lacking(Lack::descriptors);
    std::vector<std::unique_ptr<Connection>> guests;
    for (int i = 0; i < 900 && !stop_.stopped(); ++i) {
      guests.push_back(std::make_unique<Connection>(server_.port(), ""));
      if (!guests.back()->open()) break;
    }
    stop_.wait_for(length);
    guests.clear();
    ledger_.no_longer_lacking(Lack::descriptors);
  }

  // -- All of it

  void everything() {
    std::vector<std::thread> threads;
    for (std::uint64_t i = 0; i < options_.clients; ++i) threads.emplace_back([this, i] { client(i); });
    threads.emplace_back([this] { kills(); });
    threads.emplace_back([this] { changes(); });
    threads.emplace_back([this] { shortages(); });
    const Clock::time_point end = Clock::now() + std::chrono::seconds(options_.seconds);
    while (Clock::now() < end && !interrupted && server_.alive()) stop_.wait_for(20ms);
    stop_.now();
    for (std::thread& thread : threads) thread.join();
    reports_.want_busy(nullptr);
  }

  // Every function serves: at the latest when its breaker has tried again.
  std::string serves() {
    Random random(options_.seed);
    Connection connection(server_.port(), "");
    for (int index = 0; index < kFunctionCount; ++index) {
      const Clock::time_point patience = Clock::now() + 30s;
      while (call(connection, random, index, CallKind::plain, 0, 10) != 200) {
        if (Clock::now() > patience) return std::string(kFunctions[index].name) + " does not serve any more";
        after_.wait_for(50ms);
      }
    }
    return "";
  }

  // Until every sandbox has outlived its keep-alive.
  std::string quiet() {
    const Clock::time_point patience = Clock::now() + 30s;
    for (;;) {
      const auto seen = server_.sandboxes();
      if (seen && seen->empty()) return "";
      if (Clock::now() > patience) {
        return std::to_string(seen ? seen->size() : 0) + " sandboxes are left after 30 quiet seconds";
      }
      after_.wait_for(50ms);
    }
  }

  static constexpr std::uint64_t kDescriptors = 640;

 private:
  const Options& options_;
  const Scratch& scratch_;
  Server& server_;
  Ledger& ledger_;
  Reports& reports_;
  Stop stop_, after_;
  std::atomic<Clock::time_point> last_at_random_{Clock::now() - 1h};
  std::atomic<Clock::time_point> lacking_until_{Clock::time_point::min()};
};

// KiB beneath a folder, for each of its entries.
std::map<std::string, std::uint64_t> sizes(const std::string& folder) {
  std::map<std::string, std::uint64_t> found;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(folder, error)) {
    std::uint64_t bytes = 0;
    for (fs::recursive_directory_iterator at(entry.path(), error), end; !error && at != end;
         at.increment(error)) {
      std::error_code gone;
      struct stat status{};
      if (::lstat(at->path().c_str(), &status) == 0)
        bytes += static_cast<std::uint64_t>(status.st_blocks) * 512;
    }
    if (entry.is_regular_file(error)) bytes = entry.file_size(error);
    found[entry.path().filename()] = bytes / 1024;
  }
  return found;
}

int failures = 0;

void row(const char* what, std::uint64_t count) {
  std::printf("  %-44s %12llu\n", what, static_cast<unsigned long long>(count));
}
void must_be_zero(const char* what, std::uint64_t count) {
  std::printf("  %-44s %12llu%s\n", what, static_cast<unsigned long long>(count),
              count == 0 ? "" : "   MUST BE 0");
  failures += count != 0;
}
void must_be(bool condition, const std::string& what) {
  if (condition) return;
  std::printf("FAILED: %s\n", what.c_str());
  ++failures;
}

void print(const Figures& f) {
  std::printf("\ndone to it\n");
  for (int i = 0; i < kKillKinds; ++i) {
    row((std::string("kill -9: ") + to_string(static_cast<KillKind>(i))).c_str(), f.kills[i]);
  }
  row("processes killed", f.processes_killed);
  row("deploys acknowledged", f.deploys);
  row("deploys refused", f.deploys_refused);
  row("removals", f.removals);
  row("disk filled", f.fills);
  row("descriptors short, or crowds", f.shortages);
  row("calls abandoned by their client", f.abandoned);
  std::printf("\nwhat came of it\n");
  row("calls", f.calls);
  std::printf("  %-44s %12.0f\n", "calls/s", static_cast<double>(f.calls) / f.seconds);
  row("answered", f.answered);
  row("  with 200", f.ok);
  for (const auto& [error, count] : f.errors) row(("  with " + error).c_str(), count);
  if (!f.death_to_answer.empty()) {
    const auto at = [&](double share) {
      const auto index = static_cast<std::size_t>(share * static_cast<double>(f.death_to_answer.size() - 1));
      return std::chrono::duration<double, std::milli>(f.death_to_answer[index]).count();
    };
    std::printf("  %-44s %12.1f\n", "ms from kill to 502, p50", at(0.5));
    std::printf("  %-44s %12.1f\n", "ms from kill to 502, p99", at(0.99));
    std::printf("  %-44s %12.1f\n", "ms from kill to 502, most", at(1));
  }
  row("executed", f.executed);
  row("  at a later attempt", f.retried);
  row("  most attempts", f.most_attempts);
  row("connection closed before the call began", f.closed_unbegun);
  std::printf("\nmust be 0\n");
  must_be_zero("calls without an answer", f.unanswered);
  must_be_zero("hangs", f.hangs);
  must_be_zero("malformed or second answers", f.malformed);
  must_be_zero("wrong answers", f.wrong);
  must_be_zero("stale versions", f.stale);
  must_be_zero("versions that had been refused", f.refused_code);
  must_be_zero("second executions", f.executed_twice);
  must_be_zero("answers without an execution", f.unreported);
  must_be_zero("executions of no call", f.reports_of_nobody);
  must_be_zero("errors that nothing allows", f.errors_not_allowed);
  must_be_zero("second deaths of one sandbox", f.deaths_per_kill_exceeded);
}

int chaos(const Options& options) {
  std::vector<std::string> names;
  for (const FunctionKind& kind : kFunctions) names.push_back(kind.name);
  Ledger ledger(names);
  Scratch scratch(options);
  Reports reports(scratch, ledger);
  const std::string freezer = options.freezer == "automatic" ? "automatic" : "cgroup_" + options.freezer;
  Server server({.binary = options.server,
                 .scratch = scratch.path(),
                 .state_dir = scratch.disk() + "/state",
                 .functions_dir = scratch.functions(),
                 .freezer = freezer,
                 .shards = static_cast<int>(options.shards),
                 .descriptors = Run::kDescriptors});
  Run run(options, scratch, server, ledger, reports);

  std::printf("chaos: seed %llu, %llu s, %llu clients, a kill every %llu ms, freezer %s\n",
              static_cast<unsigned long long>(options.seed), static_cast<unsigned long long>(options.seconds),
              static_cast<unsigned long long>(options.clients),
              static_cast<unsigned long long>(options.kill_every_ms), options.freezer.c_str());
  std::fflush(stdout);
  {
    Connection admin(server.port(), server.token());
    for (int index = 0; index < kFunctionCount; ++index) {
      Answer answer;
      if (!run.deploy(admin, index, answer)) {
        throw std::runtime_error(names[static_cast<std::size_t>(index)] + " is not deployed: " + answer.body);
      }
    }
  }
  std::string trouble = run.serves();
  must_be(trouble.empty(), "before: " + trouble);
  must_be(run.quiet().empty(), "it is not quiet before it begins");
  const std::uint64_t memory_before = server.resident_kib();
  const std::size_t descriptors_before = server.descriptors();

  const Clock::time_point began = Clock::now();
  run.everything();
  const double seconds = std::chrono::duration<double>(Clock::now() - began).count();

  const bool alive = server.alive();
  // Who looks in the wrong places finds nothing left over, and nobody to kill.
  must_be(!alive || !server.leftovers().empty(), "nothing of the server's is seen while it lives");
  std::uint64_t memory_after = 0;
  std::size_t descriptors_after = 0;
  must_be(alive, "the server ended");
  if (alive) {
    trouble = run.serves();
    must_be(trouble.empty(), trouble);
    trouble = run.quiet();
    must_be(trouble.empty(), trouble);
    memory_after = server.resident_kib();
    descriptors_after = server.descriptors();
  }
  const std::string ended = server.stop();
  reports.drain();
  const Figures figures = ledger.judge(seconds);
  print(figures);
  // Counts of nothing would all be 0.
  must_be(figures.ok > 0, "no call was served");
  must_be(figures.processes_killed > 0, "nothing was killed");
  if (options.seconds >= 5) {
    must_be(figures.deploys > kFunctionCount, "nothing was deployed anew");
    must_be(figures.fills + figures.shortages > 0, "nothing ran short");
  }
  const std::vector<std::string> left = server.leftovers();
  must_be_zero("groups, mounts, processes, files left over", left.size());
  std::printf("\nthe server\n");
  std::printf("  memory KiB   %9llu -> %9llu\n", static_cast<unsigned long long>(memory_before),
              static_cast<unsigned long long>(memory_after));
  std::printf("  descriptors  %9zu -> %9zu\n", descriptors_before, descriptors_after);
  for (const auto& [name, kib] : sizes(scratch.disk() + "/state")) {
    std::printf("  disk KiB     %9llu in %s\n", static_cast<unsigned long long>(kib), name.c_str());
  }
  for (const std::string& what : left) std::printf("left: %s\n", what.c_str());
  for (const std::string& what : figures.notes) std::printf("note: %s\n", what.c_str());
  must_be(ended.empty(), "the server's end: " + ended);
  must_be(memory_after <= memory_before + options.memory_mib * 1024, "its memory has grown");
  must_be(descriptors_after <= descriptors_before + 8, "its descriptors have grown");
  if (failures != 0) {
    const std::string said = server.said();
    std::printf("\nwhat the server said last:\n%s\n",
                said.substr(said.size() > 6000 ? said.size() - 6000 : 0).c_str());
  }
  std::printf("\n%s (seed %llu)\n", failures == 0 ? "every count is what it must be" : "FAILED",
              static_cast<unsigned long long>(options.seed));
  return failures == 0 ? 0 : 1;
}

bool parse(int argc, char** argv, Options& options) {
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name == "--keep") {
      options.keep = true;
      continue;
    }
    if (i + 1 == argc) return false;
    const std::string value = argv[++i];
    const auto number = [&](std::uint64_t& into, std::uint64_t least) {
      char* end = nullptr;
      into = std::strtoull(value.c_str(), &end, 10);
      return !value.empty() && *end == '\0' && into >= least;
    };
    bool good = false;
    if (name == "--server") options.server = fs::absolute(value), good = true;
    if (name == "--function") options.function = value, good = true;
    if (name == "--python") options.python = value, good = true;
    if (name == "--freezer")
      options.freezer = value, good = value == "automatic" || value == "v1" || value == "v2";
    if (name == "--seconds") good = number(options.seconds, 1);
    if (name == "--seed") good = number(options.seed, 0);
    if (name == "--clients") good = number(options.clients, 1);
    if (name == "--kill-every-ms") good = number(options.kill_every_ms, 1);
    if (name == "--shards") good = number(options.shards, 1);
    if (name == "--memory-mib") good = number(options.memory_mib, 1);
    if (!good) return false;
  }
  return !options.server.empty() && !options.function.empty() && !options.python.empty();
}

int main(int argc, char** argv) {
  Options options;
  if (!parse(argc, argv, options)) {
    std::cerr << kUsage;
    return argc == 2 && std::string_view(argv[1]) == "--help" ? 0 : 2;
  }
  if (::geteuid() != 0) {
    std::cout << "SKIPPED: needs root: sandboxes of their own users, and a disk that can be filled\n";
    return 77;
  }
  // So that the scratch folder goes and the disk is taken down.
  struct sigaction action{};
  action.sa_handler = [](int) { interrupted = true; };
  ::sigaction(SIGINT, &action, nullptr);
  ::sigaction(SIGTERM, &action, nullptr);
  // Ours, for the crowd; the server is given its own.
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
  try {
    return chaos(options);
  } catch (const std::exception& error) {
    std::cout << "FAILED: " << error.what() << '\n';
    return 1;
  }
}

}  // namespace
}  // namespace chaos

int main(int argc, char** argv) { return chaos::main(argc, argv); }
