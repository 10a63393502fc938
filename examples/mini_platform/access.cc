#include "access.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

#include "faaskit/auth/keys.h"

namespace mini {
namespace {

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
  }
  return text;
}

// Without its port; lower case.
std::string host_name(std::string_view host) {
  const std::size_t colon = host.rfind(':');
  if (colon != std::string_view::npos && host.find(']', colon) == std::string_view::npos) {
    host = host.substr(0, colon);
  }
  return lower(std::string(host));
}

bool contains(const std::vector<std::string>& list, std::string_view what) {
  return std::find(list.begin(), list.end(), what) != list.end();
}

// The bearer token; empty: there is none, or something else is there.
std::string_view bearer(const Request& request) {
  const std::string_view header = request.header("authorization");
  if (header.empty()) return {};
  const auto token = faaskit::auth::parse_bearer(header);
  return token.ok() ? *token : std::string_view{};
}

bool looks_like_jwt(std::string_view token) { return std::count(token.begin(), token.end(), '.') == 2; }

}  // namespace

Access::Access(faaskit::auth::AdminToken token, std::unique_ptr<faaskit::auth::JwtVerifier> jwt,
               AccessOptions options)
    : token_(std::move(token)), jwt_(std::move(jwt)), options_(std::move(options)) {
  for (std::string& host : options_.hosts) host = lower(std::move(host));
}

absl::Status Access::check_origin(const Request& request, bool invocation) const {
  const std::string host = host_name(request.header("host"));
  if (host != "localhost" && host != "127.0.0.1" && host != "[::1]" && !contains(options_.hosts, host)) {
    return absl::PermissionDeniedError(absl::StrCat("host '", host, "' is not served here; see --host"));
  }
  if (request.has("origin") && !(invocation && contains(options_.origins, request.header("origin")))) {
    return absl::PermissionDeniedError("requests of web pages (Origin) are not served; see --allow-origin");
  }
  return absl::OkStatus();
}

absl::Status Access::check_admin(const Request& request) const {
  const std::string_view token = bearer(request);
  if (token.empty())
    return absl::UnauthenticatedError("this needs the admin token: Authorization: Bearer fa_...");
  if (!token_.verify(token)) return absl::PermissionDeniedError("that is not the admin token");
  return absl::OkStatus();
}

absl::StatusOr<std::string> Access::owner(const Request& request) const {
  const std::string_view token = bearer(request);
  if (options_.jwt_deploy && jwt_ && looks_like_jwt(token)) {
    auto claims = jwt_->verify(token, std::chrono::system_clock::now());
    if (!claims.ok()) return claims.status();
    // A subject is what its issuer calls somebody; nobody becomes the admin by it.
    return absl::StrCat("jwt:", claims->subject);
  }
  if (absl::Status admin = check_admin(request); !admin.ok()) return admin;
  return "admin";
}

absl::StatusOr<Caller> Access::caller(const Request& request, const Known& function) const {
  Caller caller;
  const std::string_view token = bearer(request);
  std::string_view key = request.header("x-api-key");
  if (token.starts_with("fk_")) {
    if (key.empty()) key = token;
    caller.authorization_used = true;
  } else if (jwt_ && looks_like_jwt(token)) {
    auto claims = jwt_->verify(token, std::chrono::system_clock::now());
    if (!claims.ok()) return claims.status();
    caller.subject = claims->subject;
    caller.authorization_used = true;
  } else if (!token.empty() && token_.verify(token)) {
    caller.authorization_used = true;
    return caller;  // who administers may call
  }
  if (!function.registered.requires_key) return caller;
  if (key.empty()) {
    return absl::UnauthenticatedError(
        absl::StrCat("'", function.registered.name, "' needs an access key: Authorization: Bearer fk_..."));
  }
  bool known = false;
  for (const faaskit::AccessKey& valid : function.keys) {
    known |= faaskit::auth::verify_access_key(key, valid.hash);
  }
  if (!known) return absl::PermissionDeniedError("that is no access key of this function");
  return caller;
}

}  // namespace mini
