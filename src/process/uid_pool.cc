#include "process/uid_pool.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include <absl/strings/str_cat.h>

#include "support/errno_status.h"

namespace faaskit::process {

absl::StatusOr<std::unique_ptr<UidPool>> UidPool::open(const std::string& runtime_dir, std::uint32_t base,
                                                       std::uint32_t count) {
  if (::mkdir(runtime_dir.c_str(), 0700) != 0 && errno != EEXIST)
    return errno_status(errno, "mkdir " + runtime_dir);
  std::unique_ptr<UidPool> pool(new UidPool(base, count));
  const std::string path = runtime_dir + "/uids";
  pool->file_.reset(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
  if (!pool->file_) return errno_status(errno, "open " + path);
  // Whoever else may write it could lock every uid, or lend one out twice.
  struct stat info{};
  if (::fstat(pool->file_.get(), &info) != 0) return errno_status(errno, "fstat " + path);
  if (!S_ISREG(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 077) != 0)
    return absl::FailedPreconditionError(
        absl::StrCat(path, " must be a file of ours that is open to nobody else"));
  // Hosts that start together should not fight over the same first numbers.
  pool->next_ = static_cast<std::uint32_t>(::getpid()) % count;
  return pool;
}

bool UidPool::lock(std::uint32_t uid, bool locked) {
  struct flock range{};
  range.l_type = locked ? F_WRLCK : F_UNLCK;
  range.l_whence = SEEK_SET;
  range.l_start = uid;
  range.l_len = 1;
  // Of the open file, not of the process: another pool of this process counts as another host.
  return ::fcntl(file_.get(), F_OFD_SETLK, &range) == 0;
}

absl::StatusOr<std::uint32_t> UidPool::take() {
  std::lock_guard guard(mutex_);
  const std::uint32_t count = static_cast<std::uint32_t>(used_.size());
  for (std::uint32_t tried = 0; tried < count; ++tried) {
    // Round and round, so that a uid rests before it serves again.
    const std::uint32_t index = next_;
    next_ = (next_ + 1) % count;
    if (used_[index] || !lock(base_ + index, true)) continue;
    used_[index] = true;
    return base_ + index;
  }
  return absl::ResourceExhaustedError(absl::StrCat("all ", count, " uids from ", base_, " are in use"));
}

void UidPool::give_back(std::uint32_t uid) {
  std::lock_guard guard(mutex_);
  if (uid < base_ || uid - base_ >= used_.size() || !used_[uid - base_]) return;
  lock(uid, false);
  used_[uid - base_] = false;
}

}  // namespace faaskit::process
