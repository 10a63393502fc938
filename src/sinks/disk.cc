#include "sinks/disk.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <map>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "support/errno_status.h"
#include "support/mutex.h"

namespace faaskit::sinks {
namespace {

// 0 or errno.
int write_all(int file, std::string_view text) {
  while (!text.empty()) {
    const ssize_t wrote = ::write(file, text.data(), text.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return errno;
    text.remove_prefix(static_cast<std::size_t>(wrote));
  }
  return 0;
}

class RealDisk final : public Disk {
 public:
  RealDisk(UniqueFd folder, DiskLimits limits) : folder_(std::move(folder)), limits_(limits) {}

  absl::Status append(const std::string& name, std::string_view lines) override FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    absl::Status status = append_locked(name, lines);
    // Opened anew the next time: whatever was wrong, it may be another file by then.
    if (!status.ok()) files_.erase(name);
    return status;
  }

  absl::Status remove(const std::string& name) override FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    files_.erase(name);
    absl::Status status;
    // Beyond the bound as well: it may have been larger once.
    for (std::size_t number = 0;; ++number) {
      const std::string file = generation(name, number);
      if (::unlinkat(folder_.get(), file.c_str(), 0) == 0) continue;
      if (errno != ENOENT) status.Update(errno_status(errno, absl::StrCat("remove log ", file)));
      if (number >= limits_.max_files) return status;
    }
  }

 private:
  struct File {
    UniqueFd fd{};
    std::uint64_t size = 0;
    std::uint64_t used = 0;  // grows
  };

  absl::Status append_locked(const std::string& name, std::string_view lines) FAASKIT_REQUIRES(mutex_) {
    absl::StatusOr<File*> file = find(name);
    if (file.ok() && (*file)->size >= limits_.max_file_bytes) {
      files_.erase(name);
      if (absl::Status status = rotate(name); !status.ok()) return status;
      file = find(name);
    }
    if (!file.ok()) return file.status();
    File& open = **file;
    open.used = ++uses_;
    if (const int error = write_all(open.fd.get(), lines); error != 0) {
      // No half line stays, if that can be helped; else the next open ends it.
      (void)::ftruncate(open.fd.get(), static_cast<off_t>(open.size));
      return errno_status(error, absl::StrCat("write log ", name));
    }
    open.size += lines.size();
    return absl::OkStatus();
  }

  absl::StatusOr<File*> find(const std::string& name) FAASKIT_REQUIRES(mutex_) {
    const auto found = files_.find(name);
    if (found != files_.end()) return &found->second;
    if (files_.size() >= limits_.max_open) {
      files_.erase(std::min_element(files_.begin(), files_.end(), [](const auto& a, const auto& b) {
        return a.second.used < b.second.used;
      }));
    }
    File file;
    // Not blocking, should it be a pipe that nobody reads.
    file.fd = UniqueFd(::openat(folder_.get(), name.c_str(),
                                O_RDWR | O_CREAT | O_APPEND | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC, 0600));
    if (!file.fd) return errno_status(errno, absl::StrCat("open log ", name));
    struct stat info{};
    if (::fstat(file.fd.get(), &info) != 0) return errno_status(errno, absl::StrCat("stat log ", name));
    if (!S_ISREG(info.st_mode))
      return absl::FailedPreconditionError(absl::StrCat("log ", name, " is not a regular file"));
    file.size = static_cast<std::uint64_t>(info.st_size);
    // A crash, or a full disk, may have left half a line.
    char last = '\n';
    if (file.size > 0 && ::pread(file.fd.get(), &last, 1, info.st_size - 1) == 1 && last != '\n') {
      if (const int error = write_all(file.fd.get(), "\n"); error != 0)
        return errno_status(error, absl::StrCat("write log ", name));
      ++file.size;
    }
    return &files_.emplace(name, std::move(file)).first->second;
  }

  absl::Status rotate(const std::string& name) FAASKIT_REQUIRES(mutex_) {
    const std::size_t oldest = limits_.max_files - 1;
    if (oldest == 0) {
      if (::unlinkat(folder_.get(), name.c_str(), 0) != 0 && errno != ENOENT)
        return errno_status(errno, absl::StrCat("rotate log ", name));
    }
    for (std::size_t to = oldest; to > 0; --to) {
      if (::renameat(folder_.get(), generation(name, to - 1).c_str(), folder_.get(),
                     generation(name, to).c_str()) != 0 &&
          errno != ENOENT)
        return errno_status(errno, absl::StrCat("rotate log ", name));
    }
    return absl::OkStatus();
  }

  const UniqueFd folder_;
  const DiskLimits limits_;
  Mutex mutex_;
  std::map<std::string, File> files_ FAASKIT_GUARDED_BY(mutex_);
  std::uint64_t uses_ FAASKIT_GUARDED_BY(mutex_) = 0;
};

}  // namespace

std::unique_ptr<Disk> make_disk(UniqueFd folder, DiskLimits limits) {
  return std::make_unique<RealDisk>(std::move(folder), limits);
}

absl::Status validate(const DiskLimits& limits) {
  if (limits.max_file_bytes == 0)
    return absl::InvalidArgumentError("max_file_bytes: 0; at least 1 is needed");
  if (limits.max_files == 0 || limits.max_files > 1000)
    return absl::InvalidArgumentError(
        absl::StrFormat("max_files: %d; 1 to 1000 are allowed", limits.max_files));
  if (limits.max_open == 0) return absl::InvalidArgumentError("max_open_files: 0; at least 1 is needed");
  return absl::OkStatus();
}

absl::StatusOr<UniqueFd> open_folder(const std::string& path, bool make) {
  if (make && ::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST)
    return errno_status(errno, absl::StrCat("make folder ", path));
  UniqueFd folder(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return errno_status(errno, absl::StrCat("open folder ", path));
  return folder;
}

std::string generation(const std::string& name, std::size_t number) {
  return number == 0 ? name : absl::StrCat(name, ".", number);
}

}  // namespace faaskit::sinks
