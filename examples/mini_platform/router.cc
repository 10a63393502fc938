#include "router.h"

#include <map>

namespace mini {
namespace {

// Takes the next segment off the front of "/a/b".
std::string_view next(std::string_view& path) {
  if (path.starts_with('/')) path.remove_prefix(1);
  const std::string_view segment = path.substr(0, path.find('/'));
  path.remove_prefix(segment.size());
  return segment;
}

}  // namespace

bool Route::allows(std::string_view method) const {
  if (action == Action::web) return true;
  std::string_view rest = methods;
  while (!rest.empty()) {
    const std::string_view one = rest.substr(0, rest.find(", "));
    if (one == method) return true;
    rest.remove_prefix(std::min(rest.size(), one.size() + 2));
  }
  return false;
}

Route route(const Request& request) {
  static const std::map<std::string_view, Action> kTop = {
      {"/healthz", Action::health},      {"/metrics", Action::metrics}, {"/stats", Action::stats},
      {"/sandboxes", Action::sandboxes}, {"/records", Action::records}, {"/functions", Action::functions}};
  if (const auto top = kTop.find(request.path); top != kTop.end()) {
    return {.action = top->second, .methods = "GET"};
  }
  std::string_view path = request.path;
  if (next(path) != "functions") return {};
  Route route{.function = std::string(next(path))};
  if (route.function.empty()) return {};
  const auto is = [&](Action action, std::string_view methods) {
    route.action = action;
    route.methods = methods;
  };
  if (path.empty()) {
    is(Action::function, "GET, PUT, DELETE");
    return route;
  }
  const std::string_view what = next(path);
  if (what == "web") {
    is(Action::web, "any");
    route.rest = path.empty() ? "/" : std::string(path);
  } else if (what == "keys" && path.size() > 1) {
    is(Action::key, "DELETE");
    route.rest = std::string(path.substr(1));
  } else if (path.empty()) {
    if (what == "invocations") is(Action::invocations, "POST");
    if (what == "logs") is(Action::logs, "GET");
    if (what == "keys") is(Action::keys, "GET, POST, DELETE");
  }
  return route;
}

}  // namespace mini
