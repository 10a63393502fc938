#include "faaskit/auth/admin_token.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "auth/base64url.h"
#include "auth/digest.h"
#include "faaskit/port/unique_fd.h"
#include "support/errno_status.h"

namespace faaskit::auth {
namespace {

constexpr std::size_t kMinLetters = 22;  // 132 bits
constexpr std::size_t kMaxLetters = 256;

std::string file_name(const std::string& path) { return absl::StrCat("admin token file ", path); }

absl::Status write_all(int file, std::string_view text, const std::string& what) {
  while (!text.empty()) {
    const ssize_t wrote = ::write(file, text.data(), text.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) return errno_status(errno, what);
    text.remove_prefix(static_cast<std::size_t>(wrote));
  }
  return absl::OkStatus();
}

// Written aside and then linked: nobody ever reads half a token, and of two who make it one wins.
absl::Status make_file(const std::string& path) {
  absl::StatusOr<std::string> token = random_bytes(32);
  absl::StatusOr<std::string> suffix = random_bytes(9);
  if (!token.ok()) return token.status();
  if (!suffix.ok()) return suffix.status();
  const std::string aside = absl::StrCat(path, ".new-", base64url(*suffix));
  UniqueFd file(::open(aside.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (!file) return errno_status(errno, absl::StrCat("make ", file_name(path)));
  absl::Status status = write_all(file.get(), absl::StrCat("fa_", base64url(*token), "\n"),
                                  absl::StrCat("write ", file_name(path)));
  OPENSSL_cleanse(token->data(), token->size());
  if (status.ok() && ::fsync(file.get()) != 0)
    status = errno_status(errno, absl::StrCat("sync ", file_name(path)));
  if (status.ok() && ::link(aside.c_str(), path.c_str()) != 0 && errno != EEXIST)
    status = errno_status(errno, absl::StrCat("make ", file_name(path)));
  ::unlink(aside.c_str());
  return status;
}

absl::StatusOr<std::string> read_token(int file, const std::string& path) {
  struct stat info{};
  if (::fstat(file, &info) != 0) return errno_status(errno, absl::StrCat("stat ", file_name(path)));
  if (!S_ISREG(info.st_mode))
    return absl::FailedPreconditionError(absl::StrCat(file_name(path), " is not a regular file"));
  if (info.st_uid != ::geteuid())
    return absl::PermissionDeniedError(absl::StrFormat("%s belongs to uid %d, not to us (uid %d)",
                                                       file_name(path), info.st_uid, ::geteuid()));
  if ((info.st_mode & 077) != 0)
    return absl::PermissionDeniedError(absl::StrFormat("%s has mode %04o: others may use it; make it 0600",
                                                       file_name(path), info.st_mode & 07777));
  std::string text(kMaxLetters + 2, '\0');
  std::size_t size = 0;
  while (size < text.size()) {
    const ssize_t got = ::read(file, text.data() + size, text.size() - size);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return errno_status(errno, absl::StrCat("read ", file_name(path)));
    if (got == 0) break;
    size += static_cast<std::size_t>(got);
  }
  text.resize(size);
  if (!text.empty() && text.back() == '\n') text.pop_back();
  if (text.size() < kMinLetters || text.size() > kMaxLetters ||
      !std::all_of(text.begin(), text.end(), is_base64url))
    return absl::FailedPreconditionError(
        absl::StrFormat("%s holds no token: %d to %d characters of [A-Za-z0-9_-]", file_name(path),
                        kMinLetters, kMaxLetters));
  return text;
}

}  // namespace

bool AdminToken::verify(std::string_view presented) const {
  Digest digest;
  return sha256(presented, digest) && CRYPTO_memcmp(digest.data(), digest_.data(), digest.size()) == 0;
}

absl::StatusOr<AdminToken> load_or_make_admin_token(const std::string& path) {
  const auto open = [&] {
    // Not blocking, should it be a pipe that nobody writes.
    return UniqueFd(::open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK));
  };
  UniqueFd file = open();
  if (!file && errno == ENOENT) {
    if (absl::Status made = make_file(path); !made.ok()) return made;
    file = open();
  }
  if (!file && errno == ELOOP)
    return absl::FailedPreconditionError(absl::StrCat(file_name(path), " is a symbolic link"));
  if (!file) return errno_status(errno, absl::StrCat("open ", file_name(path)));
  absl::StatusOr<std::string> text = read_token(file.get(), path);
  if (!text.ok()) return text.status();
  AdminToken token;
  const bool digested = sha256(*text, token.digest_);
  OPENSSL_cleanse(text->data(), text->size());
  if (!digested) return absl::InternalError("OpenSSL has no SHA-256");
  return token;
}

}  // namespace faaskit::auth
