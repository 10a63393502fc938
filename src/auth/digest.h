// Private: what the room needs of OpenSSL in more than one place.
#pragma once

#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/rand.h>

#include <array>
#include <cstddef>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace faaskit::auth {

using Digest = std::array<unsigned char, 32>;

// False where OpenSSL has no SHA-256, or no memory.
inline bool sha256(std::string_view bytes, Digest& out) {
  std::size_t size = 0;
  const bool ok =
      EVP_Q_digest(nullptr, "SHA256", nullptr, bytes.data(), bytes.size(), out.data(), &size) == 1 &&
      size == out.size();
  // OpenSSL's errors wait in the thread for whoever looks next: not for others to find.
  if (!ok) ERR_clear_error();
  return ok;
}

inline absl::StatusOr<std::string> random_bytes(std::size_t count) {
  std::string bytes(count, '\0');
  if (RAND_priv_bytes(reinterpret_cast<unsigned char*>(bytes.data()), static_cast<int>(count)) == 1)
    return bytes;
  ERR_clear_error();
  return absl::InternalError("no random bytes: OpenSSL's generator failed");
}

inline std::string hex(const unsigned char* bytes, std::size_t count) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string text;
  for (std::size_t i = 0; i < count; ++i) {
    text.push_back(kDigits[bytes[i] >> 4]);
    text.push_back(kDigits[bytes[i] & 15]);
  }
  return text;
}

}  // namespace faaskit::auth
