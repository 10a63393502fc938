#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <map>
#include <mutex>
#include <utility>

#include <absl/strings/str_cat.h>

#include "faaskit/process/reap.h"
#include "faaskit/process/sandbox_factory.h"
#include "process/become.h"
#include "process/machine.h"
#include "process/paths.h"
#include "process/seccomp.h"
#include "process/spares.h"
#include "process/spec_check.h"
#include "process/uid_pool.h"
#include "runtimes/runtimes.h"
#include "support/errno_status.h"

namespace faaskit::process {
namespace {

absl::Status check_options(const FactoryOptions& options) {
  if (options.uid_base < 1000 || options.uid_count == 0 ||
      options.uid_base > UINT32_MAX - 1 - options.uid_count)
    return absl::InvalidArgumentError(
        absl::StrCat("uid_base ", options.uid_base, ", uid_count ", options.uid_count,
                     ": the range must not be empty and must start at 1000 or later"));
  if (options.setup_timeout <= std::chrono::milliseconds::zero())
    return absl::InvalidArgumentError("setup_timeout must be positive");
  // To the kernel this is no bound at all.
  if (options.tmp_bytes == 0) return absl::InvalidArgumentError("tmp_bytes is 0, at least 1");
  if (options.runtime_dir.empty() || options.runtime_dir[0] != '/')
    return absl::InvalidArgumentError(
        absl::StrCat("runtime_dir: '", options.runtime_dir, "' must be absolute"));
  for (const std::string& path : options.host_paths) {
    if (path.size() < 2 || path[0] != '/' || !stays_inside(path.substr(1)) || path.back() == '/')
      return absl::InvalidArgumentError(
          absl::StrCat("host_paths: '", path, "' must be absolute, without '..' or a trailing '/'"));
  }
  return absl::OkStatus();
}

// The interpreter that functions of a runtime are run by. `given` must be one; else the first of the
// `candidates` that a sandbox sees is taken, or none.
absl::StatusOr<std::string> find_interpreter(const char* option, const std::string& given,
                                             std::initializer_list<const char*> candidates,
                                             const std::vector<HostPath>& tree) {
  if (given.empty()) {
    for (const char* candidate : candidates)
      if (std::string real = real_program(candidate); !real.empty() && visible(tree, real)) return real;
    return "";
  }
  std::string real = real_program(given);
  if (real.empty()) return absl::InvalidArgumentError(absl::StrCat(option, ": ", given, " is no program"));
  if (!visible(tree, real))
    return absl::InvalidArgumentError(absl::StrCat(option, ": ", real, " is not beneath any of host_paths"));
  return real;
}

class ProcessFactory final : public SandboxFactory {
 public:
  explicit ProcessFactory(FactoryOptions options) : options_(std::move(options)) {}

  absl::Status open() {
    if (absl::Status status = check_options(options_); !status.ok()) return status;
    SpareKind kind;
    kind.tree = survey(options_.host_paths);
    if (kind.tree.size() > 50)
      return absl::InvalidArgumentError(absl::StrCat("host_paths: ", kind.tree.size(), " of them, limit 50"));
    kind.files = {{"runtime.py", or_built_in(options_.python_runtime, worker_runtime::python())},
                  {"runtime.js", or_built_in(options_.node_runtime, worker_runtime::node())}};
    kind.tmp_bytes = options_.tmp_bytes;
    kind.setup_timeout = options_.setup_timeout;

    absl::StatusOr<std::string> python = find_interpreter(
        "python", options_.python, {"/usr/bin/python3", "/usr/local/bin/python3"}, kind.tree);
    if (!python.ok()) return python.status();
    offer_.python = *std::move(python);
    absl::StatusOr<std::string> node =
        find_interpreter("node", options_.node, {"/usr/bin/node", "/usr/local/bin/node"}, kind.tree);
    if (!node.ok()) return node.status();
    offer_.node = *std::move(node);

    if (rlimit files{}; ::getrlimit(RLIMIT_NOFILE, &files) == 0)
      options_.open_files = static_cast<std::uint32_t>(std::min<rlim_t>(options_.open_files, files.rlim_max));

    kind.namespaces = available_namespaces();
    offer_.missing = kind.namespaces.missing;
    if (seccomp_available()) {
      filter_ = write_filter(sandbox_policy());
    } else {
      absl::StrAppend(&offer_.missing, offer_.missing.empty() ? "" : ", ", "seccomp");
    }
    // Without it the sandbox's tree would be built over the host's.
    if ((kind.namespaces.at_birth & CLONE_NEWNS) == 0) return absl::OkStatus();
    if (const std::string privileges = missing_privileges(); !privileges.empty())
      return open_unprivileged(std::move(kind), privileges);
    offer_.isolation = offer_.missing.empty() ? Isolation::process : Isolation::partial;
    offer_.loopback = has_capability(CAP_NET_ADMIN);
    offer_.host_network = options_.allow_host_network;
    if (offer_.host_network) {
      host_network_.reset(::open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC));
      if (!host_network_) return errno_status(errno, "open /proc/self/ns/net");
    }
    absl::StatusOr<std::unique_ptr<UidPool>> uids =
        UidPool::open(options_.runtime_dir, options_.uid_base, options_.uid_count);
    if (!uids.ok()) return uids.status();
    absl::StatusOr<std::unique_ptr<Spares>> spares = Spares::open(std::move(kind), *std::move(uids));
    if (!spares.ok()) return spares.status();
    spares_ = *std::move(spares);
    return absl::OkStatus();
  }

