#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstring>
#include <map>
#include <mutex>
#include <utility>

#include <absl/strings/str_cat.h>

#include "faaskit/process/reap.h"
#include "faaskit/process/sandbox_factory.h"
#include "process/program.h"
#include "process/setup.h"
#include "process/uid_pool.h"
#include "runtimes/runtimes.h"
#include "spawner/spawn.h"
#include "support/errno_status.h"

namespace faaskit::process {
namespace {

constexpr std::size_t kMaxEnvironmentBytes = 64 << 10;
// Less does not even hold the spare.
constexpr std::uint64_t kMinMemoryBytes = 1 << 20;

bool is_elf(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char magic[4] = {};
  return file && ::read(file.get(), magic, 4) == 4 && std::memcmp(magic, "\177ELF", 4) == 0;
}

// The real file behind a path; empty: none, or no program (a shim is a script).
std::string real_program(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return "";
  const std::string real = resolved;
  ::free(resolved);
  return is_elf(real) && ::access(real.c_str(), X_OK) == 0 ? real : "";
}

// What a sandbox takes privileges for; empty: we have them all.
std::string missing_privileges() {
  if (::geteuid() != 0) return "root";
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  if (::syscall(SYS_capget, &header, data) != 0) return "capabilities";
  const std::pair<int, const char*> needed[] = {{CAP_CHOWN, "CAP_CHOWN"},
                                                {CAP_SETGID, "CAP_SETGID"},
                                                {CAP_SETUID, "CAP_SETUID"},
                                                {CAP_SETPCAP, "CAP_SETPCAP"},
                                                {CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}};
  std::string missing;
  for (const auto& [number, name] : needed) {
    if ((data[number / 32].effective >> (number % 32) & 1) == 0)
      absl::StrAppend(&missing, missing.empty() ? "" : ", ", name);
  }
  return missing;
}

bool valid_name(std::string_view text) {
  if (text.empty() || std::isdigit(static_cast<unsigned char>(text[0]))) return false;
  return std::all_of(text.begin(), text.end(), [](unsigned char c) { return std::isalnum(c) || c == '_'; });
}

// "package.module:callable", dots allowed on both sides.
bool valid_python_handler(std::string_view handler) {
  const std::size_t colon = handler.find(':');
  if (colon == std::string_view::npos) return false;
  for (std::string_view side : {handler.substr(0, colon), handler.substr(colon + 1)}) {
    for (;;) {
      const std::size_t dot = side.find('.');
      if (!valid_name(side.substr(0, dot))) return false;
      if (dot == std::string_view::npos) break;
      side.remove_prefix(dot + 1);
    }
  }
  return true;
}

// A path in the code's folder that stays there.
bool stays_inside(std::string_view path) {
  if (path.empty() || path.front() == '/' || path.find('\0') != std::string_view::npos) return false;
  for (std::string_view rest = path; !rest.empty();) {
    const std::size_t slash = rest.find('/');
    if (rest.substr(0, slash) == "..") return false;
    if (slash == std::string_view::npos) break;
    rest.remove_prefix(slash + 1);
  }
  return true;
}

std::string base_name(const std::string& path) { return path.substr(path.rfind('/') + 1); }

// A detached, read-only mount of the code, taken with the host's rights: the folders above it need not be
// open to the sandbox.
absl::StatusOr<UniqueFd> take_code(const std::string& path) {
  UniqueFd tree(static_cast<int>(
      ::syscall(SYS_open_tree, AT_FDCWD, path.c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  if (!tree) return errno_status(errno, "take code_path " + path);
  struct {
    std::uint64_t set, clear, propagation, user_namespace;
  } attributes{MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV, 0, MS_PRIVATE, 0};
  if (::syscall(SYS_mount_setattr, tree.get(), "", AT_EMPTY_PATH, &attributes, sizeof attributes) != 0)
    return errno_status(errno, "make code_path read-only: " + path);
  return tree;
}

absl::Status write_proc(pid_t pid, const char* file, const std::string& text) {
  const std::string path = absl::StrCat("/proc/", pid, "/", file);
  UniqueFd out(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!out || ::write(out.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return errno_status(errno, absl::StrCat("set-up of the sandbox: write '", text, "' to ", path));
  return absl::OkStatus();
}

absl::Status set_nonblocking(int fd) {
  const int flags = ::fcntl(fd, F_GETFL);
  if (flags < 0 || ::fcntl(fd, F_SETFL, flags | O_NONBLOCK) != 0)
    return errno_status(errno, "fcntl O_NONBLOCK");
  return absl::OkStatus();
}

// A helper inside its seat, in its tree, waiting to be told what to be.
struct Spare {
  spawner::Child child;
  UniqueFd control;
  std::uint32_t uid = 0;
  std::string seat_path;
};

bool ended(int pidfd) {
  pollfd end{pidfd, POLLIN, 0};
  return ::poll(&end, 1, 0) != 0;
}

class ProcessFactory final : public SandboxFactory {
 public:
  explicit ProcessFactory(FactoryOptions options) : options_(std::move(options)) {}

  ~ProcessFactory() override {
    for (auto& [seat, spare] : spares_) discard(std::move(spare));
    clear_ended();
  }

  absl::Status open() {
    if (options_.uid_base < 1000 || options_.uid_count == 0 ||
        options_.uid_base > UINT32_MAX - 1 - options_.uid_count)
      return absl::InvalidArgumentError(
          absl::StrCat("uid_base ", options_.uid_base, ", uid_count ", options_.uid_count,
                       ": the range must not be empty and must start at 1000 or later"));
    if (options_.setup_timeout <= std::chrono::milliseconds::zero())
      return absl::InvalidArgumentError("setup_timeout must be positive");
    if (options_.runtime_dir.empty() || options_.runtime_dir[0] != '/')
      return absl::InvalidArgumentError(
          absl::StrCat("runtime_dir: '", options_.runtime_dir, "' must be absolute"));
    for (const std::string& path : options_.host_paths) {
      if (path.size() < 2 || path[0] != '/' || !stays_inside(path.substr(1)) || path.back() == '/')
        return absl::InvalidArgumentError(
            absl::StrCat("host_paths: '", path, "' must be absolute, without '..' or a trailing '/'"));
    }
    tree_ = survey(options_.host_paths);
    if (tree_.size() > 50)
      return absl::InvalidArgumentError(absl::StrCat("host_paths: ", tree_.size(), " of them, limit 50"));
    if (options_.python_runtime.empty()) options_.python_runtime = std::string(worker_runtime::python());

    if (options_.python.empty()) {
      for (const char* candidate : {"/usr/bin/python3", "/usr/local/bin/python3"})
        if (python_.empty()) python_ = real_program(candidate);
    } else {
      python_ = real_program(options_.python);
      if (python_.empty())
        return absl::InvalidArgumentError(absl::StrCat("python: ", options_.python, " is no program"));
    }
    const bool visible = std::any_of(tree_.begin(), tree_.end(), [&](const HostPath& entry) {
      return python_.rfind(entry.path + "/", 0) == 0;
    });
    if (!python_.empty() && !visible) {
      if (!options_.python.empty())
        return absl::InvalidArgumentError(
            absl::StrCat("python: ", python_, " is not beneath any of host_paths"));
      python_.clear();
    }

    if (rlimit files{}; ::getrlimit(RLIMIT_NOFILE, &files) == 0)
      options_.open_files = static_cast<std::uint32_t>(std::min<rlim_t>(options_.open_files, files.rlim_max));

    namespaces_ = available_namespaces();
    missing_ = missing_privileges();
    if (!missing_.empty()) {
      isolation_ = Isolation::none;
      return absl::OkStatus();
    }
    missing_ = namespaces_.missing;
    // Without it the sandbox's tree would be built over the host's.
    if ((namespaces_.at_birth & CLONE_NEWNS) == 0) return absl::OkStatus();
    isolation_ = missing_.empty() ? Isolation::process : Isolation::partial;
    absl::StatusOr<UniqueFd> image = spawner::make_image();
    if (!image.ok()) return image.status();
    image_ = *std::move(image);
    absl::StatusOr<std::unique_ptr<UidPool>> uids =
        UidPool::open(options_.runtime_dir, options_.uid_base, options_.uid_count);
    if (!uids.ok()) return uids.status();
    uids_ = *std::move(uids);
    return absl::OkStatus();
  }

  Isolation isolation() const override { return isolation_; }

  absl::Status check(const FunctionSpec& spec) override {
    struct stat code{};
    return check(spec, code);
  }

  absl::Status park(Seat& seat) override {
    if (absl::Status status = usable(); !status.ok()) return status;
    clear_ended();
    {
      std::lock_guard guard(mutex_);
      const auto found = spares_.find(&seat);
      if (found != spares_.end() && fits(found->second, seat)) return absl::OkStatus();
    }
    absl::StatusOr<Spare> spare = make_spare(seat);
    if (!spare.ok()) return spare.status();
    std::optional<Spare> old;
    {
      std::lock_guard guard(mutex_);
      const auto [at, fresh] = spares_.try_emplace(&seat);
      if (!fresh) old = std::move(at->second);
      at->second = *std::move(spare);
    }
    if (old) discard(*std::move(old));
    return absl::OkStatus();
  }

  absl::StatusOr<SandboxHandles> create(const CreateParams& params) override {
    if (params.spec == nullptr || params.seat == nullptr)
      return absl::InvalidArgumentError("CreateParams needs a spec and a seat");
    if (params.origin != Origin::fresh)
      return absl::FailedPreconditionError(absl::StrCat("origin ", std::string(to_string(params.origin)),
                                                        ": process sandboxes are made fresh"));
    struct stat code{};
    if (absl::Status status = check(*params.spec, code); !status.ok()) return status;
    if (absl::Status status = usable(); !status.ok()) return status;

    clear_ended();
    absl::StatusOr<Spare> spare = take_spare(*params.seat);
    if (!spare.ok()) return spare.status();
    absl::StatusOr<SandboxHandles> handles = become(*spare, *params.spec, code, *params.seat);
    if (!handles.ok()) {
      discard(*std::move(spare));
      return handles.status();
    }
    std::lock_guard guard(mutex_);
    uids_in_use_[params.id] = spare->uid;
    return handles;
  }

  std::string reap(int pidfd) override {
    const ExitInfo info = process::reap(pidfd);
    return info.how == ExitInfo::How::running ? std::string() : process::to_string(info);
  }
  void released(SandboxId id) override {
    std::uint32_t uid;
    {
      std::lock_guard guard(mutex_);
      const auto found = uids_in_use_.find(id);
      if (found == uids_in_use_.end()) return;
      uid = found->second;
      uids_in_use_.erase(found);
    }
    uids_->give_back(uid);
  }

 private:
  absl::Status usable() const {
    if (isolation_ != Isolation::none) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("process sandboxes cannot be made here; missing: ", missing_));
  }

  absl::Status check(const FunctionSpec& spec, struct stat& code) const {
    const std::string who = absl::StrCat("function ", spec.name, ": ");
    if (static_cast<int>(isolation_) < static_cast<int>(spec.minimum_isolation))
      return absl::FailedPreconditionError(
          absl::StrCat(who, "minimum_isolation is ", std::string(to_string(spec.minimum_isolation)),
                       ", this machine gives ", std::string(to_string(isolation_)),
                       missing_.empty() ? "" : "; missing: ", missing_));
    const bool python = spec.runtime == "python3";
    if (!python && spec.runtime != "exec")
      return absl::InvalidArgumentError(
          absl::StrCat(who, "runtime '", spec.runtime, "': python3 and exec are known"));
    if (python && python_.empty())
      return absl::FailedPreconditionError(
          absl::StrCat(who, "runtime python3: no interpreter found on this machine"));
    if (spec.code_path.empty() || spec.code_path.find('\0') != std::string::npos)
      return absl::InvalidArgumentError(absl::StrCat(who, "code_path is empty or holds a zero byte"));
    if (::stat(spec.code_path.c_str(), &code) != 0)
      return errno_status(errno, absl::StrCat(who, "code_path ", spec.code_path));

    const bool folder = S_ISDIR(code.st_mode);
    if (!folder && !S_ISREG(code.st_mode))
      return absl::InvalidArgumentError(
          absl::StrCat(who, "code_path ", spec.code_path, " is neither a file nor a folder"));
    const mode_t needed = folder || !python ? S_IROTH | S_IXOTH : S_IROTH;
    if ((code.st_mode & needed) != needed)
      return absl::InvalidArgumentError(
          absl::StrCat(who, "code_path ", spec.code_path, " must be ",
                       needed == S_IROTH ? "readable" : "readable and executable",
                       " by others: the sandbox has a uid of its own"));
    if (python && !valid_python_handler(spec.handler))
      return absl::InvalidArgumentError(
          absl::StrCat(who, "handler '", spec.handler, "': must be module:callable"));
    if (!python && folder && !stays_inside(spec.handler))
      return absl::InvalidArgumentError(
          absl::StrCat(who, "handler '", spec.handler, "': must name a file in code_path"));

    if (spec.limits.memory_bytes < kMinMemoryBytes)
      return absl::InvalidArgumentError(absl::StrCat(who, "limits.memory_bytes is ", spec.limits.memory_bytes,
                                                     ", at least ", kMinMemoryBytes));
    if (spec.limits.pids == 0)
      return absl::InvalidArgumentError(absl::StrCat(who, "limits.pids is 0, at least 1"));
    if (spec.limits.cpu_weight < 1 || spec.limits.cpu_weight > 10000)
      return absl::InvalidArgumentError(
          absl::StrCat(who, "limits.cpu_weight is ", spec.limits.cpu_weight, ", 1 to 10000"));

    std::size_t bytes = 0;
    for (const auto& [name, value] : spec.env) {
      if (!valid_name(name) || value.find('\0') != std::string::npos)
        return absl::InvalidArgumentError(absl::StrCat(
            who, "env '", name, "': names are [A-Za-z_][A-Za-z0-9_]*, values without zero bytes"));
      bytes += name.size() + value.size() + 2;
    }
    if (bytes > kMaxEnvironmentBytes)
      return absl::InvalidArgumentError(
          absl::StrCat(who, "env holds ", bytes, " bytes, limit ", kMaxEnvironmentBytes));
    return absl::OkStatus();
  }

  // A seat's address may be used again once it is destroyed; its path is not.
  bool fits(const Spare& spare, const Seat& seat) const {
    return spare.seat_path == seat.path() && !ended(spare.child.pidfd.get());
  }

  absl::StatusOr<Spare> take_spare(Seat& seat) {
    std::optional<Spare> spare;
    {
      std::lock_guard guard(mutex_);
      if (const auto found = spares_.find(&seat); found != spares_.end()) {
        spare = std::move(found->second);
        spares_.erase(found);
      }
    }
    if (spare && fits(*spare, seat)) {
      // Without groups all seats look alike, so the one that asks must know its process.
      if (seat.path().empty())
        if (absl::Status status = seat.adopt(spare->child.pid); !status.ok()) {
          discard(*std::move(spare));
          return status;
        }
      return *std::move(spare);
    }
    if (spare) discard(*std::move(spare));
    return make_spare(seat);
  }

  absl::StatusOr<Spare> make_spare(Seat& seat) {
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      return errno_status(errno, "socketpair");
    Spare spare;
    spare.control.reset(ends[0]);
    UniqueFd theirs(ends[1]);
    absl::StatusOr<std::uint32_t> uid = uids_->take();
    if (!uid.ok()) return uid.status();
    spare.uid = *uid;
    spare.seat_path = seat.path();

    spawner::SpawnParams params;
    params.image = image_.get();
    params.argv = {"faaskit-spare"};
    params.fds = {theirs.get()};
    params.namespaces = namespaces_.at_birth;
    params.cgroup = seat.cgroup_v2_fd();
    absl::StatusOr<spawner::Child> child = spawner::spawn(params);
    if (!child.ok()) {
      uids_->give_back(spare.uid);
      return child.status();
    }
    spare.child = *std::move(child);
    theirs.reset();

    absl::Status status = seat.adopt(spare.child.pid);
    if (status.ok()) {
      ParkPlan plan;
      plan.tree = &tree_;
      plan.python_runtime = options_.python_runtime;
      plan.uid = spare.uid;
      plan.tmp_bytes = options_.tmp_bytes;
      plan.cgroup_namespace = namespaces_.cgroup;
      status = parked(plan).run(spare.control.get(), options_.setup_timeout);
    }
    if (!status.ok()) {
      discard(std::move(spare));
      return status;
    }
    return spare;
  }

  // On error the spare is spoilt.
  absl::StatusOr<SandboxHandles> become(Spare& spare, const FunctionSpec& spec, const struct stat& checked,
                                        Seat& seat) {
    if (absl::Status status = seat.set_limits(spec.limits); !status.ok()) return status;
    absl::StatusOr<UniqueFd> code = take_code(spec.code_path);
    if (!code.ok()) return code.status();
    struct stat taken{};
    if (::fstat(code->get(), &taken) != 0) return errno_status(errno, "fstat of code_path " + spec.code_path);
    if (taken.st_dev != checked.st_dev || taken.st_ino != checked.st_ino)
      return absl::UnavailableError(
          absl::StrCat("code_path ", spec.code_path, " was replaced while the sandbox was made"));
    const bool folder = S_ISDIR(taken.st_mode);

    SandboxHandles handles;
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
      return errno_status(errno, "socketpair");
    handles.channel.reset(ends[0]);
    UniqueFd channel(ends[1]);
    if (::pipe2(ends, O_CLOEXEC) != 0) return errno_status(errno, "pipe");
    handles.output.reset(ends[0]);
    UniqueFd output(ends[1]);
    // So that /dev/stdout can be opened by name, which goes by the pipe's owner.
    if (::fchown(output.get(), spare.uid, spare.uid) != 0)
      return errno_status(errno, "fchown of the output pipe");
    if (absl::Status status = set_nonblocking(handles.channel.get()); !status.ok()) return status;
    if (absl::Status status = set_nonblocking(handles.output.get()); !status.ok()) return status;

    const int control = spare.control.get();
    FurnishPlan furnish;
    furnish.code = code->get();
    furnish.code_file = folder ? "" : base_name(spec.code_path);
    furnish.open_files = options_.open_files;
    furnish.user_namespace = namespaces_.user;
    if (absl::Status status = furnished(furnish).run(control, options_.setup_timeout); !status.ok())
      return status;

    BecomePlan become;
    become.id = spare.uid;
    if (namespaces_.user) {
      become.id = kInsideId;
      become.user_namespace = true;
      const std::string map = absl::StrCat(kInsideId, " ", spare.uid, " 1");
      for (const auto& [file, text] :
           {std::pair<const char*, std::string>{"setgroups", "deny"}, {"gid_map", map}, {"uid_map", map}})
        if (absl::Status status = write_proc(spare.child.pid, file, text); !status.ok()) return status;
    }
    become.channel = channel.get();
    become.output = output.get();
    if (spec.runtime == "python3") {
      become.argv = {python_, "-I", "/faaskit/runtime.py", folder ? "/code" : "/code/" + furnish.code_file,
                     spec.handler};
    } else {
      become.argv = {"/code/" + (folder ? spec.handler : furnish.code_file)};
    }
    become.environment = environment(spec);
    if (absl::Status status = becomes(become).run_and_become(control, options_.setup_timeout); !status.ok())
      return status;

    handles.pid = spare.child.pid;
    handles.pidfd = std::move(spare.child.pidfd);
    spare.control.reset();
    handles.isolation = isolation_;
    handles.missing = missing_;
    return handles;
  }

  static std::vector<std::string> environment(const FunctionSpec& spec) {
    std::map<std::string, std::string> values = {
        {"PATH", "/usr/local/bin:/usr/bin:/bin"}, {"HOME", "/tmp"}, {"LANG", "C.UTF-8"}};
    for (const auto& [name, value] : spec.env) values[name] = value;
    std::vector<std::string> list;
    for (const auto& [name, value] : values) list.push_back(absl::StrCat(name, "=", value));
    return list;
  }

  void discard(Spare spare) {
    if (spawner::kill_and_reap(spare.child)) return uids_->give_back(spare.uid);
    // Held up in the kernel. Its uid is in use until it is really gone.
    std::lock_guard guard(mutex_);
    doomed_.push_back(std::move(spare));
  }

  // A seat may be given up with its spare in it, and nobody tells us: its end does.
  void clear_ended() {
    std::lock_guard guard(mutex_);
    const auto gone = [&](const Spare& spare) {
      if (!ended(spare.child.pidfd.get()) || !spawner::wait_and_reap(spare.child.pidfd.get(), 0))
        return false;
      uids_->give_back(spare.uid);
      return true;
    };
    std::erase_if(spares_, [&](const auto& entry) { return gone(entry.second); });
    std::erase_if(doomed_, gone);
  }

  FactoryOptions options_;
  std::vector<HostPath> tree_;
  std::string python_;
  Namespaces namespaces_;
  Isolation isolation_ = Isolation::none;
  std::string missing_;
  UniqueFd image_;
  std::unique_ptr<UidPool> uids_;

  std::mutex mutex_;
  std::map<const Seat*, Spare> spares_;
  std::vector<Spare> doomed_;  // killed, but not dead yet
  std::map<SandboxId, std::uint32_t> uids_in_use_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SandboxFactory>> make_sandbox_factory(FactoryOptions options) {
  auto factory = std::make_unique<ProcessFactory>(std::move(options));
  if (absl::Status status = factory->open(); !status.ok()) return status;
  return std::unique_ptr<SandboxFactory>(std::move(factory));
}

}  // namespace faaskit::process
