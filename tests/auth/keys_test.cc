// If these failed: a wrong key would open a function, or a right one would stand in a log.
#include "faaskit/auth/keys.h"

#include <set>

#include "auth/base64url.h"
#include "catch.hpp"

namespace faaskit::auth {
namespace {

using absl::StatusCode;

NewAccessKey make() {
  absl::StatusOr<NewAccessKey> key = make_access_key();
  REQUIRE(key.ok());
  return *std::move(key);
}

TEST_CASE("base64url has one spelling per value", "[auth]") {
  // RFC 4648, section 10.
  CHECK(base64url("") == "");
  CHECK(base64url("f") == "Zg");
  CHECK(base64url("fo") == "Zm8");
  CHECK(base64url("foobar") == "Zm9vYmFy");
  CHECK(base64url("\xff\xef\xfe") == "_-_-");
  std::string bytes;
  for (int i = 0; i < 256; ++i) {
    bytes.push_back(static_cast<char>(i));
    CHECK(from_base64url(base64url(bytes)) == bytes);
  }
  for (const char* wrong : {"Zg=", "Zg==", "Zh", "Zm9", "Z", "Zm9v YmFy", "Zm9v\n", "+/+/", "Zm9vYmFyZ"}) {
    INFO(wrong);
    CHECK_FALSE(from_base64url(wrong).has_value());
  }
}

TEST_CASE("a key opens with its own text only", "[auth]") {
  const NewAccessKey key = make();
  CHECK(key.text.size() == 46);
  CHECK(key.text.substr(0, 3) == "fk_");
  CHECK(key.hash.substr(0, 10) == "v1:sha256:");
  CHECK(key.hash.find(key.text.substr(3)) == std::string::npos);
  CHECK(verify_access_key(key.text, key.hash));
  // Any one letter changed.
  for (std::size_t i = 0; i < key.text.size(); ++i) {
    std::string wrong = key.text;
    wrong[i] = wrong[i] == 'A' ? 'B' : 'A';
    CHECK_FALSE(verify_access_key(wrong, key.hash));
  }
  CHECK_FALSE(verify_access_key(make().text, key.hash));
  CHECK_FALSE(verify_access_key(key.text + "A", key.hash));
  CHECK_FALSE(verify_access_key(key.text.substr(0, 45), key.hash));
  CHECK_FALSE(verify_access_key("", key.hash));
  CHECK_FALSE(verify_access_key(key.hash, key.hash));
}

TEST_CASE("a hash of an unknown form opens to nobody", "[auth]") {
  const NewAccessKey key = make();
  CHECK_FALSE(verify_access_key(key.text, ""));
  CHECK_FALSE(verify_access_key(key.text, key.text));
  CHECK_FALSE(verify_access_key(key.text, "v2" + key.hash.substr(2)));
  CHECK_FALSE(verify_access_key(key.text, key.hash.substr(0, 73)));
  CHECK_FALSE(verify_access_key(key.text, key.hash + "0"));
}

TEST_CASE("keys do not repeat, and an id follows from the text but tells nothing of it", "[auth]") {
  std::set<std::string> texts, ids;
  for (int i = 0; i < 100; ++i) {
    const NewAccessKey key = make();
    texts.insert(key.text);
    ids.insert(key.id);
    CHECK(key.id.size() == 14);
    CHECK(access_key_id(key.text).value() == key.id);
    CHECK(key.hash.find(key.id.substr(2)) == std::string::npos);
  }
  CHECK(texts.size() == 100);
  CHECK(ids.size() == 100);
  CHECK(access_key_id("fk_short").status().code() == StatusCode::kInvalidArgument);
}

TEST_CASE("no key and no bearer token stands in what was redacted", "[auth]") {
  const NewAccessKey key = make();
  CHECK(redact("GET /f key=" + key.text + " 200") == "GET /f key=fk_[" + key.id + "] 200");
  CHECK(redact(key.text + key.text) == "fk_[redacted]");
  CHECK(redact("x" + key.text.substr(0, 40) + ",") == "xfk_[redacted],");
  CHECK(redact("Authorization: Bearer abc.DEF-_~+/== next") == "Authorization: Bearer [redacted] next");
  CHECK(redact("BEARER   " + key.text) == "BEARER [redacted]");
  CHECK(redact("nothing to see, bearer of news") == "nothing to see, bearer [redacted] news");
  const std::string token = "fa_" + key.text.substr(3);
  CHECK(redact("token " + token + ", says") == "token fa_[redacted], says");
  CHECK(redact(token.substr(0, 30)) == "fa_[redacted]");
  CHECK(redact("a sofa_bed") == "a sofa_bed");
  CHECK(redact("") == "");
  CHECK(redact("fk_") == "fk_[redacted]");
}

TEST_CASE("a bearer header is what RFC 6750 says, and errors do not repeat it", "[auth]") {
  CHECK(parse_bearer("Bearer abc").value() == "abc");
  CHECK(parse_bearer("bEARER   a-._~+/9==").value() == "a-._~+/9==");
  for (const char* wrong :
       {"", "Bearer", "Bearer ", "Bearer  ", "Bearerabc", "Basic SECRET", "Bearer SECRET x", "Bearer SECRET,",
        "Bearer =", "Bearer a=SECRET", " Bearer SECRET", "Bearer\tSECRET", "Bearer SECRET\r\n"}) {
    INFO(wrong);
    const absl::Status status = parse_bearer(wrong).status();
    CHECK(status.code() == StatusCode::kUnauthenticated);
    CHECK(std::string(status.message()).find("SECRET") == std::string::npos);
  }
}

}  // namespace
}  // namespace faaskit::auth