  // For an ordinary user: a user namespace first, and in it whatever a sandbox needs.
  absl::Status open_unprivileged(SpareKind kind, const std::string& privileges) {
    if (!kind.namespaces.user) {
      offer_.missing = absl::StrCat(privileges, ", ", offer_.missing);
      return absl::OkStatus();
    }
    kind.namespaces.at_birth |= CLONE_NEWUSER;
    kind.namespaces.user_first = true;
    absl::StatusOr<std::unique_ptr<Spares>> spares = Spares::open(std::move(kind), nullptr);
    if (!spares.ok()) {
      // Not for us to report: functions that need no isolation still work elsewhere.
      offer_.missing = absl::StrCat(privileges, ", or a user namespace without it (",
                                    std::string(spares.status().message()), ")");
      return absl::OkStatus();
    }
    spares_ = *std::move(spares);
    // In the user namespace that owns the sandbox's network it has the capability.
    offer_.loopback = true;
    offer_.isolation = Isolation::partial;
    absl::StrAppend(&offer_.missing, offer_.missing.empty() ? "" : ", ",
                    "a uid of its own, dropping of groups, ", "limits beyond those of a process (",
                    privileges, ")");
    return absl::OkStatus();
  }

  Isolation isolation() const override { return offer_.isolation; }

  absl::Status check(const FunctionSpec& spec) override {
    struct stat code{};
    return check_spec(spec, spec.code_path, offer_, code);
  }

  absl::Status park(Seat& seat) override {
    if (absl::Status status = usable(); !status.ok()) return status;
    return spares_->park(seat);
  }

  absl::StatusOr<SandboxHandles> create(const CreateParams& params) override {
    if (params.spec == nullptr || params.seat == nullptr)
      return absl::InvalidArgumentError("CreateParams needs a spec and a seat");
    if (params.origin != Origin::fresh)
      return absl::FailedPreconditionError(absl::StrCat("origin ", std::string(to_string(params.origin)),
                                                        ": process sandboxes are made fresh"));
    const FunctionSpec& spec = *params.spec;
    Becoming what;
    what.spec = &spec;
    what.code_path = params.code_path.empty() ? spec.code_path : params.code_path;
    what.links = params.code_path.empty();
    if (absl::Status status = check_spec(spec, what.code_path, offer_, what.code); !status.ok())
      return status;
    what.command.check = params.purpose == Purpose::check;
    if (what.command.check && spec.runtime == "exec")
      return absl::UnimplementedError(
          absl::StrCat("function ", spec.name, ": runtime exec has nothing to check"));
    if (absl::Status status = usable(); !status.ok()) return status;

    what.command.python = offer_.python;
    what.command.node = offer_.node;
    what.open_files = options_.open_files;
    what.user_namespace = spares_->kind().namespaces.user;
    if (!filter_.empty()) what.filter = &filter_;
    what.own_network = (spares_->kind().namespaces.at_birth & CLONE_NEWNET) != 0;
    what.host_network = host_network_.get();
    what.user_first = spares_->kind().namespaces.user_first;
    if (what.user_first) what.code_path = absolute(what.code_path);
    what.setup_timeout = options_.setup_timeout;
    absl::StatusOr<Spare> spare = spares_->take(*params.seat);
    if (!spare.ok()) return spare.status();
    absl::StatusOr<SandboxHandles> handles = become(*spare, *params.seat, what);
    if (!handles.ok()) {
      spares_->discard(*std::move(spare));
      return handles.status();
    }
    handles->isolation = offer_.isolation;
    handles->missing = offer_.missing;
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
    spares_->give_back(uid);
  }

 private:
  static std::string or_built_in(const std::string& given, std::string_view built_in) {
    return given.empty() ? std::string(built_in) : given;
  }

  static std::string absolute(const std::string& path) {
    std::error_code ignored;
    return std::filesystem::absolute(path, ignored).string();
  }

  absl::Status usable() const {
    if (offer_.isolation != Isolation::none) return absl::OkStatus();
    return absl::FailedPreconditionError(
        absl::StrCat("process sandboxes cannot be made here; missing: ", offer_.missing));
  }

  FactoryOptions options_;
  Offer offer_;
  std::vector<sock_filter> filter_;
  UniqueFd host_network_;           // where functions may have it
  std::unique_ptr<Spares> spares_;  // null: none can be made here

  std::mutex mutex_;
  std::map<SandboxId, std::uint32_t> uids_in_use_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<SandboxFactory>> make_sandbox_factory(FactoryOptions options) {
  auto factory = std::make_unique<ProcessFactory>(std::move(options));
  if (absl::Status status = factory->open(); !status.ok()) return status;
  return std::unique_ptr<SandboxFactory>(std::move(factory));
}

}  // namespace faaskit::process
