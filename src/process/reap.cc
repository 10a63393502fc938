#include "faaskit/process/reap.h"

#include <poll.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdint>

#include <absl/strings/str_cat.h>

#ifndef P_PIDFD
#define P_PIDFD static_cast<idtype_t>(3)
#endif

namespace faaskit::process {
namespace {

// linux/pidfd.h of 6.15, first version of the structure.
struct PidfdInfo {
  std::uint64_t mask, cgroup;
  std::uint32_t pid, tgid, ppid, ruid, rgid, euid, egid, suid, sgid, fsuid, fsgid;
  std::int32_t exit_code;
};
constexpr std::uint64_t kInfoExit = 1 << 3;

ExitInfo from_wait_status(int status) {
  if (WIFSIGNALED(status)) return {ExitInfo::How::signalled, WTERMSIG(status)};
  return {ExitInfo::How::exited, WEXITSTATUS(status)};
}

}  // namespace

std::string to_string(const ExitInfo& info) {
  switch (info.how) {
    case ExitInfo::How::running: return "running";
    case ExitInfo::How::exited: return absl::StrCat("exited with status ", info.value);
    case ExitInfo::How::signalled: return absl::StrCat("killed by signal ", info.value);
    case ExitInfo::How::lost: return "ended";
  }
  return "?";
}

ExitInfo reap(int pidfd) {
  siginfo_t info{};
  int result;
  do {
    result = ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | WNOHANG | __WALL);
  } while (result != 0 && errno == EINTR);
  if (result == 0) {
    if (info.si_pid == 0) return {};
    if (info.si_code == CLD_EXITED) return {ExitInfo::How::exited, info.si_status};
    return {ExitInfo::How::signalled, info.si_status};
  }
  pollfd ended{pidfd, POLLIN, 0};
  if (::poll(&ended, 1, 0) == 0) return {};
  PidfdInfo last{};
  last.mask = kInfoExit;
  if (::ioctl(pidfd, _IOWR(0xFF, 11, PidfdInfo), &last) == 0 && (last.mask & kInfoExit) != 0)
    return from_wait_status(last.exit_code);
  return {ExitInfo::How::lost, 0};
}

}  // namespace faaskit::process
