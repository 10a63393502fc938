// Who may do what.
//
//   admin operations  the admin token, also on loopback; with --jwt-deploy a subject may deploy, remove and
//   look after
//                     functions of its own
//   invocations       open, or an access key of the function where it requires one; a JWT, where keys for it
//   are
//                     configured, tells the function who calls
//   anybody           no foreign Host header and no Origin: a web page must not reach a server on loopback by
//   name
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/auth/admin_token.h"
#include "faaskit/auth/jwt.h"
#include "functions.h"
#include "http.h"

namespace mini {

struct AccessOptions {
  std::vector<std::string> hosts{};    // beyond localhost and loopback addresses
  std::vector<std::string> origins{};  // web pages that may call functions
  bool jwt_deploy = false;
};

struct Caller {
  std::string subject{};  // of a JWT; empty: nobody in particular
  // The credential was ours, not the function's: it is not passed on.
  bool authorization_used = false;
};

class Access {
 public:
  Access(faaskit::auth::AdminToken token, std::unique_ptr<faaskit::auth::JwtVerifier> jwt,
         AccessOptions options);

  // kPermissionDenied: a foreign Host, or an Origin. `invocation`: allowed origins count.
  absl::Status check_origin(const Request& request, bool invocation) const;
  // kUnauthenticated: no token; kPermissionDenied: a wrong one.
  absl::Status check_admin(const Request& request) const;
  // Who acts: "admin", or a subject that may act for itself. As check_admin().
  absl::StatusOr<std::string> owner(const Request& request) const;
  absl::StatusOr<Caller> caller(const Request& request, const Known& function) const;

 private:
  const faaskit::auth::AdminToken token_;
  const std::unique_ptr<faaskit::auth::JwtVerifier> jwt_;  // may be null
  AccessOptions options_;
};

}  // namespace mini
