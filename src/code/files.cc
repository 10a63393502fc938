#include "code/files.h"

#include <dirent.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>

#include <absl/strings/str_cat.h>

#include "support/errno_status.h"

namespace faaskit::code {
namespace {

// Far deeper than what the store makes: only to bound the recursion.
constexpr std::size_t kDeepest = 256;

absl::Status walk_in(int dir, const std::string& prefix, std::size_t depth_left,
                     const std::function<absl::Status(const FoundEntry&)>& visit) {
  absl::StatusOr<std::vector<std::string>> names = list_folder(dir);
  if (!names.ok()) return names.status();
  for (std::string& name : *names) {
    FoundEntry entry{.parent = dir, .leaf = name, .path = prefix + name};
    if (::fstatat(dir, name.c_str(), &entry.info, AT_SYMLINK_NOFOLLOW) != 0)
      return errno_status(errno, absl::StrCat("stat ", entry.path));
    const bool folder = S_ISDIR(entry.info.st_mode);
    if (folder && depth_left == 0)
      return absl::ResourceExhaustedError(absl::StrCat(entry.path, ": nested too deeply"));
    if (absl::Status status = visit(entry); !status.ok()) return status;
    if (!folder) continue;
    const UniqueFd inner = open_beneath(dir, name, O_RDONLY | O_DIRECTORY);
    if (!inner) return errno_status(errno, absl::StrCat("open ", entry.path));
    if (absl::Status status = walk_in(inner.get(), entry.path + "/", depth_left - 1, visit); !status.ok())
      return status;
  }
  return absl::OkStatus();
}

}  // namespace

UniqueFd open_beneath(int dir, const std::string& path, int flags, mode_t mode) {
  open_how how = {};
  how.flags = static_cast<std::uint64_t>(flags) | O_CLOEXEC | O_NOFOLLOW;
  how.mode = (flags & O_CREAT) != 0 ? mode : 0;
  how.resolve = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS;
  // EAGAIN: something was renamed meanwhile, and the kernel could not tell whether the path stays beneath.
  for (int tries = 0; tries < 8; ++tries) {
    const long fd = ::syscall(SYS_openat2, dir, path.c_str(), &how, sizeof how);
    if (fd >= 0 || (errno != EAGAIN && errno != EINTR)) return UniqueFd(static_cast<int>(fd));
  }
  return UniqueFd();
}

absl::StatusOr<std::vector<std::string>> list_folder(int dir) {
  // A stream of its own: readdir moves the descriptor.
  const int copy = ::openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (copy < 0) return errno_status(errno, "list folder");
  const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(copy), ::closedir);
  if (stream == nullptr) {
    const int err = errno;
    ::close(copy);
    return errno_status(err, "list folder");
  }
  std::vector<std::string> names;
  errno = 0;
  while (const dirent* entry = ::readdir(stream.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
    errno = 0;
  }
  if (errno != 0) return errno_status(errno, "list folder");
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status walk(int top, std::size_t max_depth,
                  const std::function<absl::Status(const FoundEntry&)>& visit) {
  return walk_in(top, "", std::min(max_depth, kDeepest), visit);
}

absl::Status remove_tree(int parent, const std::string& name) {
  if (::unlinkat(parent, name.c_str(), 0) == 0 || errno == ENOENT) return absl::OkStatus();
  if (errno != EISDIR && errno != EPERM) return errno_status(errno, absl::StrCat("remove ", name));
  {
    const UniqueFd dir = open_beneath(parent, name, O_RDONLY | O_DIRECTORY);
    if (!dir) return errno_status(errno, absl::StrCat("remove ", name));
    // Half unpacked by somebody without rights of its own, perhaps: what we remove, we may.
    (void)::fchmod(dir.get(), 0700);
    absl::StatusOr<std::vector<std::string>> names = list_folder(dir.get());
    if (!names.ok()) return names.status();
    for (const std::string& inner : *names) {
      if (absl::Status status = remove_tree(dir.get(), inner); !status.ok()) return status;
    }
  }
  if (::unlinkat(parent, name.c_str(), AT_REMOVEDIR) == 0 || errno == ENOENT) return absl::OkStatus();
  return errno_status(errno, absl::StrCat("remove ", name));
}

absl::Status write_all(int fd, const void* data, std::size_t size) {
  const char* at = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t n = ::write(fd, at, size);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) return errno_status(n < 0 ? errno : EIO, "write");
    at += n;
    size -= static_cast<std::size_t>(n);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::uint64_t> disk_bytes(int top) {
  std::uint64_t bytes = 0;
  absl::Status status = walk(top, kDeepest, [&](const FoundEntry& entry) {
    bytes += std::max<std::uint64_t>(in_blocks(static_cast<std::uint64_t>(entry.info.st_size)), 4096);
    return absl::OkStatus();
  });
  if (!status.ok()) return status;
  return bytes;
}

}  // namespace faaskit::code
