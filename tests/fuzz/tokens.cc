// What callers show to be let in: tokens, keys, headers, and times in queries. A token is also signed here,
// so that its claims are read at all.
#include <openssl/evp.h>
#include <openssl/hmac.h>

#include "auth/base64url.h"
#include "faaskit/auth/jwt.h"
#include "faaskit/auth/keys.h"
#include "faaskit/sinks/records.h"
#include "input.h"

namespace {

using namespace faaskit::auth;

const std::string kSecret = "a secret of thirty-two bytes or more";
const auto kNow = std::chrono::system_clock::time_point(std::chrono::seconds(1700000000));

std::string signed_token(std::string_view header, std::string_view claims) {
  std::string token = base64url(header) + "." + base64url(claims);
  unsigned char mac[EVP_MAX_MD_SIZE];
  unsigned size = 0;
  ::HMAC(::EVP_sha256(), kSecret.data(), static_cast<int>(kSecret.size()),
         reinterpret_cast<const unsigned char*>(token.data()), token.size(), mac, &size);
  return token + "." + base64url({reinterpret_cast<const char*>(mac), size});
}

const JwtVerifier& verifier() {
  static const auto made = [] {
    auto v = make_jwt_verifier({.keys = {{.algorithm = JwtAlgorithm::hs256, .material = kSecret}},
                                .audience = "us",
                                .issuer = std::nullopt});
    FUZZ_CHECK(v.ok());
    return *std::move(v);
  }();
  return *made;
}

void check_token(std::string_view token) {
  const auto claims = verifier().verify(token, kNow);
  if (!claims.ok()) {
    FUZZ_CHECK(claims.status().code() == absl::StatusCode::kUnauthenticated);
    return;
  }
  FUZZ_CHECK(!claims->subject.empty() && claims->subject.size() <= 255);
  for (const char c : claims->subject) FUZZ_CHECK(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  FUZZ_CHECK(claims->expires > kNow - std::chrono::seconds(31));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  faaskit::fuzz::Input in(data, size);
  const std::uint8_t how = in.byte();
  const std::string_view text = in.rest();
  switch (how % 6) {
    case 0: check_token(text); break;
    case 1: check_token(signed_token(R"({"alg":"HS256"})", text)); break;
    case 2: {
      const std::size_t cut = std::min<std::size_t>(text.find('\n'), text.size());
      check_token(signed_token(text.substr(0, cut), text.substr(std::min(text.size(), cut + 1))));
      break;
    }
    case 3: {
      const auto bytes = from_base64url(text);
      if (bytes) FUZZ_CHECK(base64url(*bytes) == text);
      FUZZ_CHECK(from_base64url(base64url(text)) == text);
      break;
    }
    case 4: {
      const auto token = parse_bearer(text);
      if (token.ok()) FUZZ_CHECK(!token->empty() && token->find(' ') == std::string_view::npos);
      const auto id = access_key_id(text);
      if (id.ok()) FUZZ_CHECK(id->starts_with("k-") && redact(text).find(text) == std::string::npos);
      FUZZ_CHECK(!verify_access_key(text, text));
      // Nothing that is or was nearly a key is left.
      const std::string shown = redact(text);
      for (std::size_t at = shown.find("fk_"); at != std::string::npos; at = shown.find("fk_", at + 1)) {
        FUZZ_CHECK(at + 3 < shown.size() && shown[at + 3] == '[');
      }
      break;
    }
    default: {
      const auto time = faaskit::sinks::parse_time(text);
      if (!time.ok()) break;
      const std::string printed = faaskit::sinks::format_time(*time);
      const auto again = faaskit::sinks::parse_time(printed);
      FUZZ_CHECK(again.ok() && faaskit::sinks::format_time(*again) == printed);
    }
  }
  return 0;
}
