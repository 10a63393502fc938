// Layout: which cgroup hierarchies this process may make groups in, found at run time.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "faaskit/core/export.h"

namespace faaskit::cgroup {

struct ProbeOptions {
  // The process's mount table and group membership, in the kernel's format. Another path is for tests.
  std::string mountinfo = "/proc/self/mountinfo";
  std::string membership = "/proc/self/cgroup";
};

// Each path is the directory our groups are made in: the process's own group of that hierarchy where it can
// be seen, so that our limits nest within those given to us, else the hierarchy's top. Empty: not mounted.
struct Layout {
  enum class Kind : std::uint8_t { none, v1, v2, hybrid };
  Kind kind = Kind::none;
  std::string v2;
  std::string v2_mount;                     // its top, as far as it can be seen
  std::vector<std::string> v2_controllers;  // available there, not necessarily enabled below
  std::string v1_freezer;
  std::string v1_memory;
  std::string v1_pids;
  std::string v1_cpu;
};
FAASKIT_EXPORT std::string_view to_string(Layout::Kind kind);

// Never fails: what cannot be read is not there. Makes and changes nothing.
FAASKIT_EXPORT Layout probe(const ProbeOptions& options = {});

}  // namespace faaskit::cgroup
