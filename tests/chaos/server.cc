#include "server.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <stdexcept>

#include <boost/json/parse.hpp>

namespace chaos {
namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;

int pidfd_open(pid_t pid) { return static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)); }

bool wait_for_exit(int pidfd, std::chrono::milliseconds patience) {
  pollfd wait{.fd = pidfd, .events = POLLIN, .revents = 0};
  return ::poll(&wait, 1, static_cast<int>(patience.count())) == 1;
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  std::istringstream stream(text);
  for (std::string line; std::getline(stream, line);) lines.push_back(line);
  return lines;
}

}  // namespace

std::string read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::optional<Process> look_at(pid_t pid) {
  const std::string text = read_file("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t end = text.rfind(')');
  if (end == std::string::npos) return std::nullopt;
  std::istringstream rest(text.substr(end + 1));
  Process process{.pid = pid};
  rest >> process.state >> process.parent;
  std::string ignored;
  for (int field = 5; field < 22; ++field) rest >> ignored;
  rest >> process.started;
  if (!rest) return std::nullopt;
  return process;
}

Server::Server(ServerOptions options)
    : options_(std::move(options)), instance_("chaos-" + std::to_string(::getpid())) {
  int ready[2], leash[2];
  if (::pipe2(ready, O_CLOEXEC) != 0 || ::pipe2(leash, O_CLOEXEC) != 0) throw std::runtime_error("pipe");
  const int log =
      ::open((options_.scratch + "/server.log").c_str(), O_CREAT | O_APPEND | O_WRONLY | O_CLOEXEC, 0600);
  std::vector<std::string> words = {options_.binary,
                                    "--listen",
                                    "127.0.0.1:0",
                                    "--state-dir",
                                    options_.state_dir,
                                    "--runtime-dir",
                                    options_.scratch + "/run",
                                    "--functions",
                                    options_.functions_dir,
                                    "--instance",
                                    instance_,
                                    "--shards",
                                    std::to_string(options_.shards),
                                    "--freezer",
                                    options_.freezer,
                                    "--ready-fd",
                                    "9",
                                    "--allow-host-network",
                                    "--stop-on-stdin-eof"};
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  pid_ = ::fork();
  if (pid_ == 0) {
    // What this side of a fork may do: system calls, nothing that allocates.
    const rlimit limit{options_.descriptors, options_.descriptors};
    ::setrlimit(RLIMIT_NOFILE, &limit);
    ::dup2(leash[0], 0);
    ::dup2(log, 1);
    ::dup2(log, 2);
    if (ready[1] == 9) {
      ::fcntl(9, F_SETFD, 0);
    } else {
      ::dup2(ready[1], 9);
    }
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  ::close(ready[1]);
  ::close(leash[0]);
  ::close(log);
  leash_ = leash[1];
  if (pid_ < 0) throw std::runtime_error("fork");
  pollfd wait{.fd = ready[0], .events = POLLIN, .revents = 0};
  char line[32] = {};
  const bool told = ::poll(&wait, 1, 60'000) == 1 && ::read(ready[0], line, sizeof line - 1) > 0;
  ::close(ready[0]);
  if (!told) {
    const std::string why = said();
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
    pid_ = -1;
    ::close(leash_);
    throw std::runtime_error("the server does not start: " + why);
  }
  port_ = static_cast<std::uint16_t>(std::atoi(line));
  started_ = look_at(pid_)->started;
  token_ = read_file(options_.state_dir + "/admin-token");
  while (!token_.empty() && token_.back() == '\n') token_.pop_back();
  admin_.emplace(port_, token_);
  for (const std::string& mount : lines_of(read_file("/proc/self/mountinfo"))) {
    if (mount.find(" - cgroup") == std::string::npos) continue;
    std::istringstream words_of(mount);
    std::string word;
    for (int field = 0; field < 5; ++field) words_of >> word;
    group_roots_.insert(word);
  }
}

Server::~Server() {
  if (pid_ > 0) {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  if (leash_ >= 0) ::close(leash_);
}

bool Server::alive() const {
  siginfo_t info{};
  return pid_ > 0 && ::waitid(P_PID, static_cast<id_t>(pid_), &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
         info.si_pid == 0;
}

std::string Server::stop() {
  if (pid_ < 0) return "not running";
  const int pidfd = pidfd_open(pid_);
  ::kill(pid_, SIGTERM);
  std::string how;
  if (!wait_for_exit(pidfd, 60s)) {
    how = "did not end within 60 s";
    ::kill(pid_, SIGKILL);
  }
  ::close(pidfd);
  int status = 0;
  ::waitpid(pid_, &status, 0);
  pid_ = -1;
  if (!how.empty()) return how;
  if (WIFSIGNALED(status)) return "signal " + std::to_string(WTERMSIG(status));
  return WEXITSTATUS(status) == 0 ? "" : "status " + std::to_string(WEXITSTATUS(status));
}

std::optional<std::vector<SandboxSeen>> Server::sandboxes() {
  Answer answer;
  Connection::Sent sent{.method = "GET", .path = "/sandboxes", .body = {}, .deadline = Clock::now() + 1s};
  if (admin_->request(sent, answer) != Outcome::answered || answer.status != 200) return std::nullopt;
  boost::system::error_code bad;
  const boost::json::value parsed = boost::json::parse(answer.body, bad);
  if (bad) return std::nullopt;
  std::vector<SandboxSeen> seen;
  for (const boost::json::value& entry : parsed.at("sandboxes").as_array()) {
    seen.push_back({.id = std::string(entry.at("id").as_string()),
                    .function = std::string(entry.at("function").as_string()),
                    .state = std::string(entry.at("state").as_string()),
                    .pid = static_cast<pid_t>(entry.at("pid").to_number<std::int64_t>())});
  }
  return seen;
}

std::vector<pid_t> Server::members() const {
  std::vector<pid_t> pids;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    if (read_file(entry.path() / "cgroup").find("faaskit-" + instance_) == std::string::npos) continue;
    const auto process = look_at(std::atoi(name.c_str()));
    if (process && process->state != 'Z' && process->state != 'X') pids.push_back(process->pid);
  }
  return pids;
}

bool Server::kill(pid_t pid) const { return send(pid, SIGKILL); }

bool Server::send(pid_t pid, int signal) const {
  if (pid <= 1 || pid == pid_) return false;
  const auto before = look_at(pid);
  if (!before || before->state == 'Z' || before->state == 'X') return false;
  if (read_file("/proc/" + std::to_string(pid) + "/cgroup").find("faaskit-" + instance_) ==
      std::string::npos) {
    return false;
  }
  std::optional<Process> ancestor = before;
  for (int depth = 0; ancestor && ancestor->pid != pid_; ++depth) {
    if (depth == 16 || ancestor->parent <= 1) return false;
    ancestor = look_at(ancestor->parent);
  }
  if (!ancestor || ancestor->started != started_) return false;
  const int pidfd = pidfd_open(pid);
  if (pidfd < 0) return false;
  // The descriptor holds a process; that it is the one we looked at shows only now.
  const auto after = look_at(pid);
  const bool same = after && after->started == before->started;
  const bool sent = same && ::syscall(SYS_pidfd_send_signal, pidfd, signal, nullptr, 0) == 0;
  ::close(pidfd);
  return sent;
}

std::uint64_t Server::resident_kib() const {
  for (const std::string& line : lines_of(read_file("/proc/" + std::to_string(pid_) + "/status"))) {
    if (line.starts_with("VmRSS:")) return std::strtoull(line.c_str() + 6, nullptr, 10);
  }
  return 0;
}

std::size_t Server::descriptors() const {
  std::size_t count = 0;
  std::error_code error;
  for (fs::directory_iterator at("/proc/" + std::to_string(pid_) + "/fd", error), end; !error && at != end;
       at.increment(error)) {
    ++count;
  }
  return count;
}

void Server::limit_descriptors(std::uint64_t number) const {
  const rlimit limit{number, options_.descriptors};
  ::prlimit(pid_, RLIMIT_NOFILE, &limit, nullptr);
}

std::vector<std::string> Server::leftovers() const {
  std::vector<std::string> found;
  for (const std::string& root : group_roots_) {
    std::error_code error;
    for (fs::recursive_directory_iterator at(root, fs::directory_options::skip_permission_denied, error), end;
         !error && at != end; at.increment(error)) {
      if (at->path().filename() == "faaskit-" + instance_) found.push_back("group " + at->path().string());
    }
  }
  for (const std::string& line : lines_of(read_file("/proc/self/mountinfo"))) {
    if (line.find(options_.scratch + "/run") != std::string::npos) found.push_back("mount " + line);
  }
  for (const pid_t pid : members()) found.push_back("process " + std::to_string(pid));
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(options_.scratch + "/run", error)) {
    if (entry.path().filename().string().find(instance_) != std::string::npos) {
      found.push_back("file " + entry.path().string());
    }
  }
  for (const fs::directory_entry& entry : fs::directory_iterator(options_.state_dir + "/incoming", error)) {
    found.push_back("file " + entry.path().string());
  }
  return found;
}

}  // namespace chaos
