#include "code/unprivileged.h"

#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include <absl/strings/str_cat.h>

#include "support/errno_status.h"

namespace faaskit::code {
namespace {

struct Header {
  std::uint32_t version = _LINUX_CAPABILITY_VERSION_3;
  int pid = 0;  // this thread
};
// effective, permitted, inheritable; twice, for capabilities 0 to 31 and the rest
constexpr int kEffectiveLow = 0;
constexpr int kEffectiveHigh = 3;

// Both answer with what was before, whether they changed anything or not; an impossible id only reads.
int file_uid(std::uint32_t id) { return static_cast<int>(::syscall(SYS_setfsuid, id)); }
int file_gid(std::uint32_t id) { return static_cast<int>(::syscall(SYS_setfsgid, id)); }
constexpr std::uint32_t kNoId = ~0u;

class KeepDumpable {
 public:
  KeepDumpable() : before_(::prctl(PR_GET_DUMPABLE)) {}
  ~KeepDumpable() {
    if (before_ == 1 && ::prctl(PR_GET_DUMPABLE) != 1) (void)::prctl(PR_SET_DUMPABLE, 1);
  }
  KeepDumpable(const KeepDumpable&) = delete;
  KeepDumpable& operator=(const KeepDumpable&) = delete;

 private:
  int before_;
};

}  // namespace

bool Unprivileged::get(Capabilities& out) {
  Header header;
  return ::syscall(SYS_capget, &header, out.words) == 0;
}

bool Unprivileged::set(const Capabilities& in) {
  Header header;
  return ::syscall(SYS_capset, &header, in.words) == 0;
}

Unprivileged::Unprivileged(const UnpackUser& user) : user_(user) { status_ = drop(); }

absl::Status Unprivileged::drop() {
  const MutexLock lock(user_.mutex);
  const KeepDumpable dumpable;
  (void)::prctl(PR_GET_PDEATHSIG, &death_signal_);
  if (!get(saved_)) {
    restored_ = true;  // nothing to put back
    return errno_status(errno, "unpack: capget");
  }
  if (user_.id.has_value()) {
    const int count = ::getgroups(0, nullptr);
    groups_.resize(count > 0 ? static_cast<std::size_t>(count) : 0);
    if (count < 0 || ::getgroups(count, groups_.data()) != count) {
      restored_ = true;
      return errno_status(errno, "unpack: getgroups");
    }
    fsuid_ = file_uid(kNoId);
    fsgid_ = file_gid(kNoId);
    changed_id_ = true;
    if (::syscall(SYS_setgroups, 0, nullptr) != 0) return errno_status(errno, "unpack: setgroups");
    (void)file_gid(*user_.id);
    (void)file_uid(*user_.id);
    if (file_uid(kNoId) != static_cast<int>(*user_.id) || file_gid(kNoId) != static_cast<int>(*user_.id)) {
      return absl::FailedPreconditionError(
          absl::StrCat("unpack: cannot become uid and gid ", *user_.id, " here"));
    }
  }
  Capabilities none = saved_;
  none.words[kEffectiveLow] = 0;
  none.words[kEffectiveHigh] = 0;
  if (!set(none)) return errno_status(errno, "unpack: capset");
  return absl::OkStatus();
}

absl::Status Unprivileged::restore() {
  if (restored_) return absl::OkStatus();
  restored_ = true;
  const MutexLock lock(user_.mutex);
  const KeepDumpable dumpable;
  // First the right to change ids, then the ids. Becoming uid 0 raises capabilities by itself: so once more.
  bool well = set(saved_);
  if (changed_id_) {
    (void)file_uid(static_cast<std::uint32_t>(fsuid_));
    (void)file_gid(static_cast<std::uint32_t>(fsgid_));
    well = ::syscall(SYS_setgroups, groups_.size(), groups_.data()) == 0 && well;
    well = set(saved_) && well;
    well = file_uid(kNoId) == fsuid_ && file_gid(kNoId) == fsgid_ && well;
  }
  if (death_signal_ != 0) (void)::prctl(PR_SET_PDEATHSIG, death_signal_);
  if (!well) return absl::InternalError("unpack: a thread could not take its credentials back");
  return absl::OkStatus();
}

Unprivileged::~Unprivileged() { (void)restore(); }

}  // namespace faaskit::code
