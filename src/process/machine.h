// What this machine has for sandboxes. Looks only; makes and changes nothing.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace faaskit::process {

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
  // Without privileges: the user namespace comes first, and owns the others. Its one id is the host's own.
  bool user_first = false;
  bool user = false;
  bool cgroup = false;
  std::string missing;  // names, for people
};
// What the kernel knows and its limits allow. `limits`: see namespaces(7), /proc/sys/user.
Namespaces available_namespaces(const std::string& known = "/proc/self/ns",
                                const std::string& limits = "/proc/sys/user");

// Whether this process has CAP_... now.
bool has_capability(int number);
// What a sandbox takes privileges for; empty: we have them all.
std::string missing_privileges();

// The real file behind a path; empty: none, or no program (a shim is a script).
std::string real_program(const std::string& path);
// Whether a sandbox with this tree sees the file.
bool visible(const std::vector<HostPath>& tree, const std::string& path);

}  // namespace faaskit::process
