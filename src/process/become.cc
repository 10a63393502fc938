#include "process/become.h"

#include <fcntl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <fstream>
#include <map>
#include <utility>

#include <absl/strings/str_cat.h>

#include "process/setup.h"
#include "support/errno_status.h"

namespace faaskit::process {
namespace {

constexpr std::size_t kMaxResolvConf = 16 << 10;

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// A detached, read-only mount of the code, taken with the host's rights: the folders above it need not be
// open to the sandbox.
absl::StatusOr<UniqueFd> take_code(const Becoming& what) {
  const open_how how = code_look(what.links);
  const UniqueFd place(
      static_cast<int>(::syscall(SYS_openat2, AT_FDCWD, what.code_path.c_str(), &how, sizeof how)));
  if (!place) return errno_status(errno, "take code_path " + what.code_path);
  UniqueFd tree(static_cast<int>(
      ::syscall(SYS_open_tree, place.get(), "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  if (!tree) return errno_status(errno, "take code_path " + what.code_path);
  struct {
    std::uint64_t set, clear, propagation, user_namespace;
  } attributes{MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, MS_PRIVATE, 0};
  if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0)
    return errno_status(errno, "make code_path read-only: " + what.code_path);
  struct stat taken{};
  if (::fstat(tree.get(), &taken) != 0) return errno_status(errno, "fstat of code_path " + what.code_path);
  if (taken.st_dev != what.code.st_dev || taken.st_ino != what.code.st_ino)
    return absl::UnavailableError(
        absl::StrCat("code_path ", what.code_path, " was replaced while the sandbox was made"));
  return tree;
}

absl::Status set_nonblocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    return errno_status(errno, "fcntl O_NONBLOCK");
  return absl::OkStatus();
}

// The host's ends go into the handles, the others become descriptors 1 to 3 inside.
struct Lines {
  UniqueFd channel, output;
};
absl::StatusOr<Lines> open_lines(std::uint32_t uid, SandboxHandles& handles) {
  Lines lines;
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return errno_status(errno, "socketpair");
  handles.channel.reset(ends[0]);
  lines.channel.reset(ends[1]);
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_status(errno, "pipe");
  handles.output.reset(ends[0]);
  lines.output.reset(ends[1]);
  // So that /dev/stdout can be opened by name, which goes by the pipe's owner.
  if (uid != ::geteuid() && ::fchown(lines.output.get(), uid, uid) != 0)
    return errno_status(errno, "fchown of the output pipe");
  if (absl::Status status = set_nonblocking(handles.channel.get()); !status.ok()) return status;
  if (absl::Status status = set_nonblocking(handles.output.get()); !status.ok()) return status;
  return lines;
}

// What programs with the host's network need to find names; empty: the host has none either.
std::string host_resolv_conf() {
  std::ifstream file("/etc/resolv.conf");
  std::string text(kMaxResolvConf, '\0');
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  text.resize(static_cast<std::size_t>(std::max<std::streamsize>(file.gcount(), 0)));
  return text;
}

std::vector<std::string> environment(const FunctionSpec& spec) {
  std::map<std::string, std::string> values = {
      {"PATH", "/usr/local/bin:/usr/bin:/bin"}, {"HOME", "/tmp"}, {"LANG", "C.UTF-8"}};
  for (const auto& [name, value] : spec.env) values[name] = value;
  std::vector<std::string> list;
  for (const auto& [name, value] : values) list.push_back(absl::StrCat(name, "=", value));
  return list;
}

}  // namespace

std::vector<std::string> command_of(const FunctionSpec& spec, const Command& command) {
  const std::string code = command.code_file.empty() ? "/code" : "/code/" + command.code_file;
  std::vector<std::string> argv;
  if (spec.runtime == "python3") {
    argv = {command.python, "-I", "/faaskit/runtime.py", code, spec.handler};
  } else if (spec.runtime == "node") {
    // V8 takes its bound from the machine's memory. With less than that it would be killed with garbage that
    // it saw no reason yet to collect.
    const std::uint64_t heap_mib = std::max<std::uint64_t>(spec.limits.memory_bytes / 4 * 3 >> 20, 1);
    argv = {command.node, absl::StrCat("--max-old-space-size=", heap_mib), "/faaskit/runtime.js", code,
            spec.handler};
  } else {
    argv = {command.code_file.empty() ? "/code/" + spec.handler : code};
  }
  if (command.check) argv.push_back("--check");
  return argv;
}

absl::StatusOr<SandboxHandles> become(Spare& spare, Seat& seat, const Becoming& what) {
  const FunctionSpec& spec = *what.spec;
  if (absl::Status status = seat.set_limits(spec.limits); !status.ok()) return status;
  // Without privileges the sandbox takes it, by its path: who could put something else there meanwhile is the
  // same user.
  UniqueFd code;
  if (!what.user_first) {
    absl::StatusOr<UniqueFd> taken = take_code(what);
    if (!taken.ok()) return taken.status();
    code = *std::move(taken);
  }
  SandboxHandles handles;
  absl::StatusOr<Lines> lines = open_lines(spare.uid, handles);
  if (!lines.ok()) return lines.status();

  Command command = what.command;
  command.code_file = S_ISDIR(what.code.st_mode) ? "" : base_name(what.code_path);
  const int control = spare.control.get();
  FurnishPlan furnish;
  furnish.code = code.get();
  if (what.user_first) {
    furnish.code_path = what.code_path;
    furnish.links = what.links;
    furnish.data_bytes = spec.limits.memory_bytes;
    furnish.processes = spec.limits.pids;
  }
  furnish.code_file = command.code_file;
  furnish.open_files = what.open_files;
  furnish.user_namespace = what.user_namespace && !what.user_first;
  furnish.uid = spare.uid;
  furnish.loopback = spec.network == Network::loopback && what.own_network;
  if (spec.network == Network::host) {
    furnish.network_namespace = what.host_network;
    furnish.resolv_conf = host_resolv_conf();
  }
  if (absl::Status status = furnished(furnish).run(control, what.setup_timeout); !status.ok()) return status;

  BecomePlan plan;
  plan.id = what.user_namespace ? kInsideId : spare.uid;
  plan.user_namespace = what.user_namespace;
  plan.bound_inotify = ::access(kInotifyBound, F_OK) == 0;
  if (furnish.user_namespace)
    if (absl::Status status = map_ids(spare.child.pid, spare.uid, spare.uid); !status.ok()) return status;
  plan.filter = what.filter;
  plan.channel = lines->channel.get();
  plan.output = lines->output.get();
  plan.argv = command_of(spec, command);
  plan.environment = environment(spec);
  const auto told = std::chrono::steady_clock::now();
  if (absl::Status status = becomes(plan).run_and_become(control, what.setup_timeout); !status.ok())
    return status;
  handles.exec_time = std::chrono::steady_clock::now() - told;

  handles.pid = spare.child.pid;
  handles.pidfd = std::move(spare.child.pidfd);
  spare.control.reset();
  return handles;
}

}  // namespace faaskit::process
