// JwtVerifier: who signed this token, about whom, for whom, until when (RFC 7515, 7519, 8037, 8725).
//
// Strict on purpose: compact form only; base64url without padding and with no stray bits; JSON without
// duplicate names; no "crit"; "exp", "sub" and "aud" required. The algorithm is the key's, never the
// token's: a key is tried only for the algorithm it was configured with, so that a public key is never
// taken for a secret. Keys and addresses of keys inside a token are not looked at.
// A subject is what its issuer calls somebody: do not take it for a name of your own ("admin").
// Thread safety: verify() from any thread; it does no I/O.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "faaskit/core/export.h"

namespace faaskit::auth {

//   hs256  HMAC with SHA-256: `material` is the secret, at least 32 bytes
//   rs256  RSASSA-PKCS1-v1_5 with SHA-256: `material` is a public key in PEM, at least 2048 bits
//   eddsa  Ed25519 only: `material` is a public key in PEM
enum class JwtAlgorithm : std::uint8_t { hs256, rs256, eddsa };
FAASKIT_EXPORT std::string_view to_string(JwtAlgorithm algorithm);  // as in a token: "HS256"

struct JwtKey {
  JwtAlgorithm algorithm = JwtAlgorithm::rs256;
  std::string material{};
  // A token that names a "kid" is checked with the keys of that id, and with those that have none.
  std::string key_id{};
};

struct JwtOptions {
  // -- Correctness
  std::vector<JwtKey> keys{};  // 1 to 16
  std::string audience{};      // required: a token for somebody else is not for us
  std::optional<std::string> issuer{};
  // How far the issuer's clock and ours may be apart.
  std::chrono::seconds leeway{30};
  // -- Bounds
  std::size_t max_token_bytes = 8192;
};

struct JwtClaims {
  std::string subject{};  // 1 to 255 bytes of UTF-8 without control characters: fit for a header
  std::string issuer{};   // may be empty if none was asked for
  std::string id{};       // "jti"; may be empty
  std::chrono::system_clock::time_point expires{};
  std::optional<std::chrono::system_clock::time_point> issued_at{};
  std::string payload{};  // the claims, all of them, as JSON: verified
};

class FAASKIT_EXPORT JwtVerifier {
 public:
  JwtVerifier(const JwtVerifier&) = delete;
  JwtVerifier& operator=(const JwtVerifier&) = delete;
  virtual ~JwtVerifier() = default;

  // kUnauthenticated says why; the message holds nothing of the token or the keys, and may be answered.
  virtual absl::StatusOr<JwtClaims> verify(std::string_view token,
                                           std::chrono::system_clock::time_point now) const = 0;

 protected:
  JwtVerifier() = default;
};

// kInvalidArgument names the option or the key at fault (by its place, never by what is in it).
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<JwtVerifier>> make_jwt_verifier(JwtOptions options);

}  // namespace faaskit::auth
