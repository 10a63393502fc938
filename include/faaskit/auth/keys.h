// Access keys: what a caller of a function shows, and what is kept of it.
//
// A key's text is "fk_" and 32 random bytes in base64url (46 characters). Only its hash is kept: SHA-256, not
// stretched, because there is nothing to guess: a password has perhaps 40 bits, this has 256.
// The text is a secret: hand it out once, and give redact() what goes to a log.
// Thread safety: all of it, from any thread.
#pragma once

#include <string>
#include <string_view>

#include <absl/status/statusor.h>

#include "faaskit/core/export.h"

namespace faaskit::auth {

struct NewAccessKey {
  std::string text{};  // secret: shown once
  std::string id{};    // "k-" and 12 hexadecimal digits; follows from the text, and tells nothing of it
  std::string hash{};  // "v1:sha256:" and 64 hexadecimal digits
};

// kInternal: the system gave no random bytes.
FAASKIT_EXPORT absl::StatusOr<NewAccessKey> make_access_key();

// The id of the key with this text, for logs and records. kInvalidArgument: not a key.
FAASKIT_EXPORT absl::StatusOr<std::string> access_key_id(std::string_view text);

// Whether `text` is the key that `hash` was made of. In constant time for what is a key at all; false for
// what is not, and for a hash of an unknown form.
FAASKIT_EXPORT bool verify_access_key(std::string_view text, std::string_view hash);

// `text` with every access key in it replaced by "fk_[k-...]", admin tokens by "fa_[redacted]", and what
// follows "Bearer " by "[redacted]".
FAASKIT_EXPORT std::string redact(std::string_view text);

// The credential of an Authorization header, "Bearer <token>": the scheme in any case, one or more blanks,
// and nothing but the letters RFC 6750 allows. A view into `header`.
//   kUnauthenticated  another scheme, or not of this form; the message holds nothing of the header
FAASKIT_EXPORT absl::StatusOr<std::string_view> parse_bearer(std::string_view header);

}  // namespace faaskit::auth
