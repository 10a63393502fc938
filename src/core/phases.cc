#include "faaskit/core/phases.h"

namespace faaskit {

std::string_view to_string(Phase phase) {
  switch (phase) {
    case Phase::auth: return "auth";
    case Phase::acquire: return "acquire";
    case Phase::start_queue: return "start_queue";
    case Phase::fetch: return "fetch";
    case Phase::create: return "create";
    case Phase::exec: return "exec";
    case Phase::runtime: return "runtime";
    case Phase::init: return "init";
    case Phase::hello: return "hello";
    case Phase::thaw: return "thaw";
    case Phase::run: return "run";
    case Phase::freeze: return "freeze";
    case Phase::settle: return "settle";
  }
  return "?";
}

}  // namespace faaskit
