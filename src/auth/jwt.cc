#include "faaskit/auth/jwt.h"

#include <openssl/bio.h>
#include <openssl/crypto.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "auth/base64url.h"
#include "json/json.h"

namespace faaskit::auth {
namespace {

namespace json = boost::json;
using Time = std::chrono::system_clock::time_point;

constexpr std::size_t kMaxKeys = 16;
constexpr std::size_t kMinSecretBytes = 32;
constexpr int kMinRsaBits = 2048;
constexpr std::size_t kMaxSubjectBytes = 255;

struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
struct FreeContext {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};
struct FreeBio {
  void operator()(BIO* bio) const { BIO_free(bio); }
};

struct Key {
  JwtAlgorithm algorithm = JwtAlgorithm::rs256;
  std::string id{};
  std::string secret{};                             // hs256
  std::unique_ptr<EVP_PKEY, FreeKey> public_key{};  // the others
};

absl::Status refuse(std::string_view why) {
  return absl::UnauthenticatedError(absl::StrCat("token refused: ", std::string(why)));
}

const unsigned char* bytes_of(std::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

bool signed_by(const Key& key, std::string_view input, std::string_view signature) {
  if (key.algorithm == JwtAlgorithm::hs256) {
    unsigned char mac[32];
    std::size_t size = 0;
    return EVP_Q_mac(nullptr, "HMAC", nullptr, "SHA256", nullptr, key.secret.data(), key.secret.size(),
                     bytes_of(input), input.size(), mac, sizeof mac, &size) != nullptr &&
           size == sizeof mac && signature.size() == size && CRYPTO_memcmp(mac, signature.data(), size) == 0;
  }
  const std::unique_ptr<EVP_MD_CTX, FreeContext> context(EVP_MD_CTX_new());
  // Ed25519 digests by itself. RSA keys use PKCS #1 v1.5 unless told otherwise.
  const EVP_MD* digest = key.algorithm == JwtAlgorithm::rs256 ? EVP_sha256() : nullptr;
  return context != nullptr &&
         EVP_DigestVerifyInit(context.get(), nullptr, digest, nullptr, key.public_key.get()) == 1 &&
         EVP_DigestVerify(context.get(), bytes_of(signature), signature.size(), bytes_of(input),
                          input.size()) == 1;
}

absl::StatusOr<Key> read_key(const JwtKey& from, const std::string& what) {
  const auto wrong = [&](const std::string& why) {
    ERR_clear_error();
    return absl::InvalidArgumentError(absl::StrCat(what, ": ", why));
  };
  Key key;
  key.algorithm = from.algorithm;
  key.id = from.key_id;
  if (from.algorithm == JwtAlgorithm::hs256) {
    if (from.material.size() < kMinSecretBytes)
      return wrong(absl::StrFormat("an HS256 secret of %d bytes; at least %d are needed",
                                   from.material.size(), kMinSecretBytes));
    // Somebody who knows the public key could sign with it.
    if (from.material.find("-----BEGIN") != std::string::npos)
      return wrong("the HS256 secret is a PEM file; a public key is no secret");
    key.secret = from.material;
    return key;
  }
  const std::unique_ptr<BIO, FreeBio> bio(
      BIO_new_mem_buf(from.material.data(), static_cast<int>(from.material.size())));
  if (bio == nullptr) return wrong("no memory");
  // Never ask a terminal for a pass phrase.
  const auto no_pass_phrase = [](char*, int, int, void*) { return 0; };
  key.public_key.reset(PEM_read_bio_PUBKEY(bio.get(), nullptr, no_pass_phrase, nullptr));
  if (key.public_key == nullptr) return wrong("not a public key in PEM (\"-----BEGIN PUBLIC KEY-----\")");
  if (from.algorithm == JwtAlgorithm::rs256) {
    if (EVP_PKEY_is_a(key.public_key.get(), "RSA") != 1) return wrong("not an RSA key, as RS256 needs");
    const int bits = EVP_PKEY_get_bits(key.public_key.get());
    if (bits < kMinRsaBits)
      return wrong(absl::StrFormat("an RSA key of %d bits; at least %d are needed", bits, kMinRsaBits));
  } else if (EVP_PKEY_is_a(key.public_key.get(), "ED25519") != 1) {
    return wrong("not an Ed25519 key, as EdDSA needs");
  }
  ERR_clear_error();
  return key;
}

// A NumericDate: seconds, perhaps with a fraction. Nothing before 1970 or after the year 9999.
std::optional<Time> read_time(const json::value& value) {
  double seconds = -1;
  if (value.is_int64()) seconds = static_cast<double>(value.get_int64());
  if (value.is_uint64()) seconds = static_cast<double>(value.get_uint64());
  if (value.is_double()) seconds = value.get_double();
  if (!(seconds >= 0 && seconds <= 253'402'300'799.0)) return std::nullopt;
  // The clock ends in 2262; people write 9999 for "never".
  constexpr double kLast = 9'000'000'000.0;
  return Time(
      std::chrono::duration_cast<Time::duration>(std::chrono::duration<double>(std::min(seconds, kLast))));
}

bool is_for(const json::value& audience, std::string_view us) {
  if (audience.is_string()) return std::string_view(audience.get_string()) == us;
  if (!audience.is_array()) return false;
  const json::array& list = audience.get_array();
  // One that is not a string makes the list meaningless.
  return std::all_of(list.begin(), list.end(), [](const json::value& one) { return one.is_string(); }) &&
         std::any_of(list.begin(), list.end(),
                     [&](const json::value& one) { return std::string_view(one.get_string()) == us; });
}

bool fit_for_header(std::string_view text) {
  return !text.empty() && text.size() <= kMaxSubjectBytes && text.front() != ' ' && text.back() != ' ' &&
         std::none_of(text.begin(), text.end(),
                      [](char c) { return static_cast<unsigned char>(c) < 0x20 || c == 0x7f; });
}

struct Header {
  JwtAlgorithm algorithm = JwtAlgorithm::rs256;
  std::optional<std::string> key_id{};
};

class Verifier final : public JwtVerifier {
 public:
  Verifier(JwtOptions options, std::vector<Key> keys) : options_(std::move(options)), keys_(std::move(keys)) {
    for (JwtKey& key : options_.keys) OPENSSL_cleanse(key.material.data(), key.material.size());
    options_.keys.clear();
  }
  ~Verifier() override {
    for (Key& key : keys_) OPENSSL_cleanse(key.secret.data(), key.secret.size());
  }

  absl::StatusOr<JwtClaims> verify(std::string_view token, Time now) const override {
    if (token.size() > options_.max_token_bytes)
      return refuse(absl::StrFormat("%d bytes; %d are allowed", token.size(), options_.max_token_bytes));
    const std::size_t first = token.find('.');
    const std::size_t second = first == std::string_view::npos ? first : token.find('.', first + 1);
    if (second == std::string_view::npos || token.find('.', second + 1) != std::string_view::npos)
      return refuse("not three parts with dots between them");
    const std::optional<std::string> head = from_base64url(token.substr(0, first));
    std::optional<std::string> body = from_base64url(token.substr(first + 1, second - first - 1));
    const std::optional<std::string> signature = from_base64url(token.substr(second + 1));
    if (!head || !body || !signature) return refuse("a part is not base64url without padding");

    const absl::StatusOr<Header> header = read_header(*head);
    if (!header.ok()) return header.status();
    // The claims are looked at only once the signature has been found good.
    const bool good = std::any_of(keys_.begin(), keys_.end(), [&](const Key& key) {
      return key.algorithm == header->algorithm &&
             (key.id.empty() || !header->key_id || key.id == *header->key_id) &&
             signed_by(key, token.substr(0, second), *signature);
    });
    ERR_clear_error();
    if (!good) return refuse("the signature is not one of a key we know");
    return read_claims(*std::move(body), now);
  }

 private:
  absl::StatusOr<Header> read_header(std::string_view text) const {
    const absl::StatusOr<json::value> value = faaskit::json::parse("header", text, options_.max_token_bytes);
    if (!value.ok() || !value->is_object())
      return refuse("the header is not a JSON object without duplicates");
    const json::object& object = value->get_object();
    // "crit" names extensions that must be understood; we understand none.
    if (object.contains("crit")) return refuse("the header has \"crit\"");
    const json::value* alg = object.if_contains("alg");
    Header header;
    const auto named = [&](JwtAlgorithm algorithm) {
      header.algorithm = algorithm;
      return alg != nullptr && alg->is_string() &&
             std::string_view(alg->get_string()) == to_string(algorithm) &&
             std::any_of(keys_.begin(), keys_.end(),
                         [&](const Key& key) { return key.algorithm == algorithm; });
    };
    if (!named(JwtAlgorithm::hs256) && !named(JwtAlgorithm::rs256) && !named(JwtAlgorithm::eddsa))
      return refuse("its algorithm is not one that is allowed here");
    if (const json::value* kid = object.if_contains("kid")) {
      if (!kid->is_string()) return refuse("\"kid\" is not a string");
      header.key_id = std::string(std::string_view(kid->get_string()));
    }
    return header;
  }

  absl::StatusOr<JwtClaims> read_claims(std::string text, Time now) const {
    const absl::StatusOr<json::value> value = faaskit::json::parse("claims", text, options_.max_token_bytes);
    if (!value.ok() || !value->is_object())
      return refuse("the claims are not a JSON object without duplicates");
    const json::object& object = value->get_object();
    JwtClaims claims;

    const json::value* exp = object.if_contains("exp");
    if (exp == nullptr) return refuse("it has no \"exp\"");
    const std::optional<Time> expires = read_time(*exp);
    if (!expires) return refuse("\"exp\" is not a time");
    // No sum of a time in the token and the leeway: such a sum may wrap.
    if (now - options_.leeway >= *expires) return refuse("it has expired");
    claims.expires = *expires;
    if (const json::value* nbf = object.if_contains("nbf")) {
      const std::optional<Time> not_before = read_time(*nbf);
      if (!not_before) return refuse("\"nbf\" is not a time");
      if (*not_before > now + options_.leeway) return refuse("it is not valid yet");
    }
    if (const json::value* iat = object.if_contains("iat")) {
      claims.issued_at = read_time(*iat);
      if (!claims.issued_at) return refuse("\"iat\" is not a time");
      if (*claims.issued_at > now + options_.leeway) return refuse("it was issued in the future");
    }

    const json::value* aud = object.if_contains("aud");
    if (aud == nullptr || !is_for(*aud, options_.audience)) return refuse("it is for another audience");

    const auto read_text = [&](const char* name, std::string& into) {
      const json::value* text_value = object.if_contains(name);
      if (text_value == nullptr) return true;
      if (!text_value->is_string()) return false;
      into = std::string(std::string_view(text_value->get_string()));
      return true;
    };
    if (!read_text("iss", claims.issuer) || (options_.issuer && claims.issuer != *options_.issuer))
      return refuse("it is from another issuer");
    if (!read_text("sub", claims.subject) || !fit_for_header(claims.subject))
      return refuse(absl::StrFormat(
          "\"sub\" must be a string of 1 to %d bytes without control characters and blanks at its ends",
          kMaxSubjectBytes));
    if (!read_text("jti", claims.id)) return refuse("\"jti\" is not a string");
    claims.payload = std::move(text);
    return claims;
  }

  JwtOptions options_;
  std::vector<Key> keys_;
};

}  // namespace

std::string_view to_string(JwtAlgorithm algorithm) {
  switch (algorithm) {
    case JwtAlgorithm::hs256: return "HS256";
    case JwtAlgorithm::rs256: return "RS256";
    case JwtAlgorithm::eddsa: return "EdDSA";
  }
  return "?";
}

absl::StatusOr<std::unique_ptr<JwtVerifier>> make_jwt_verifier(JwtOptions options) {
  if (options.keys.empty() || options.keys.size() > kMaxKeys)
    return absl::InvalidArgumentError(
        absl::StrFormat("keys: there are %d; 1 to %d are allowed", options.keys.size(), kMaxKeys));
  if (options.audience.empty())
    return absl::InvalidArgumentError("audience: empty; tokens for anybody are not for us");
  if (options.issuer && options.issuer->empty())
    return absl::InvalidArgumentError("issuer: empty; leave it out to accept any");
  if (options.leeway < std::chrono::seconds(0) || options.leeway > std::chrono::hours(1))
    return absl::InvalidArgumentError(
        absl::StrFormat("leeway: %d s; 0 to 3600 are allowed", options.leeway.count()));
  if (options.max_token_bytes == 0 || options.max_token_bytes > (1u << 20))
    return absl::InvalidArgumentError(
        absl::StrFormat("max_token_bytes: %d; 1 to %d are allowed", options.max_token_bytes, 1 << 20));
  std::vector<Key> keys;
  for (std::size_t i = 0; i < options.keys.size(); ++i) {
    absl::StatusOr<Key> key = read_key(options.keys[i], absl::StrFormat("keys[%d]", i));
    if (!key.ok()) return key.status();
    keys.push_back(*std::move(key));
  }
  return std::make_unique<Verifier>(std::move(options), std::move(keys));
}

}  // namespace faaskit::auth
