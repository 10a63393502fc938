#include "cgroup/instance.h"

#include <dirent.h>
#include <fcntl.h>
#include <poll.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstdlib>
#include <utility>

#include <absl/strings/str_cat.h>

#include "cgroup/files.h"
#include "support/errno_status.h"

namespace faaskit::cgroup {
namespace {

using namespace std::chrono_literals;

// A guardian gives up after 5 s; a little more than that.
constexpr auto kGuardianTime = 6s;

void pause_for(std::chrono::nanoseconds time) {
  timespec left{0, static_cast<long>(time.count())};
  ::nanosleep(&left, nullptr);
}

// The lock of instance directory `dir`; no descriptor: somebody else holds it.
absl::StatusOr<UniqueFd> try_lock(const std::string& dir) {
  const std::string path = dir + "/lock";
  // Through no link: neither to a directory that is not below ours, nor to another's file.
  UniqueFd place(::open(dir.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
  if (!place) return errno_status(errno, "open " + dir);
  UniqueFd lock(::openat(place.get(), "lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600));
  if (!lock) return errno_status(errno, "open " + path);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return UniqueFd();
    return errno_status(errno, "flock " + path);
  }
  // Between our open and our flock a guardian may have removed the file: then we hold a lock on nothing.
  struct stat held{}, there{};
  if (::fstat(lock.get(), &held) != 0 || ::stat(path.c_str(), &there) != 0 || held.st_ino != there.st_ino ||
      held.st_dev != there.st_dev)
    return absl::NotFoundError(absl::StrCat(path, " was removed while it was being locked"));
  if (!S_ISREG(held.st_mode)) return absl::FailedPreconditionError(absl::StrCat(path, " is no file of ours"));
  return lock;
}

// Whether `dir` is an instance's directory: it has a record, or nothing yet but the lock.
bool is_ours(const std::string& dir) {
  if (::access((dir + "/groups").c_str(), F_OK) == 0) return true;
  const std::unique_ptr<DIR, int (*)(DIR*)> list(::opendir(dir.c_str()), &::closedir);
  if (!list) return false;
  while (const dirent* entry = ::readdir(list.get())) {
    const std::string_view name = entry->d_name;
    if (name != "." && name != ".." && name != "lock") return false;
  }
  return true;
}

// The record has "try:PATH 0" before a group is made, and "KIND:PATH INODE" after. It is trusted only as far
// as it names groups that can be this instance's, and that are the very ones it made: after a restart of the
// machine, say, the same path may be somebody else's. Yields the guardian's arguments.
std::vector<std::string> read_record(const std::string& dir, const std::string& name) {
  std::vector<std::string> groups;
  std::string tried;
  const std::string ending = "/" + group_name(name);
  for (const std::string& line : split(read_text(AT_FDCWD, dir + "/groups").value_or(""), '\n')) {
    const std::size_t colon = line.find(":/");
    const std::size_t blank = line.rfind(' ');
    if (colon == std::string::npos || blank == std::string::npos || blank < colon) continue;
    const std::string kind = line.substr(0, colon);
    const std::string path = line.substr(colon + 1, blank - colon - 1);
    if (path.size() <= ending.size() || path.compare(path.size() - ending.size(), ending.size(), ending) != 0)
      continue;
    if (kind == "try") {
      tried = path;
      continue;
    }
    if (kind != "v2" && kind != "v1" && kind != "v1f") continue;
    if (path == tried) tried.clear();
    struct stat info{};
    if (::stat(path.c_str(), &info) == 0 &&
        parse_number(line.substr(blank + 1)) == std::uint64_t{info.st_ino})
      groups.push_back(absl::StrCat(kind, ":", path));
  }
  // It died in the very moment of making it. Only an empty group can go like this.
  if (!tried.empty()) ::rmdir(tried.c_str());
  return groups;
}

// The guardian unlinks the lock when all else is gone.
bool lock_unlinked(int lock) {
  struct stat info{};
  return ::fstat(lock, &info) == 0 && info.st_nlink == 0;
}

absl::StatusOr<spawner::Child> start_guardian(int image, int pipe, int lock, int host,
                                              const std::vector<std::string>& arguments) {
  spawner::SpawnParams params;
  params.image = image;
  params.argv = {"faaskit-guardian"};
  params.argv.insert(params.argv.end(), arguments.begin(), arguments.end());
  params.fds = {pipe, lock};
  if (host >= 0) params.fds.push_back(host);
  return spawner::spawn(params);
}

// The guardian's work, done now and waited for.
absl::Status clear_now(int image, int lock, const std::vector<std::string>& arguments) {
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_status(errno, "pipe");
  UniqueFd read_end(ends[0]);
  ::close(ends[1]);
  absl::StatusOr<spawner::Child> guardian = start_guardian(image, read_end.get(), lock, -1, arguments);
  if (!guardian.ok()) return guardian.status();
  if (!spawner::wait_and_reap(guardian->pidfd.get(), std::chrono::milliseconds(kGuardianTime).count())) {
    spawner::kill_and_reap(*guardian);
    return absl::FailedPreconditionError("the clean-up of an instance did not end within 6 s");
  }
  // What is left decides: an application that waits for every child may have taken the status.
  if (lock_unlinked(lock)) return absl::OkStatus();
  return absl::FailedPreconditionError("something of an instance would not go within 5 s");
}

void unmount_below(const std::string& dir) {
  // The kernel knows the place without symbolic links.
  const std::unique_ptr<char, decltype(&std::free)> real(::realpath(dir.c_str(), nullptr), &std::free);
  if (!real) return;
  const std::string prefix = std::string(real.get()) + "/";
  for (const std::string& line : split(read_text(AT_FDCWD, "/proc/self/mountinfo").value_or(""), '\n')) {
    const std::vector<std::string> fields = split(line, ' ');
    if (fields.size() <= 4) continue;
    const std::string mount = unescape(fields[4]);
    if (mount.rfind(prefix, 0) == 0) ::umount2(mount.c_str(), MNT_DETACH | UMOUNT_NOFOLLOW);
  }
}

// With the lock held: removes what the record names, and the directory.
absl::Status clear_dead(const std::string& dir, const std::string& name, int lock) {
  absl::StatusOr<UniqueFd> image = spawner::make_image();
  if (!image.ok()) return image.status();
  unmount_below(dir);
  std::vector<std::string> arguments = read_record(dir, name);
  arguments.push_back("run:" + dir);
  return clear_now(image->get(), lock, arguments);
}

}  // namespace

std::string group_name(const std::string& instance) { return "faaskit-" + instance; }

absl::Status validate_instance(const std::string& name) {
  bool good = !name.empty() && name.size() <= 48;
  for (const char c : name) good = good && ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-');
  if (good) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("instance '", name, "': must be 1 to 48 of [a-z0-9-]"));
}

absl::StatusOr<std::string> checked_runtime_dir(const std::string& given) {
  // The guardian works from another directory than we do.
  if (given.empty() || given[0] != '/')
    return absl::InvalidArgumentError(absl::StrCat("runtime_dir '", given, "': must begin with '/'"));
  std::string path = given;
  while (path.size() > 1 && path.back() == '/') path.pop_back();
  struct stat info{};
  if (::lstat(path.c_str(), &info) != 0) return errno_status(errno, "lstat " + path);
  if (!S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 022) != 0)
    return absl::FailedPreconditionError(
        absl::StrCat("runtime directory ", path, " must be a directory of ours that nobody else may write"));
  return path;
}

absl::StatusOr<std::unique_ptr<Instance>> Instance::open(const std::string& runtime_dir,
                                                         const std::string& name) {
  absl::StatusOr<std::string> parent = checked_runtime_dir(runtime_dir);
  if (absl::IsNotFound(parent.status())) {
    if (::mkdir(runtime_dir.c_str(), 0700) != 0 && errno != EEXIST)
      return errno_status(errno, "mkdir " + runtime_dir);
    parent = checked_runtime_dir(runtime_dir);
  }
  if (!parent.ok()) return parent.status();
  const std::string dir = *parent + "/" + name;
  std::unique_ptr<Instance> self(new Instance);

  const auto deadline = std::chrono::steady_clock::now() + kGuardianTime;
  for (;;) {
    if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) return errno_status(errno, "mkdir " + dir);
    absl::StatusOr<UniqueFd> lock = try_lock(dir);
    if (!lock.ok() && !absl::IsNotFound(lock.status())) return lock.status();
    if (lock.ok() && *lock) {
      if (!is_ours(dir))
        return absl::AlreadyExistsError(absl::StrCat(dir, " is no instance's directory: it has no record"));
      if (::access((dir + "/groups").c_str(), F_OK) != 0) {
        self->lock_ = *std::move(lock);
        break;
      }
      // A namesake died. Its directory goes with the rest, so the next round makes and locks a new one.
      if (absl::Status status = clear_dead(dir, name, lock->get()); !status.ok()) return status;
    } else {
      pause_for(5ms);
    }
    if (std::chrono::steady_clock::now() > deadline)
      return absl::AlreadyExistsError(
          absl::StrCat("instance '", name, "' is alive: ", dir, "/lock is held after 6 s"));
  }
  self->dir_ = dir;
  self->arguments_ = {"run:" + dir};
  absl::StatusOr<UniqueFd> image = spawner::make_image();
  if (!image.ok()) return image.status();
  self->image_ = *std::move(image);
  self->record_.reset(::open((dir + "/groups").c_str(),
                             O_WRONLY | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!self->record_) return errno_status(errno, "open " + dir + "/groups");
  return self;
}

absl::StatusOr<UniqueFd> Instance::make_group(const std::string& kind, const std::string& path) {
  const auto note = [&](const std::string& line) {
    const ssize_t wrote = ::write(record_.get(), line.data(), line.size());
    if (wrote == static_cast<ssize_t>(line.size())) return absl::OkStatus();
    return errno_status(wrote < 0 ? errno : ENOSPC, "write " + dir_ + "/groups");
  };
  if (absl::Status status = note(absl::StrCat("try:", path, " 0\n")); !status.ok()) return status;
  if (::mkdir(path.c_str(), 0755) != 0) {
    if (errno == EEXIST)
      return absl::AlreadyExistsError(absl::StrCat(
          "mkdir ", path,
          ": it is another host's of the same instance name, with a runtime directory of its own"));
    return errno_status(errno, "mkdir " + path);
  }
  arguments_.push_back(kind + ":" + path);
  UniqueFd group(::open(path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  struct stat info{};
  if (!group || ::fstat(group.get(), &info) != 0) return errno_status(errno, "open " + path);
  if (absl::Status status = note(absl::StrCat(kind, ":", path, " ", std::uint64_t{info.st_ino}, "\n"));
      !status.ok())
    return status;
  return group;
}

// A socket and not a pipe: its end can be told even while a process that the application forked holds it.
absl::Status Instance::start_guardian() {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return errno_status(errno, "socketpair");
  UniqueFd theirs(ends[0]), ours(ends[1]);
  UniqueFd host(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!host) return errno_status(errno, "pidfd_open of this process");
  absl::StatusOr<spawner::Child> guardian =
      cgroup::start_guardian(image_.get(), theirs.get(), lock_.get(), host.get(), arguments_);
  if (!guardian.ok()) return guardian.status();
  guardian_ = *std::move(guardian);
  control_ = std::move(ours);
  return absl::OkStatus();
}

absl::StatusOr<bool> Instance::ensure_guardian() {
  std::lock_guard guard(guardian_mutex_);
  if (guardian_.pidfd) {
    if (!spawner::wait_and_reap(guardian_.pidfd.get(), 0)) return false;
    guardian_.pidfd.reset();
  }
  if (absl::Status status = start_guardian(); !status.ok()) return status;
  return true;
}

Instance::~Instance() { (void)close(); }

absl::Status Instance::close() {
  if (!lock_) return absl::OkStatus();
  if (control_) ::shutdown(control_.get(), SHUT_RDWR);
  control_.reset();
  if (guardian_.pidfd) {
    if (!spawner::wait_and_reap(guardian_.pidfd.get(), std::chrono::milliseconds(kGuardianTime).count()))
      spawner::kill_and_reap(guardian_);
    guardian_.pidfd.reset();
  }
  // It may have been killed before its time, or never have been started. If it has finished, the name is free
  // and may be somebody else's by now.
  absl::Status result = absl::OkStatus();
  if (!lock_unlinked(lock_.get())) result = clear_now(image_.get(), lock_.get(), arguments_);
  lock_.reset();
  return result;
}

Swept sweep_instance(const std::string& runtime_dir, const std::string& name, std::string& detail) {
  const std::string dir = runtime_dir + "/" + name;
  if (::access((dir + "/lock").c_str(), F_OK) != 0) {
    // Somebody is just making it, or died while doing so: an empty directory, or nothing of ours.
    ::rmdir(dir.c_str());
    return Swept::alive;
  }
  absl::StatusOr<UniqueFd> lock = try_lock(dir);
  if (!lock.ok()) {
    if (absl::IsNotFound(lock.status())) return Swept::alive;  // its guardian finished under our eyes
    detail = std::string(lock.status().message());
    return Swept::failed;
  }
  if (!*lock || !is_ours(dir)) return Swept::alive;
  if (absl::Status status = clear_dead(dir, name, lock->get()); !status.ok()) {
    detail = absl::StrCat(dir, ": ", std::string(status.message()));
    return Swept::failed;
  }
  return Swept::removed;
}

}  // namespace faaskit::cgroup
