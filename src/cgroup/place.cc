#include "cgroup/place.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>

#include "cgroup/files.h"

namespace faaskit::cgroup {
namespace {

// Controllers of a file that lists them in one line.
std::vector<std::string> listed(const std::string& path) {
  std::string text = read_text(AT_FDCWD, path).value_or("");
  while (!text.empty() && text.back() == '\n') text.pop_back();
  return split(text, ' ');
}

bool contains(const std::vector<std::string>& list, const std::string& item) {
  return std::find(list.begin(), list.end(), item) != list.end();
}

// How many of `wanted` groups below `dir` can have from now on.
std::size_t enable(const std::string& dir, const std::vector<std::string>& wanted) {
  if (::access((dir + "/cgroup.procs").c_str(), W_OK) != 0)
    return 0;  // no group of ours could be filled there
  const std::vector<std::string> available = listed(dir + "/cgroup.controllers");
  const std::vector<std::string> enabled = listed(dir + "/cgroup.subtree_control");
  std::size_t count = 0;
  for (const std::string& controller : wanted) {
    if (contains(enabled, controller) ||
        (contains(available, controller) &&
         write_text(AT_FDCWD, dir + "/cgroup.subtree_control", "+" + controller) == 0))
      ++count;
  }
  return count;
}

}  // namespace

std::string v2_parent(const Layout& layout, const std::vector<std::string>& wanted) {
  std::string best = layout.v2;
  std::size_t most = 0;
  for (std::string dir = layout.v2; most < wanted.size();) {
    if (const std::size_t count = enable(dir, wanted); count > most) {
      most = count;
      best = dir;
    }
    // Only names of groups below the mount are cut off.
    if (dir.size() <= layout.v2_mount.size() || dir.rfind(layout.v2_mount + "/", 0) != 0) break;
    dir.resize(dir.rfind('/'));
  }
  return best;
}

}  // namespace faaskit::cgroup
