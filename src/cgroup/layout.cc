#include "faaskit/cgroup/layout.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "cgroup/files.h"

namespace faaskit::cgroup {
namespace {

bool contains(const std::vector<std::string>& list, const std::string& item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

// The process's path in the hierarchy with `controller`; "" names v2's.
std::string membership_of(const std::string& text, const std::string& controller) {
  for (const std::string& line : split(text, '\n')) {
    const std::size_t first = line.find(':');
    const std::size_t second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string names = line.substr(first + 1, second - first - 1);
    if (controller.empty() ? (names.empty() && line[0] == '0') : contains(split(names, ','), controller))
      return line.substr(second + 1);
  }
  return "/";
}

// Where `path` of a hierarchy is seen, given that `root` of it is mounted at `mount`.
std::string own_directory(const std::string& mount, const std::string& root, std::string path) {
  if (root != "/") {
    if (path.compare(0, root.size(), root) != 0 || (path.size() > root.size() && path[root.size()] != '/'))
      return mount;
    path.erase(0, root.size());
  }
  if (path.empty() || path == "/") return mount;
  std::string own = mount + path;
  // A path outside our cgroup namespace reads as "/../..".
  if (path.find("/..") != std::string::npos || ::access(own.c_str(), F_OK) != 0) return mount;
  return own;
}

}  // namespace

std::string_view to_string(Layout::Kind kind) {
  switch (kind) {
    case Layout::Kind::none: return "none";
    case Layout::Kind::v1: return "v1";
    case Layout::Kind::v2: return "v2";
    case Layout::Kind::hybrid: return "hybrid";
  }
  return "?";
}

Layout probe(const ProbeOptions& options) {
  Layout layout;
  const std::string mounts = read_text(AT_FDCWD, options.mountinfo).value_or("");
  const std::string membership = read_text(AT_FDCWD, options.membership).value_or("");
  bool any_v1 = false;
  for (const std::string& line : split(mounts, '\n')) {
    // "36 35 98:0 /root /mount rw,noatime [tags] - type source superoptions"
    const std::vector<std::string> fields = split(line, ' ');
    const auto dash = std::find(fields.begin(), fields.end(), "-");
    if (fields.size() < 6 || fields.end() - dash < 4) continue;
    const std::string root = unescape(fields[3]);
    const std::string mount = unescape(fields[4]);
    const std::string& type = dash[1];
    if (type == "cgroup2" && layout.v2.empty()) {
      layout.v2_mount = mount;
      layout.v2 = own_directory(mount, root, membership_of(membership, ""));
      layout.v2_controllers = split(read_text(AT_FDCWD, layout.v2 + "/cgroup.controllers").value_or(""), ' ');
      for (std::string& name : layout.v2_controllers)
        while (!name.empty() && name.back() == '\n') name.pop_back();
    } else if (type == "cgroup") {
      const std::vector<std::string> controllers = split(dash[3], ',');
      const auto take = [&](const std::string& name, std::string& into) {
        if (!into.empty() || !contains(controllers, name)) return;
        into = own_directory(mount, root, membership_of(membership, name));
        any_v1 = true;
      };
      take("freezer", layout.v1_freezer);
      take("memory", layout.v1_memory);
      take("pids", layout.v1_pids);
      take("cpu", layout.v1_cpu);
    }
  }
  const bool v2 = !layout.v2.empty();
  layout.kind = v2 && any_v1 ? Layout::Kind::hybrid
                : v2         ? Layout::Kind::v2
                : any_v1     ? Layout::Kind::v1
                             : Layout::Kind::none;
  return layout;
}

}  // namespace faaskit::cgroup
