// What a path means. See docs/http.md for the list.
#pragma once

#include <string>
#include <string_view>

#include "http.h"

namespace mini {

enum class Action {
  unknown,  // no such path
  health,
  metrics,
  stats,
  sandboxes,
  records,
  functions,
  function,
  invocations,
  web,
  logs,
  keys,
  key,
};

struct Route {
  Action action = Action::unknown;
  std::string function{};
  std::string rest{};  // web: what follows, from its '/' on; key: its id
  // Of those the path knows; web knows any.
  std::string_view methods{};

  bool allows(std::string_view method) const;
};

Route route(const Request& request);

}  // namespace mini
