// Private: what errno means to a caller (style: answer "what should the caller do now?").
#pragma once

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include <absl/status/status.h>

namespace faaskit {

inline absl::StatusCode errno_code(int err) {
  switch (err) {
    case EACCES:
    case EPERM:
    case EROFS: return absl::StatusCode::kPermissionDenied;
    case ENOENT:
    case ESRCH: return absl::StatusCode::kNotFound;
    case EEXIST: return absl::StatusCode::kAlreadyExists;
    case EAGAIN:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
    case ENOSPC:
    case EDQUOT: return absl::StatusCode::kResourceExhausted;
    case ECONNREFUSED:
    case ECONNRESET:
    case EPIPE:
    case ENOTCONN: return absl::StatusCode::kUnavailable;
    case EINVAL:
    case ENAMETOOLONG: return absl::StatusCode::kInvalidArgument;
    case EBUSY:
    case ENODEV:
    case ENOSYS:
    case EOPNOTSUPP: return absl::StatusCode::kFailedPrecondition;
    default: return absl::StatusCode::kInternal;
  }
}

// "what: No such file or directory". `what` names the operation and its operand.
inline absl::Status errno_status(int err, std::string what) {
  what += ": ";
  what += std::strerror(err);
  return absl::Status(errno_code(err), what);
}

}  // namespace faaskit
