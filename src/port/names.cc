// The words of the port enums.
#include "faaskit/port/code_store.h"
#include "faaskit/port/freezer.h"
#include "faaskit/port/sandbox_factory.h"

namespace faaskit {

std::string_view to_string(FreezerKind kind) {
  switch (kind) {
    case FreezerKind::cgroup_v2: return "cgroup v2";
    case FreezerKind::cgroup_v1: return "cgroup v1";
    case FreezerKind::stop_signals: return "stop signals";
    case FreezerKind::none: return "none";
  }
  return "?";
}

std::string_view to_string(Isolation level) {
  switch (level) {
    case Isolation::none: return "none";
    case Isolation::partial: return "partial";
    case Isolation::process: return "process";
    case Isolation::container: return "container";
    case Isolation::microvm: return "microvm";
  }
  return "?";
}

std::string_view to_string(Network network) {
  switch (network) {
    case Network::none: return "none";
    case Network::loopback: return "loopback";
    case Network::host: return "host";
  }
  return "?";
}

std::string_view to_string(CodeKind kind) {
  switch (kind) {
    case CodeKind::copied: return "copied";
    case CodeKind::mounted: return "mounted";
  }
  return "?";
}

}  // namespace faaskit
