// If these failed: somebody could call in another's name.
#include "faaskit/auth/jwt.h"

#include <openssl/bio.h>
#include <openssl/core_names.h>
#include <openssl/evp.h>
#include <openssl/params.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>

#include <memory>

#include "auth/base64url.h"
#include "catch.hpp"

namespace faaskit::auth {
namespace {

using namespace std::chrono_literals;
using absl::StatusCode;
using Time = std::chrono::system_clock::time_point;

const Time kNow{1'800'000'000s};
const std::string kSecret = "0123456789abcdef0123456789abcdef";

struct FreeKey {
  void operator()(EVP_PKEY* key) const { EVP_PKEY_free(key); }
};
using Private = std::unique_ptr<EVP_PKEY, FreeKey>;

std::string pem_of(const Private& key) {
  BIO* bio = BIO_new(BIO_s_mem());
  REQUIRE(PEM_write_bio_PUBKEY(bio, key.get()) == 1);
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(bio, &bytes);
  std::string pem(bytes, static_cast<std::size_t>(size));
  BIO_free(bio);
  return pem;
}

Private rsa(unsigned bits = 2048) { return Private(EVP_RSA_gen(bits)); }
Private ed25519() { return Private(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED25519")); }

std::string hmac(const std::string& input, const std::string& secret) {
  std::string mac(32, '\0');
  std::size_t size = 0;
  REQUIRE(EVP_Q_mac(nullptr, "HMAC", nullptr, "SHA256", nullptr, secret.data(), secret.size(),
                    reinterpret_cast<const unsigned char*>(input.data()), input.size(),
                    reinterpret_cast<unsigned char*>(mac.data()), mac.size(), &size) != nullptr);
  return mac;
}

std::string sign(const std::string& input, const Private& key, const EVP_MD* digest) {
  EVP_MD_CTX* context = EVP_MD_CTX_new();
  const auto* bytes = reinterpret_cast<const unsigned char*>(input.data());
  std::size_t size = 0;
  REQUIRE(EVP_DigestSignInit(context, nullptr, digest, nullptr, key.get()) == 1);
  REQUIRE(EVP_DigestSign(context, nullptr, &size, bytes, input.size()) == 1);
  std::string signature(size, '\0');
  REQUIRE(EVP_DigestSign(context, reinterpret_cast<unsigned char*>(signature.data()), &size, bytes,
                         input.size()) == 1);
  signature.resize(size);
  EVP_MD_CTX_free(context);
  return signature;
}

std::string parts(const std::string& header, const std::string& claims) {
  return base64url(header) + "." + base64url(claims);
}
std::string hs256(const std::string& claims, const std::string& header = R"({"alg":"HS256"})",
                  const std::string& secret = kSecret) {
  const std::string input = parts(header, claims);
  return input + "." + base64url(hmac(input, secret));
}

// The claims of a good token, with `more` added; `without` names one to leave out.
std::string claims(const std::string& more = "", const std::string& without = "") {
  std::string text = "{";
  for (const auto& [name, value] : {std::pair<std::string, std::string>{"sub", "\"alice\""},
                                    {"aud", "\"faaskit\""},
                                    {"iss", "\"https://id.example\""},
                                    {"exp", "1800000100"}}) {
    if (name == without) continue;
    text += (text.size() > 1 ? ",\"" : "\"") + name + "\":" + value;
  }
  return text + (more.empty() ? "" : "," + more) + "}";
}

JwtOptions options(std::vector<JwtKey> keys) {
  JwtOptions options;
  options.keys = std::move(keys);
  options.audience = "faaskit";
  options.issuer = "https://id.example";
  return options;
}

std::unique_ptr<JwtVerifier> verifier(JwtOptions wanted) {
  auto made = make_jwt_verifier(std::move(wanted));
  INFO(made.status().message());
  REQUIRE(made.ok());
  return *std::move(made);
}
std::unique_ptr<JwtVerifier> hs256_verifier() {
  return verifier(options({{.algorithm = JwtAlgorithm::hs256, .material = kSecret}}));
}

// Refused with this reason, which repeats nothing of the token.
void check_refused(const JwtVerifier& by, const std::string& token, const std::string& reason,
                   Time now = kNow) {
  INFO(token);
  const auto result = by.verify(token, now);
  REQUIRE(result.status().code() == StatusCode::kUnauthenticated);
  CHECK_THAT(std::string(result.status().message()), ContainsSubstring(reason));
}

TEST_CASE("a good token says who, from whom and until when", "[auth][jwt]") {
  const auto by = hs256_verifier();
  const auto result =
      by->verify(hs256(claims(R"("jti":"t-1","iat":1799999990,"nbf":1799999990,"role":["a"])")), kNow);
  REQUIRE(result.ok());
  CHECK(result->subject == "alice");
  CHECK(result->issuer == "https://id.example");
  CHECK(result->id == "t-1");
  CHECK(result->expires == kNow + 100s);
  CHECK(result->issued_at == kNow - 10s);
  CHECK_THAT(result->payload, ContainsSubstring(R"("role":["a"])"));
  CHECK(by->verify(hs256(claims(R"("aud":["x","faaskit"])", "aud")), kNow).ok());
  CHECK(by->verify(hs256(claims(R"("exp":1800000000.5)", "exp")), kNow).ok());
}

// RFC 7515, appendix A.1: HS256.
TEST_CASE("the example of RFC 7515 for HS256", "[auth][jwt]") {
  const std::string token =
      "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
      "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
      "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
  const std::string key =
      from_base64url("AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow")
          .value();
  const auto by = verifier(options({{.algorithm = JwtAlgorithm::hs256, .material = key}}));
  // The signature is good: it is only the claims that we ask more of.
  check_refused(*by, token, "it has expired", Time(1'300'819'420s));
  check_refused(*by, token, "for another audience", Time(1'300'819'370s));
  std::string wrong = token;
  wrong[wrong.size() - 2] = 'A';
  check_refused(*by, wrong, "the signature is not");
}

// RFC 7515, appendix A.2: RS256.
TEST_CASE("the example of RFC 7515 for RS256", "[auth][jwt]") {
  const std::string n = from_base64url(
                            "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-"
                            "4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yR"
                            "T-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-"
                            "bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXB"
                            "dQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_"
                            "I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9ia"
                            "GNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ")
                            .value();
  std::string n_native(n.rbegin(), n.rend());
  std::string e_native("\x01\x00\x01", 3);
  OSSL_PARAM params[] = {
      OSSL_PARAM_construct_BN(OSSL_PKEY_PARAM_RSA_N, reinterpret_cast<unsigned char*>(n_native.data()),
                              n_native.size()),
      OSSL_PARAM_construct_BN(OSSL_PKEY_PARAM_RSA_E, reinterpret_cast<unsigned char*>(e_native.data()),
                              e_native.size()),
      OSSL_PARAM_construct_end()};
  EVP_PKEY_CTX* context = EVP_PKEY_CTX_new_from_name(nullptr, "RSA", nullptr);
  EVP_PKEY* key = nullptr;
  REQUIRE(EVP_PKEY_fromdata_init(context) == 1);
  REQUIRE(EVP_PKEY_fromdata(context, &key, EVP_PKEY_PUBLIC_KEY, params) == 1);
  EVP_PKEY_CTX_free(context);
  const Private holder(key);
  const std::string token =
      "eyJhbGciOiJSUzI1NiJ9."
      "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
      "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_"
      "O8W2Fp5jujGbds9uJdbF9CU"
      "Ar7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_"
      "eSN9383LcOLn6_dO"
      "--xi12jzDwusC-"
      "eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN"
      "_IoypGlUPQGe77Rw";
  const auto by = verifier(options({{.algorithm = JwtAlgorithm::rs256, .material = pem_of(holder)}}));
  check_refused(*by, token, "for another audience", Time(1'300'819'370s));
}

// RFC 8037, appendix A.4: Ed25519. Its payload is no JSON: the signature is what is shown to be good.
TEST_CASE("the example of RFC 8037 for EdDSA", "[auth][jwt]") {
  const std::string x = from_base64url("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo").value();
  const Private key(EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, nullptr,
                                                reinterpret_cast<const unsigned char*>(x.data()), x.size()));
  const auto by = verifier(options({{.algorithm = JwtAlgorithm::eddsa, .material = pem_of(key)}}));
  const std::string token =
      "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc."
      "hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
  check_refused(*by, token, "the claims are not a JSON object");
  std::string wrong = token;
  wrong[30] = wrong[30] == 'A' ? 'B' : 'A';
  check_refused(*by, wrong, "the signature is not");
}

TEST_CASE("RS256 and EdDSA tokens are checked with their own keys", "[auth][jwt]") {
  const Private rsa_key = rsa(), ed_key = ed25519(), other_rsa = rsa(), other_ed = ed25519();
  const auto by = verifier(options({{.algorithm = JwtAlgorithm::rs256, .material = pem_of(rsa_key)},
                                    {.algorithm = JwtAlgorithm::eddsa, .material = pem_of(ed_key)}}));
  const std::string rs_input = parts(R"({"alg":"RS256","typ":"JWT"})", claims());
  const std::string ed_input = parts(R"({"alg":"EdDSA"})", claims());
  CHECK(by->verify(rs_input + "." + base64url(sign(rs_input, rsa_key, EVP_sha256())), kNow).ok());
  CHECK(by->verify(ed_input + "." + base64url(sign(ed_input, ed_key, nullptr)), kNow).ok());
  check_refused(*by, rs_input + "." + base64url(sign(rs_input, other_rsa, EVP_sha256())), "the signature");
  check_refused(*by, ed_input + "." + base64url(sign(ed_input, other_ed, nullptr)), "the signature");
  // Signed well, but not as the header says.
  check_refused(*by, rs_input + "." + base64url(sign(rs_input, ed_key, nullptr)), "the signature");
  check_refused(*by, rs_input + "." + base64url(sign(rs_input, rsa_key, EVP_sha512())), "the signature");
  check_refused(*by, hs256(claims()), "algorithm");
}

TEST_CASE("a public key is never taken for a secret", "[auth][jwt]") {
  const Private key = rsa();
  const std::string pem = pem_of(key);
  const std::string forged = hs256(claims(), R"({"alg":"HS256"})", pem);
  check_refused(*verifier(options({{.algorithm = JwtAlgorithm::rs256, .material = pem}})), forged,
                "algorithm");
  // Nor where HS256 is allowed as well.
  check_refused(*verifier(options({{.algorithm = JwtAlgorithm::rs256, .material = pem},
                                   {.algorithm = JwtAlgorithm::hs256, .material = kSecret}})),
                forged, "the signature");
  CHECK(make_jwt_verifier(options({{.algorithm = JwtAlgorithm::hs256, .material = pem}})).status().code() ==
        StatusCode::kInvalidArgument);
}

TEST_CASE("algorithms that nobody allowed are refused", "[auth][jwt]") {
  const auto by = hs256_verifier();
  for (const char* alg :
       {"none", "None", "NONE", "nOnE", "HS384", "HS512", "hs256", "RS256", "EdDSA", "ES256", "PS256", ""}) {
    const std::string header = std::string(R"({"alg":")") + alg + "\"}";
    check_refused(*by, hs256(claims(), header), "algorithm");
    check_refused(*by, parts(header, claims()) + ".", "algorithm");
  }
  check_refused(*by, hs256(claims(), R"({"typ":"JWT"})"), "algorithm");
  check_refused(*by, hs256(claims(), R"({"alg":["HS256"]})"), "algorithm");
  check_refused(*by, parts(R"({"alg":"HS256"})", claims()) + ".", "the signature");
}

TEST_CASE("headers that say more than we understand are refused", "[auth][jwt]") {
  const auto by = hs256_verifier();
  check_refused(*by, hs256(claims(), R"({"alg":"HS256","crit":["b64"],"b64":false})"), "crit");
  check_refused(*by, hs256(claims(), R"({"alg":"HS256","crit":[]})"), "crit");
  check_refused(*by, hs256(claims(), R"({"alg":"none","alg":"HS256"})"), "header");
  check_refused(*by, hs256(claims(), R"({"alg":"HS256","kid":7})"), "kid");
  check_refused(*by, hs256(claims(), R"(["HS256"])"), "header");
  check_refused(*by, hs256(claims(), "no json"), "header");
  // A key that the token brings along is not looked at.
  check_refused(*by,
                hs256(claims(), R"({"alg":"HS256","jwk":{"kty":"oct","k":"AAAA"}})", std::string(32, '\0')),
                "the signature");
}

TEST_CASE("a token names a key, or all keys of its algorithm are tried", "[auth][jwt]") {
  const std::string other(32, 'x');
  const auto by = verifier(options({{.algorithm = JwtAlgorithm::hs256, .material = kSecret, .key_id = "new"},
                                    {.algorithm = JwtAlgorithm::hs256, .material = other, .key_id = "old"}}));
  CHECK(by->verify(hs256(claims()), kNow).ok());
  CHECK(by->verify(hs256(claims(), R"({"alg":"HS256"})", other), kNow).ok());
  CHECK(by->verify(hs256(claims(), R"({"alg":"HS256","kid":"new"})"), kNow).ok());
  check_refused(*by, hs256(claims(), R"({"alg":"HS256","kid":"old"})"), "the signature");
  check_refused(*by, hs256(claims(), R"({"alg":"HS256","kid":"none"})"), "the signature");
  CHECK(hs256_verifier()->verify(hs256(claims(), R"({"alg":"HS256","kid":"any"})"), kNow).ok());
}

TEST_CASE("times are checked with the leeway, and cannot wrap", "[auth][jwt]") {
  const auto by = hs256_verifier();
  const std::string token = hs256(claims());
  CHECK(by->verify(token, kNow + 129s).ok());
  check_refused(*by, token, "it has expired", kNow + 130s);
  check_refused(*by, hs256(claims("", "exp")), "has no \"exp\"");
  CHECK(by->verify(hs256(claims(R"("nbf":1800000030)")), kNow).ok());
  check_refused(*by, hs256(claims(R"("nbf":1800000031)")), "not valid yet");
  CHECK(by->verify(hs256(claims(R"("iat":1800000030)")), kNow).ok());
  check_refused(*by, hs256(claims(R"("iat":1800000031)")), "in the future");
  for (const char* wrong : {"\"1800000100\"", "null", "true", "-1", "1e30", "1e400", "18446744073709551615",
                            "9223372036854775807", "253402300800", "[]"}) {
    check_refused(*by, hs256(claims(std::string("\"exp\":") + wrong, "exp")), "");
    check_refused(*by, hs256(claims(std::string("\"nbf\":") + wrong)), "");
    check_refused(*by, hs256(claims(std::string("\"iat\":") + wrong)), "");
  }
  CHECK(by->verify(hs256(claims(R"("exp":253402300799)", "exp")), kNow).ok());
}

TEST_CASE("a token for others, from others, or about nobody is refused", "[auth][jwt]") {
  const auto by = hs256_verifier();
  check_refused(*by, hs256(claims("", "aud")), "audience");
  for (const char* wrong : {"\"other\"", "\"faaskit2\"", "\"\"", "[]", "[\"other\"]", "null", "7",
                            "[\"faaskit\",7]", "{\"faaskit\":1}"})
    check_refused(*by, hs256(claims(std::string("\"aud\":") + wrong, "aud")), "audience");
  check_refused(*by, hs256(claims("", "iss")), "issuer");
  check_refused(*by, hs256(claims(R"("iss":"https://id.example.evil")", "iss")), "issuer");
  check_refused(*by, hs256(claims(R"("iss":["https://id.example"])", "iss")), "issuer");
  check_refused(*by, hs256(claims("", "sub")), "\"sub\"");
  for (const std::string& wrong :
       {std::string("\"\""), std::string("7"), std::string("\"a\\r\\nX-Admin: 1\""),
        std::string("\"a\\u0000\""), std::string("\" a\""), std::string("\"\\u007f\""),
        "\"" + std::string(256, 'a') + "\""})
    check_refused(*by, hs256(claims("\"sub\":" + wrong, "sub")), "\"sub\"");
  check_refused(*by, hs256(claims(R"("sub":"mallory")")), "duplicates");
  check_refused(*by, hs256(claims(R"("jti":7)")), "jti");
  JwtOptions any = options({{.algorithm = JwtAlgorithm::hs256, .material = kSecret}});
  any.issuer.reset();
  CHECK(verifier(any)->verify(hs256(claims("", "iss")), kNow).ok());
}

TEST_CASE("what is not three parts of strict base64url is refused", "[auth][jwt]") {
  const auto by = hs256_verifier();
  const std::string token = hs256(claims());
  for (const std::string& wrong :
       {std::string(), std::string("."), std::string(".."), std::string("a.b"), token + ".", token + ".x",
        token + "=", token + "\n", " " + token, token.substr(0, token.rfind('.'))})
    check_refused(*by, wrong, "");
  // The last letter of a 32 byte signature carries two bits that mean nothing: another spelling of the same.
  std::string spelled = token;
  const std::string letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
  spelled.back() = letters[letters.find(spelled.back()) | 1];
  REQUIRE(spelled != token);
  check_refused(*by, spelled, "base64url");
  check_refused(*by, std::string(8193, 'a'), "8193 bytes; 8192 are allowed");
}

TEST_CASE("any one bit of a token changed, it is refused", "[auth][jwt]") {
  const auto by = hs256_verifier();
  const std::string token = hs256(claims());
  REQUIRE(by->verify(token, kNow).ok());
  for (std::size_t i = 0; i < token.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string wrong = token;
      wrong[i] = static_cast<char>(wrong[i] ^ (1 << bit));
      REQUIRE_FALSE(by->verify(wrong, kNow).ok());
    }
  }
}

TEST_CASE("reasons repeat nothing of the token or the key", "[auth][jwt]") {
  const auto by = hs256_verifier();
  for (const std::string& token :
       {hs256(claims(R"("sub":"SECRET\n")", "sub")), hs256(claims(), R"({"alg":"SECRET"})"),
        hs256("{\"SECRET\":"), hs256(claims(R"("aud":"SECRET")", "aud")),
        std::string("SECRET.SECRET.SECRET")}) {
    const auto result = by->verify(token, kNow);
    REQUIRE(result.status().code() == StatusCode::kUnauthenticated);
    CHECK(std::string(result.status().message()).find("SECRET") == std::string::npos);
    CHECK(std::string(result.status().message()).find(kSecret) == std::string::npos);
  }
}

TEST_CASE("weak and wrong keys and options are refused by name", "[auth][jwt]") {
  const auto refused = [](JwtOptions wanted) {
    const absl::Status status = make_jwt_verifier(std::move(wanted)).status();
    CHECK(status.code() == StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  const auto key = [](JwtAlgorithm algorithm, std::string material) {
    return options({{.algorithm = JwtAlgorithm::hs256, .material = kSecret},
                    {.algorithm = algorithm, .material = std::move(material)}});
  };
  const std::string short_secret = kSecret.substr(1);
  CHECK_THAT(refused(key(JwtAlgorithm::hs256, short_secret)), ContainsSubstring("keys[1]") &&
                                                                  ContainsSubstring("31 bytes") &&
                                                                  !ContainsSubstring(short_secret));
  CHECK_THAT(refused(key(JwtAlgorithm::rs256, pem_of(rsa(1024)))), ContainsSubstring("1024 bits"));
  CHECK_THAT(refused(key(JwtAlgorithm::rs256, pem_of(ed25519()))), ContainsSubstring("not an RSA key"));
  CHECK_THAT(refused(key(JwtAlgorithm::eddsa, pem_of(rsa()))), ContainsSubstring("not an Ed25519 key"));
  CHECK_THAT(refused(key(JwtAlgorithm::eddsa, pem_of(Private(EVP_PKEY_Q_keygen(nullptr, nullptr, "ED448"))))),
             ContainsSubstring("not an Ed25519 key"));
  CHECK_THAT(refused(key(JwtAlgorithm::rs256, "")), ContainsSubstring("not a public key"));
  CHECK_THAT(refused(options({})), ContainsSubstring("keys"));
  JwtOptions wrong = options({{.algorithm = JwtAlgorithm::hs256, .material = kSecret}});
  wrong.audience.clear();
  CHECK_THAT(refused(wrong), ContainsSubstring("audience"));
  wrong.audience = "faaskit";
  wrong.leeway = -1s;
  CHECK_THAT(refused(wrong), ContainsSubstring("leeway"));
}

}  // namespace
}  // namespace faaskit::auth
