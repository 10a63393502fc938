#include "faaskit/auth/keys.h"

#include <algorithm>
#include <cctype>

#include "auth/base64url.h"
#include "auth/digest.h"

namespace faaskit::auth {
namespace {

constexpr std::string_view kPrefix = "fk_";
constexpr std::size_t kSecretBytes = 32;
constexpr std::size_t kTextSize = 3 + 43;
constexpr std::string_view kHashPrefix = "v1:sha256:";

bool is_key(std::string_view text) {
  return text.size() == kTextSize && text.substr(0, kPrefix.size()) == kPrefix &&
         from_base64url(text.substr(kPrefix.size())).has_value();
}

// Not a part of the hash: who reads ids in logs should not learn even that much of it.
absl::StatusOr<std::string> id_of(std::string_view text) {
  Digest digest;
  if (!sha256("faaskit access key id:" + std::string(text), digest))
    return absl::InternalError("OpenSSL has no SHA-256");
  return "k-" + hex(digest.data(), 6);
}

bool same_letters(std::string_view text, std::string_view lower) {
  return text.size() == lower.size() &&
         std::equal(text.begin(), text.end(), lower.begin(),
                    [](char a, char b) { return std::tolower(static_cast<unsigned char>(a)) == b; });
}

// RFC 6750's b68token: letters, then any number of '='.
bool is_bearer_letter(char c) { return is_base64url(c) || c == '.' || c == '~' || c == '+' || c == '/'; }

}  // namespace

absl::StatusOr<NewAccessKey> make_access_key() {
  absl::StatusOr<std::string> secret = random_bytes(kSecretBytes);
  if (!secret.ok()) return secret.status();
  NewAccessKey key;
  key.text = std::string(kPrefix) + base64url(*secret);
  OPENSSL_cleanse(secret->data(), secret->size());
  absl::StatusOr<std::string> id = id_of(key.text);
  if (!id.ok()) return id.status();
  key.id = *std::move(id);
  Digest digest;
  if (!sha256(key.text, digest)) return absl::InternalError("OpenSSL has no SHA-256");
  key.hash = std::string(kHashPrefix) + hex(digest.data(), digest.size());
  return key;
}

absl::StatusOr<std::string> access_key_id(std::string_view text) {
  if (!is_key(text)) return absl::InvalidArgumentError("not an access key");
  return id_of(text);
}

bool verify_access_key(std::string_view text, std::string_view hash) {
  Digest digest;
  if (!is_key(text) || hash.size() != kHashPrefix.size() + 2 * digest.size() ||
      hash.substr(0, kHashPrefix.size()) != kHashPrefix || !sha256(text, digest))
    return false;
  const std::string expected = hex(digest.data(), digest.size());
  return CRYPTO_memcmp(expected.data(), hash.data() + kHashPrefix.size(), expected.size()) == 0;
}

std::string redact(std::string_view text) {
  constexpr std::string_view kBearer = "bearer ";
  constexpr std::string_view kTokenPrefix = "fa_";
  constexpr std::size_t kTokenLetters = 16;  // fewer may be a word, and give nothing away
  std::string out;
  out.reserve(text.size());
  for (std::size_t i = 0; i < text.size();) {
    if (same_letters(text.substr(i, kBearer.size()), kBearer)) {
      out.append(text.substr(i, kBearer.size()));
      i += kBearer.size();
      while (i < text.size() && text[i] == ' ') ++i;
      const std::size_t begin = i;
      while (i < text.size() && (is_bearer_letter(text[i]) || text[i] == '=')) ++i;
      if (i > begin) out += "[redacted]";
      continue;
    }
    if (text.substr(i, kPrefix.size()) == kPrefix) {
      std::size_t end = i + kPrefix.size();
      while (end < text.size() && is_base64url(text[end])) ++end;
      // A key with letters missing or added is nearly a key: it does not go to a log either.
      const absl::StatusOr<std::string> id = access_key_id(text.substr(i, end - i));
      out += id.ok() ? "fk_[" + *id + "]" : std::string("fk_[redacted]");
      i = end;
      continue;
    }
    // The admin token: its letters are all there is to it.
    if (text.substr(i, kTokenPrefix.size()) == kTokenPrefix) {
      std::size_t end = i + kTokenPrefix.size();
      while (end < text.size() && is_base64url(text[end])) ++end;
      if (end - i >= kTokenPrefix.size() + kTokenLetters) {
        out += "fa_[redacted]";
        i = end;
        continue;
      }
    }
    out.push_back(text[i++]);
  }
  return out;
}

absl::StatusOr<std::string_view> parse_bearer(std::string_view header) {
  constexpr std::string_view kScheme = "bearer";
  if (!same_letters(header.substr(0, kScheme.size()), kScheme) || header.size() <= kScheme.size() ||
      header[kScheme.size()] != ' ')
    return absl::UnauthenticatedError("the Authorization header must be 'Bearer <token>'");
  std::string_view token = header.substr(kScheme.size());
  while (!token.empty() && token.front() == ' ') token.remove_prefix(1);
  std::size_t letters = 0;
  while (letters < token.size() && is_bearer_letter(token[letters])) ++letters;
  if (letters == 0 || token.find_first_not_of('=', letters) != std::string_view::npos)
    return absl::UnauthenticatedError("the Authorization header's token holds what a token cannot hold");
  return token;
}

}  // namespace faaskit::auth
