// The admin token: who may read one 0600 file may administer.
//
// Thread safety: verify() from any thread.
#pragma once

#include <array>
#include <string>
#include <string_view>

#include <absl/status/statusor.h>

#include "faaskit/core/export.h"

namespace faaskit::auth {

// Keeps a digest, not the token.
class FAASKIT_EXPORT AdminToken {
 public:
  // In constant time, whatever the length of `presented`.
  bool verify(std::string_view presented) const;

 private:
  friend FAASKIT_EXPORT absl::StatusOr<AdminToken> load_or_make_admin_token(const std::string& path);
  AdminToken() = default;
  std::array<unsigned char, 32> digest_{};
};

// Reads the token from the file; makes the file, 0600 and with 256 random bits ("fa_" and base64url), if
// there is none. Of two processes that make it at once, both get the same one. A token put there by hand is
// 22 to 256 characters of base64url, with or without a newline after it.
//   kPermissionDenied    others may read or write the file, or it belongs to another user, or we may not
//                        read it, or not write its folder
//   kFailedPrecondition  a symbolic link, not a file, or what is in it is no token
//   kNotFound            there is no such folder
//   kResourceExhausted   the disk is full
FAASKIT_EXPORT absl::StatusOr<AdminToken> load_or_make_admin_token(const std::string& path);

}  // namespace faaskit::auth
