// The steps that turn a helper in fresh namespaces into a sandbox. Policy only: nothing here runs anything.
//
//   parked    as root, in a copy of the host's mount namespace: the whole tree, and the move into it
//   furnished still as root: the code, the limits, and last the user namespace
//   becomes   as nobody's root: identity, descriptors, nothing left, execve
// Between the last two the host writes the id maps; a process cannot do that for itself.
#pragma once

#include <linux/openat2.h>

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "process/machine.h"
#include "process/program.h"
#include "process/seccomp.h"

namespace faaskit::process {

inline constexpr std::uint32_t kInsideId = 1000;
// Of a user namespace; not there on a kernel without inotify.
inline constexpr const char* kInotifyBound = "/proc/sys/user/max_inotify_instances";

struct ParkPlan {
  const std::vector<HostPath>* tree = nullptr;
  const std::vector<std::pair<std::string, std::string>>* files = nullptr;  // in /faaskit, with their content
  std::uint32_t uid = 0;
  std::uint64_t tmp_bytes = 0;
  bool cgroup_namespace = false;
  // Built, but not entered: the code can only be taken from inside, by its path (see FurnishPlan).
  bool stay_outside = false;
};
Program parked(const ParkPlan& plan);

struct FurnishPlan {
  int code = -1;          // detached mount of the function's code; or, for one that stayed outside:
  std::string code_path;  // where it is on the host,
  bool links = true;      // perhaps through symbolic links
  std::string code_file;  // its name in /code; empty: a folder that becomes /code
  std::uint32_t open_files = 0;
  bool user_namespace = false;
  std::uint32_t uid = 0;       // and gid: owner of the user namespace
  bool loopback = false;       // bring up lo of its own network namespace
  int network_namespace = -1;  // or enter this one, of the host
  std::string resolv_conf;     // for programs in that one
  // Where no group holds them: per process, and processes of this user namespace.
  std::optional<std::uint64_t> data_bytes;
  std::optional<std::uint32_t> processes;
};
Program furnished(const FurnishPlan& plan);

// How the code's place is looked up.
open_how code_look(bool links);

struct BecomePlan {
  int channel = -1;
  int output = -1;
  std::uint32_t id = 0;  // uid and gid to take, as seen from inside
  bool user_namespace = false;
  bool bound_inotify = false;                        // this kernel has kInotifyBound
  const std::vector<sock_filter>* filter = nullptr;  // of system calls; null: none
  std::vector<std::string> argv;
  std::vector<std::string> environment;
};
Program becomes(const BecomePlan& plan);

}  // namespace faaskit::process
