// The steps that turn a helper in fresh namespaces into a sandbox. Policy only: nothing here runs anything.
//
//   parked    as root, in a copy of the host's mount namespace: the whole tree, and the move into it
//   furnished still as root: the code, the limits, and last the user namespace
//   becomes   as nobody's root: identity, descriptors, nothing left, execve
// Between the last two the host writes the id maps; a process cannot do that for itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "process/program.h"

namespace faaskit::process {

inline constexpr std::uint32_t kInsideId = 1000;

struct HostPath {
  enum class Kind { directory, file, link };
  Kind kind = Kind::directory;
  std::string path;    // absolute
  std::string target;  // of a link
};
// What of `paths` there is. A path beneath an earlier directory is left out: it is there already.
std::vector<HostPath> survey(const std::vector<std::string>& paths);

struct Namespaces {
  std::uint64_t at_birth = 0;  // CLONE_NEW*
  bool user = false;
  bool cgroup = false;
  std::string missing;  // names, for people
};
// What the kernel knows and its limits allow. `limits`: see namespaces(7), /proc/sys/user.
Namespaces available_namespaces(const std::string& known = "/proc/self/ns",
                                const std::string& limits = "/proc/sys/user");

struct ParkPlan {
  const std::vector<HostPath>* tree = nullptr;
  std::string_view python_runtime;
  std::uint32_t uid = 0;
  std::uint64_t tmp_bytes = 0;
  bool cgroup_namespace = false;
};
Program parked(const ParkPlan& plan);

struct FurnishPlan {
  int code = -1;          // detached mount of the function's code
  std::string code_file;  // its name in /code; empty: a folder that becomes /code
  std::uint32_t open_files = 0;
  bool user_namespace = false;
};
Program furnished(const FurnishPlan& plan);

struct BecomePlan {
  int channel = -1;
  int output = -1;
  std::uint32_t id = 0;  // uid and gid to take, as seen from inside
  bool user_namespace = false;
  std::vector<std::string> argv;
  std::vector<std::string> environment;
};
Program becomes(const BecomePlan& plan);

}  // namespace faaskit::process
