#include "cgroup/instance.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
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
  UniqueFd lock(::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (!lock) return errno_status(errno, "open " + path);
  if (::flock(lock.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return UniqueFd();
    return errno_status(errno, "flock " + path);
  }
  // Between our open and our flock a guardian may have removed the file: then we hold a lock on nothing.
  struct stat held {}, there {};
  if (::fstat(lock.get(), &held) != 0 || ::stat(path.c_str(), &there) != 0 || held.st_ino != there.st_ino ||
      held.st_dev != there.st_dev)
    return absl::NotFoundError(absl::StrCat(path, " was removed while it was being locked"));
  return lock;
}

absl::Status check_runtime_dir(const std::string& path) {
  if (::mkdir(path.c_str(), 0700) != 0 && errno != EEXIST) return errno_status(errno, "mkdir " + path);
  struct stat info {};
  if (::lstat(path.c_str(), &info) != 0) return errno_status(errno, "lstat " + path);
  if (!S_ISDIR(info.st_mode) || info.st_uid != ::geteuid() || (info.st_mode & 022) != 0)
    return absl::FailedPreconditionError(
        absl::StrCat("runtime directory ", path, " must be a directory of ours that nobody else may write"));
  return absl::OkStatus();
}

// The record is trusted only as far as it names groups that can be this instance's.
std::vector<std::string> read_record(const std::string& dir, const std::string& name) {
  std::vector<std::string> groups;
  const std::string ending = "/" + group_name(name);
  for (const std::string& line : split(read_text(AT_FDCWD, dir + "/groups").value_or(""), '\n')) {
    const bool known = line.rfind("v2:/", 0) == 0 || line.rfind("v1:/", 0) == 0 || line.rfind("v1f:/", 0) == 0;
    if (known && line.size() > ending.size() && line.compare(line.size() - ending.size(), ending.size(), ending) == 0)
      groups.push_back(line);
  }
  return groups;
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
  int status = -1;
  if (!spawner::wait_and_reap(guardian->pidfd.get(), std::chrono::milliseconds(kGuardianTime).count(), &status)) {
    spawner::kill_and_reap(*guardian);
    return absl::FailedPreconditionError("the clean-up of an instance did not end within 6 s");
  }
  // -1: reaped by an application that waits for every child. What is left decides.
  if (status > 0) return absl::FailedPreconditionError("something of an instance would not go within 5 s");
  return absl::OkStatus();
}

void unmount_below(const std::string& dir) {
  const std::string prefix = dir + "/";
  for (const std::string& line : split(read_text(AT_FDCWD, "/proc/self/mountinfo").value_or(""), '\n')) {
    const std::vector<std::string> fields = split(line, ' ');
    if (fields.size() > 4 && fields[4].rfind(prefix, 0) == 0) ::umount2(fields[4].c_str(), MNT_DETACH);
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

absl::StatusOr<std::unique_ptr<Instance>> Instance::open(const std::string& runtime_dir, const std::string& name,
                                                         const std::vector<std::string>& groups) {
  if (absl::Status status = check_runtime_dir(runtime_dir); !status.ok()) return status;
  const std::string dir = runtime_dir + "/" + name;
  std::unique_ptr<Instance> self(new Instance);

  const auto deadline = std::chrono::steady_clock::now() + kGuardianTime;
  while (!self->lock_) {
    if (::mkdir(dir.c_str(), 0700) != 0 && errno != EEXIST) return errno_status(errno, "mkdir " + dir);
    absl::StatusOr<UniqueFd> lock = try_lock(dir);
    if (!lock.ok() && !absl::IsNotFound(lock.status())) return lock.status();
    if (lock.ok() && *lock) {
      if (::access((dir + "/groups").c_str(), F_OK) != 0) {
        self->lock_ = *std::move(lock);
        break;
      }
      // A namesake died. Its directory goes with the rest, so the next round makes and locks a new one.
      if (absl::Status status = clear_dead(dir, name, lock->get()); !status.ok()) return status;
      continue;
    }
    if (std::chrono::steady_clock::now() > deadline)
      return absl::AlreadyExistsError(absl::StrCat("instance '", name, "' is alive: ", dir, "/lock is held after 6 s"));
    pause_for(5ms);
  }

  std::string record;
  for (const std::string& group : groups) absl::StrAppend(&record, group, "\n");
  {
    UniqueFd file(::open((dir + "/groups").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600));
    if (!file || ::write(file.get(), record.data(), record.size()) != static_cast<ssize_t>(record.size()))
      return errno_status(errno, "write " + dir + "/groups");
  }
  self->name_ = name;
  self->arguments_ = groups;
  self->arguments_.push_back("run:" + dir);

  absl::StatusOr<UniqueFd> image = spawner::make_image();
  if (!image.ok()) return image.status();
  self->image_ = *std::move(image);
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return errno_status(errno, "pipe");
  UniqueFd read_end(ends[0]);
  self->pipe_.reset(ends[1]);
  UniqueFd host(static_cast<int>(::syscall(SYS_pidfd_open, ::getpid(), 0)));
  if (!host) return errno_status(errno, "pidfd_open of this process");
  absl::StatusOr<spawner::Child> guardian =
      start_guardian(self->image_.get(), read_end.get(), self->lock_.get(), host.get(), self->arguments_);
  if (!guardian.ok()) return guardian.status();
  self->guardian_ = *std::move(guardian);
  return self;
}

Instance::~Instance() { (void)close(); }

absl::Status Instance::close() {
  if (!lock_) return absl::OkStatus();
  pipe_.reset();
  int status = -1;
  if (guardian_.pidfd) {
    if (!spawner::wait_and_reap(guardian_.pidfd.get(), std::chrono::milliseconds(kGuardianTime).count(), &status))
      spawner::kill_and_reap(guardian_);
    guardian_.pidfd.reset();
  }
  // It may have been killed before its time, or never have been started.
  absl::Status result = absl::OkStatus();
  if (status != 0 && image_) result = clear_now(image_.get(), lock_.get(), arguments_);
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
  if (!*lock) return Swept::alive;
  if (absl::Status status = clear_dead(dir, name, lock->get()); !status.ok()) {
    detail = absl::StrCat(dir, ": ", std::string(status.message()));
    return Swept::failed;
  }
  return Swept::removed;
}

}  // namespace faaskit::cgroup
