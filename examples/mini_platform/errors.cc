#include "errors.h"

#include "json.h"

namespace mini {

Problem to_problem(const absl::Status& status) {
  Problem problem{.message = std::string(status.message())};
  const auto is = [&](int http, std::string_view code) {
    problem.status = http;
    problem.code = code;
  };
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument: is(400, "invalid_argument"); break;
    case absl::StatusCode::kUnauthenticated: is(401, "unauthenticated"); break;
    case absl::StatusCode::kPermissionDenied: is(403, "permission_denied"); break;
    case absl::StatusCode::kNotFound: is(404, "not_found"); break;
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kAlreadyExists: is(409, "conflict"); break;
    case absl::StatusCode::kOutOfRange: is(413, "payload_too_large"); break;
    // What this machine does not provide and the function demands: its manifest can opt in to less.
    case absl::StatusCode::kFailedPrecondition: is(400, "invalid_argument"); break;
    case absl::StatusCode::kResourceExhausted: is(507, "insufficient_storage"); break;
    case absl::StatusCode::kUnavailable: is(503, "unavailable"); break;
    case absl::StatusCode::kCancelled: is(503, "stopping"); break;
    case absl::StatusCode::kDeadlineExceeded: is(504, "deadline_exceeded"); break;
    default: is(500, "internal"); break;
  }
  return problem;
}

Problem to_problem(const faaskit::InvocationResult& result) {
  Problem problem{.message = std::string(result.status.message()), .log_tail = result.log_tail};
  const auto is = [&](int http, std::string_view code) {
    problem.status = http;
    problem.code = code;
  };
  const bool leased = result.sandbox.host != 0;
  switch (result.status.code()) {
    case absl::StatusCode::kUnknown: is(502, "function_failed"); break;
    case absl::StatusCode::kInternal: is(502, "protocol_error"); break;
    // With a sandbox, it died under the call; without, none could be started.
    case absl::StatusCode::kUnavailable: leased ? is(502, "sandbox_died") : is(503, "start_failed"); break;
    case absl::StatusCode::kResourceExhausted: is(429, "too_many_waiters"); break;
    case absl::StatusCode::kInvalidArgument: is(413, "payload_too_large"); break;
    default: {
      problem = to_problem(result.status);
      problem.log_tail = result.log_tail;
    }
  }
  return problem;
}

Response to_response(const Problem& problem) {
  Json json;
  json.object().object("error").field("code", problem.code).field("message", problem.message);
  if (!problem.log_tail.empty()) json.field("log_tail", problem.log_tail);
  json.end().end();
  Response response{.status = problem.status, .content_type = "application/json", .text = json.text() + "\n"};
  if (problem.status == 503 || problem.status == 429) response.headers.emplace_back("Retry-After", "1");
  if (problem.status == 401) response.headers.emplace_back("WWW-Authenticate", "Bearer");
  return response;
}

}  // namespace mini
