#include "state.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <thread>

#include <absl/strings/str_cat.h>

namespace mini {
namespace {

constexpr auto kLockPatience = std::chrono::seconds(3);
constexpr const char* kPrefix = "body-";

absl::Status failed(const std::string& what) {
  const int error = errno;
  const std::string message = absl::StrCat(what, ": ", std::strerror(error));
  switch (error) {
    case EACCES:
    case EPERM:
    case EROFS: return absl::PermissionDeniedError(message);
    case ENOENT: return absl::NotFoundError(message);
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE: return absl::ResourceExhaustedError(message);
    default: return absl::InternalError(message);
  }
}

}  // namespace

absl::StatusOr<State> State::open(std::string folder) {
  State state;
  std::error_code error;
  state.folder_ = std::filesystem::absolute(folder, error).lexically_normal().string();
  while (state.folder_.size() > 1 && state.folder_.ends_with('/')) state.folder_.pop_back();
  std::filesystem::create_directories(std::filesystem::path(state.folder_).parent_path(), error);
  if (::mkdir(state.folder_.c_str(), 0700) != 0 && errno != EEXIST) return failed("make " + state.folder_);
  const std::string lock = state.path("lock");
  state.lock_ = faaskit::UniqueFd(::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600));
  if (state.lock_.get() < 0) return failed("open " + lock);
  // A predecessor that was killed while it started a process: its child has the lock until it becomes another
  // program, a moment later.
  const auto deadline = std::chrono::steady_clock::now() + kLockPatience;
  while (::flock(state.lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (std::chrono::steady_clock::now() > deadline) {
      return absl::FailedPreconditionError(absl::StrCat(
          state.folder_, " is in use by another faaskit-mini; --state-dir chooses another folder"));
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  const std::string incoming = state.path("incoming");
  if (::mkdir(incoming.c_str(), 0700) != 0 && errno != EEXIST) return failed("make " + incoming);
  // Of a predecessor that was killed. Only what is named as ours are: the folder may have been somebody's.
  for (const auto& entry : std::filesystem::directory_iterator(incoming, error)) {
    if (Incoming::is_name(entry.path().filename().string())) ::unlink(entry.path().c_str());
  }
  if (error) return absl::FailedPreconditionError(absl::StrCat("read ", incoming, ": ", error.message()));
  return state;
}

absl::StatusOr<Incoming> Incoming::make(const State& state) {
  static std::atomic<std::uint64_t> counter{0};
  Incoming incoming;
  incoming.path_ = absl::StrCat(state.path("incoming"), "/", kPrefix, ++counter);
  incoming.file_ =
      faaskit::UniqueFd(::open(incoming.path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (incoming.file_.get() < 0) return failed("make a file in incoming/");
  return incoming;
}

bool Incoming::is_name(std::string_view name) { return name.starts_with(kPrefix); }

Incoming::~Incoming() {
  if (file_.get() >= 0) ::unlink(path_.c_str());
}

absl::Status Incoming::append(const void* data, std::size_t size) {
  const char* next = static_cast<const char*>(data);
  while (size > 0) {
    const ssize_t written = ::write(file_.get(), next, size);
    if (written < 0) {
      if (errno == EINTR) continue;
      return failed("write the body to disk");
    }
    next += written;
    size -= static_cast<std::size_t>(written);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> read_small_file(const std::string& path, std::size_t max_bytes) {
  const faaskit::UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK));
  if (file.get() < 0) return failed(path);
  struct stat info{};
  if (::fstat(file.get(), &info) != 0) return failed(path);
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": not a file"));
  std::string text(max_bytes + 1, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = ::read(file.get(), text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return failed(path);
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  if (size > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": longer than ", max_bytes, " bytes"));
  }
  text.resize(size);
  return text;
}

}  // namespace mini
