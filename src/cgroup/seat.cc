#include "cgroup/seat.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cgroup/files.h"
#include "cgroup/limits.h"
#include "support/errno_status.h"

namespace faaskit::cgroup {
namespace {

// v1 answers "FREEZING" until all have stopped; a process in the kernel may take its time, and we do not
// wait for it: whatever it forks is caught by remove() and by the caller's next kill().
constexpr int kFreezeLooks = 50;

class CgroupSeat final : public Seat {
 public:
  CgroupSeat(std::shared_ptr<const Shared> shared, std::string name)
      : shared_(std::move(shared)), name_(std::move(name)) {}

  ~CgroupSeat() override {
    if (removed_) return;
    (void)CgroupSeat::kill();
    (void)CgroupSeat::remove();
  }

  absl::Status make(const ResourceLimits& limits) {
    for (std::size_t i = 0; i < shared_->groups.size(); ++i) {
      const Group& group = shared_->groups[i];
      if (::mkdirat(group.dir.get(), name_.c_str(), 0755) == 0) continue;
      absl::Status status = errno_status(errno, absl::StrCat("mkdir ", group.path, "/", name_));
      // Only what was made here: a group that was there already is a living seat's.
      while (i-- > 0) ::unlinkat(shared_->groups[i].dir.get(), name_.c_str(), AT_REMOVEDIR);
      removed_ = true;
      return status;
    }
    if (absl::Status status = set_limits(limits); !status.ok()) return status;
    if (shared_->kind == FreezerKind::cgroup_v2) {
      const Group& v2 = shared_->groups[static_cast<std::size_t>(shared_->v2)];
      state_.reset(::openat(v2.dir.get(), (name_ + "/cgroup.freeze").c_str(), O_WRONLY | O_CLOEXEC));
      if (!state_) return errno_status(errno, absl::StrCat("open ", v2.path, "/", name_, "/cgroup.freeze"));
    } else if (shared_->kind == FreezerKind::cgroup_v1) {
      const Group& v1 = shared_->groups[static_cast<std::size_t>(shared_->v1_freezer)];
      state_.reset(::openat(v1.dir.get(), (name_ + "/freezer.state").c_str(), O_RDWR | O_CLOEXEC));
      if (!state_) return errno_status(errno, absl::StrCat("open ", v1.path, "/", name_, "/freezer.state"));
    }
    if (shared_->v2 != kNoGroup) {
      const Group& v2 = shared_->groups[static_cast<std::size_t>(shared_->v2)];
      birth_.reset(::openat(v2.dir.get(), name_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
      if (!birth_) return errno_status(errno, absl::StrCat("open ", v2.path, "/", name_));
    }
    return absl::OkStatus();
  }

  int cgroup_v2_fd() const override { return birth_.get(); }

  std::string path() const override {
    if (shared_->groups.empty()) return "";
    const int best = shared_->v2 != kNoGroup           ? shared_->v2
                     : shared_->v1_freezer != kNoGroup ? shared_->v1_freezer
                                                       : 0;
    return shared_->groups[static_cast<std::size_t>(best)].path + "/" + name_;
  }

  absl::Status adopt(pid_t pid) override {
    const std::string text = std::to_string(pid);
    for (const Group& group : shared_->groups) {
      // Born there; but who replaces one that was adopted before had no group to be born into any more.
      if (group.v2 && birth_) continue;
      absl::Status status = write_file(group.dir.get(), name_ + "/cgroup.procs", text, group.path);
      if (!status.ok()) return status;
    }
    if (needs_process()) {
      process_.reset(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
      if (!process_) return errno_status(errno, absl::StrCat("pidfd_open ", pid));
    }
    pid_ = pid;
    // Whoever had to be born here has been.
    birth_.reset();
    return absl::OkStatus();
  }

  absl::Status set_limits(const ResourceLimits& limits) override {
    if (shared_->memory != kNoGroup) {
      const Group& group = at(shared_->memory);
      if (absl::Status s = write_all(group, memory_writes(group.v2, limits.memory_bytes)); !s.ok()) return s;
    }
    if (shared_->pids != kNoGroup)
      if (absl::Status s = write_all(at(shared_->pids), pids_writes(limits.pids)); !s.ok()) return s;
    if (shared_->cpu == kNoGroup) return absl::OkStatus();
    const Group& group = at(shared_->cpu);
    if (absl::Status s = write_all(group, cpu_weight_writes(group.v2, limits.cpu_weight)); !s.ok()) return s;
    // A new group has no bound, and most functions want none: that costs nothing, and needs no kernel that
    // knows bounds.
    if (limits.cpu_max_milli == cpu_max_milli_) return absl::OkStatus();
    if (absl::Status s = write_all(group, cpu_max_writes(group.v2, limits.cpu_max_milli)); !s.ok()) return s;
    cpu_max_milli_ = limits.cpu_max_milli;
    return absl::OkStatus();
  }

  absl::Status freeze() override {
    switch (shared_->kind) {
      case FreezerKind::cgroup_v2: return write_state("1");
      case FreezerKind::cgroup_v1: return write_state("FROZEN");
      case FreezerKind::stop_signals: return signal(SIGSTOP);
      case FreezerKind::none: return absl::OkStatus();
    }
    return absl::OkStatus();
  }

  absl::Status thaw() override {
    switch (shared_->kind) {
      case FreezerKind::cgroup_v2: return write_state("0");
      case FreezerKind::cgroup_v1: return write_state("THAWED");
      case FreezerKind::stop_signals: return signal(SIGCONT);
      case FreezerKind::none: return absl::OkStatus();
    }
    return absl::OkStatus();
  }

  std::optional<bool> frozen() override {
    switch (shared_->kind) {
      case FreezerKind::cgroup_v2: {
        // Opened for each look: a descriptor for each sandbox's events file would be its fifth.
        const std::optional<std::string> events =
            read_text(at(shared_->v2).dir.get(), name_ + "/cgroup.events");
        if (!events) return std::nullopt;
        const std::optional<std::uint64_t> value = find_value(*events, "frozen");
        if (!value) return std::nullopt;
        return *value == 1;
      }
      case FreezerKind::cgroup_v1: {
        char text[16];
        const ssize_t got = ::pread(state_.get(), text, sizeof text, 0);
        if (got <= 0) return std::nullopt;
        return std::string_view(text, static_cast<std::size_t>(got)).rfind("FROZEN", 0) == 0;
      }
      case FreezerKind::stop_signals: {
        if (!process_ || ended()) return std::nullopt;
        // "pid (name) S ...": the name may hold anything, so look behind the last parenthesis.
        const std::optional<std::string> stat = read_text(AT_FDCWD, absl::StrCat("/proc/", pid_, "/stat"));
        if (!stat) return std::nullopt;
        const std::size_t end = stat->rfind(')');
        if (end == std::string::npos || end + 2 >= stat->size()) return std::nullopt;
        return (*stat)[end + 2] == 'T';
      }
      case FreezerKind::none: return std::nullopt;
    }
    return std::nullopt;
  }

  absl::Status kill() override {
    if (removed_) return absl::OkStatus();
    if (shared_->v2 != kNoGroup) {
      const Group& v2 = at(shared_->v2);
      const int error = write_text(v2.dir.get(), name_ + "/cgroup.kill", "1");
      if (error == 0) return absl::OkStatus();
      // ENOENT: a kernel before 5.14, or a group already removed; then there is nobody to kill either.
      if (error != ENOENT)
        return errno_status(error, absl::StrCat("write ", v2.path, "/", name_, "/cgroup.kill"));
      // v2 lets frozen processes die, and what is frozen cannot fork.
      (void)write_text(v2.dir.get(), name_ + "/cgroup.freeze", "1");
      kill_members(v2.dir.get(), name_);
      return absl::OkStatus();
    }
    if (shared_->kind == FreezerKind::cgroup_v1) {
      const Group& v1 = at(shared_->v1_freezer);
      absl::Status status = write_state("FROZEN");
      for (int look = 0; look < kFreezeLooks; ++look) {
        const bool still = frozen().value_or(true);
        kill_members(v1.dir.get(), name_);
        // All of them stood still before they were listed: nobody was missed.
        if (still) break;
        ::sched_yield();
      }
      absl::Status thawed = write_state("THAWED");
      return thawed.ok() ? thawed : status;
    }
    if (!shared_->groups.empty()) {
      kill_members(shared_->groups.front().dir.get(), name_);
      return absl::OkStatus();
    }
    return process_ ? signal(SIGKILL) : absl::OkStatus();
  }

  absl::Status remove() override {
    if (removed_) return absl::OkStatus();
    for (const Group& group : shared_->groups) {
      if (::unlinkat(group.dir.get(), name_.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) continue;
      return errno_status(errno, absl::StrCat("rmdir ", group.path, "/", name_));
    }
    removed_ = true;
    state_.reset();
    birth_.reset();
    process_.reset();
    return absl::OkStatus();
  }

  void reset_peak() override {
    // v2 resets per open file, which would cost a descriptor for each sandbox: there the peak is of its life.
    if (shared_->memory != kNoGroup && !at(shared_->memory).v2)
      (void)write(at(shared_->memory), "memory.max_usage_in_bytes", "0");
  }

  SeatUsage peak() override {
    SeatUsage usage;
    if (shared_->memory != kNoGroup) {
      const Group& group = at(shared_->memory);
      const char* const peak = group.v2 ? "memory.peak" : "memory.max_usage_in_bytes";
      if (const auto text = read_text(group.dir.get(), absl::StrCat(name_, "/", peak))) {
        usage.memory_peak_bytes = parse_number(*text).value_or(0);
        usage.memory_source = peak;
      }
    }
    if (usage.memory_source.empty() && pid_ > 0) {
      const auto status = read_text(AT_FDCWD, absl::StrCat("/proc/", pid_, "/status")).value_or("");
      if (const std::size_t line = status.find("VmHWM:"); line != std::string::npos) {
        const std::size_t digit = status.find_first_of("0123456789", line);
        if (digit != std::string::npos)
          usage.memory_peak_bytes = parse_number(std::string_view(status).substr(digit)).value_or(0) * 1024;
        usage.memory_source = "VmHWM";
      }
    }
    return usage;
  }

  SeatUsage usage() override {
    SeatUsage usage = peak();
    if (shared_->memory == kNoGroup) return usage;
    const Group& group = at(shared_->memory);
    const auto oom =
        read_text(group.dir.get(), name_ + (group.v2 ? "/memory.events" : "/memory.oom_control"));
    if (oom) usage.oom_killed = find_value(*oom, "oom_kill").value_or(0) > 0;
    return usage;
  }

 private:
  const Group& at(int index) const { return shared_->groups[static_cast<std::size_t>(index)]; }

  absl::Status write(const Group& group, const char* file, const std::string& text) {
    return write_file(group.dir.get(), name_ + "/" + file, text, group.path);
  }

  absl::Status write_all(const Group& group, const std::vector<LimitWrite>& writes) {
    for (const LimitWrite& one : writes)
      if (absl::Status s = write(group, one.file, one.text);
          !s.ok() && !one.optional && !(one.may_exceed && absl::IsInvalidArgument(s)))
        return s;
    return absl::OkStatus();
  }

  absl::Status write_state(std::string_view text) {
    if (!state_) return absl::FailedPreconditionError(absl::StrCat("seat ", name_, " was removed"));
    for (;;) {
      if (::pwrite(state_.get(), text.data(), text.size(), 0) >= 0) return absl::OkStatus();
      if (errno != EINTR)
        return errno_status(errno, absl::StrCat("write '", std::string(text), "' for ", name_));
    }
  }

  // A descriptor of the process is needed only where no group can stop or kill it.
  bool needs_process() const { return shared_->kind == FreezerKind::stop_signals || shared_->groups.empty(); }

  bool ended() const {
    pollfd end{process_.get(), POLLIN, 0};
    return ::poll(&end, 1, 0) > 0;
  }

  absl::Status signal(int number) {
    if (!process_) return absl::FailedPreconditionError(absl::StrCat("seat ", name_, " has adopted nobody"));
    if (::syscall(SYS_pidfd_send_signal, process_.get(), number, nullptr, 0) == 0 || errno == ESRCH)
      return absl::OkStatus();
    return errno_status(errno, absl::StrCat("signal ", number, " to ", pid_));
  }

  const std::shared_ptr<const Shared> shared_;
  const std::string name_;
  UniqueFd state_;                              // cgroup.freeze or freezer.state
  UniqueFd birth_;                              // the v2 directory, until adopt()
  UniqueFd process_;                            // see needs_process()
  std::optional<std::uint32_t> cpu_max_milli_;  // as the kernel has it
  pid_t pid_ = -1;
  bool removed_ = false;
};

}  // namespace

int kill_members(int dir, const std::string& group) {
  int count = 0;
  for (const std::string& line : split(read_text(dir, group + "/cgroup.procs").value_or(""), '\n')) {
    const pid_t pid = static_cast<pid_t>(parse_number(line).value_or(0));
    if (pid <= 1) continue;  // 0: a process that our pid namespace cannot see
    ::kill(pid, SIGKILL);
    ++count;
  }
  return count;
}

absl::StatusOr<std::unique_ptr<Seat>> make_seat(std::shared_ptr<const Shared> shared, const SeatSpec& spec) {
  bool good = !spec.name.empty() && spec.name.size() <= 96 && spec.name[0] != '.';
  for (const char c : spec.name)
    good = good && (std::isalnum(static_cast<unsigned char>(c)) || c == '-' || c == '_' || c == '.');
  if (!good)
    return absl::InvalidArgumentError(
        absl::StrCat("seat '", spec.name, "': must be 1 to 96 of [A-Za-z0-9._-], no leading dot"));
  auto seat = std::make_unique<CgroupSeat>(std::move(shared), spec.name);
  if (absl::Status status = seat->make(spec.limits); !status.ok()) return status;
  return std::unique_ptr<Seat>(std::move(seat));
}

}  // namespace faaskit::cgroup
