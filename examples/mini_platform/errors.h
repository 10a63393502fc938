// What went wrong, as a caller sees it: an HTTP status, a code that stays the same, and a message for people.
//
//   400 invalid_argument    401 unauthenticated      403 permission_denied   404 not_found
//   405 method_not_allowed  409 conflict             413 payload_too_large   429 too_many_waiters
//   431 header_too_large    500 internal             502 function_failed, sandbox_died, protocol_error
//   503 unavailable, start_failed, stopping          504 deadline_exceeded   507 insufficient_storage
#pragma once

#include <string>
#include <string_view>

#include <absl/status/status.h>

#include "faaskit/invoke/invoker.h"
#include "http.h"

namespace mini {

struct Problem {
  int status = 500;
  std::string_view code = "internal";
  std::string message{};
  // The end of what the function wrote to stdout and stderr.
  std::string log_tail{};
};

// Of an operation of the platform: deploy, remove, read.
Problem to_problem(const absl::Status& status);
// Of an invocation that did not succeed.
Problem to_problem(const faaskit::InvocationResult& result);

Response to_response(const Problem& problem);

}  // namespace mini
