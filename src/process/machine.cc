#include "process/machine.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <sched.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string_view>
#include <utility>

#include <absl/strings/str_cat.h>

#include "faaskit/port/unique_fd.h"

namespace faaskit::process {
namespace {

bool is_elf(const std::string& path) {
  UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  char magic[4] = {};
  return file && ::read(file.get(), magic, 4) == 4 && std::memcmp(magic, "\177ELF", 4) == 0;
}

}  // namespace

std::vector<HostPath> survey(const std::vector<std::string>& paths) {
  std::vector<HostPath> found;
  for (const std::string& path : paths) {
    const bool covered = std::any_of(found.begin(), found.end(), [&](const HostPath& earlier) {
      return path == earlier.path ||
             (earlier.kind == HostPath::Kind::directory && path.rfind(earlier.path + "/", 0) == 0);
    });
    struct stat info{};
    if (covered || ::lstat(path.c_str(), &info) != 0) continue;
    HostPath entry{HostPath::Kind::directory, path, ""};
    if (S_ISLNK(info.st_mode)) {
      std::error_code error;
      entry.kind = HostPath::Kind::link;
      entry.target = std::filesystem::read_symlink(path, error).string();
      if (error) continue;
    } else if (S_ISREG(info.st_mode)) {
      entry.kind = HostPath::Kind::file;
    } else if (!S_ISDIR(info.st_mode)) {
      continue;
    }
    found.push_back(std::move(entry));
  }
  return found;
}

Namespaces available_namespaces(const std::string& known_in, const std::string& limits) {
  Namespaces result;
  const struct {
    const char* name;
    const char* words;
    std::uint64_t flag;
  } known[] = {{"mnt", "mount", CLONE_NEWNS}, {"pid", "pid", CLONE_NEWPID}, {"ipc", "ipc", CLONE_NEWIPC},
               {"uts", "uts", CLONE_NEWUTS},  {"net", "net", CLONE_NEWNET}, {"user", "user", 0},
               {"cgroup", "cgroup", 0}};
  for (const auto& one : known) {
    // No such file: no limit.
    std::uint64_t allowed = 1;
    std::ifstream(absl::StrCat(limits, "/max_", one.name, "_namespaces")) >> allowed;
    if (allowed > 0 && ::access(absl::StrCat(known_in, "/", one.name).c_str(), F_OK) == 0) {
      result.at_birth |= one.flag;
      if (std::string_view(one.name) == "user") result.user = true;
      if (std::string_view(one.name) == "cgroup") result.cgroup = true;
    } else {
      absl::StrAppend(&result.missing, result.missing.empty() ? "" : ", ", one.words, " namespace");
    }
  }
  return result;
}

std::string real_program(const std::string& path) {
  char* resolved = ::realpath(path.c_str(), nullptr);
  if (resolved == nullptr) return "";
  const std::string real = resolved;
  ::free(resolved);
  return is_elf(real) && ::access(real.c_str(), X_OK) == 0 ? real : "";
}

bool has_capability(int number) {
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2] = {};
  return ::syscall(SYS_capget, &header, data) == 0 && (data[number / 32].effective >> (number % 32) & 1) != 0;
}

std::string missing_privileges() {
  if (::geteuid() != 0) return "root";
  const std::pair<int, const char*> needed[] = {{CAP_CHOWN, "CAP_CHOWN"},
                                                {CAP_SETGID, "CAP_SETGID"},
                                                {CAP_SETUID, "CAP_SETUID"},
                                                {CAP_SETPCAP, "CAP_SETPCAP"},
                                                {CAP_SYS_ADMIN, "CAP_SYS_ADMIN"}};
  std::string missing;
  for (const auto& [number, name] : needed)
    if (!has_capability(number)) absl::StrAppend(&missing, missing.empty() ? "" : ", ", name);
  return missing;
}

bool visible(const std::vector<HostPath>& tree, const std::string& path) {
  return std::any_of(tree.begin(), tree.end(),
                     [&](const HostPath& entry) { return path.rfind(entry.path + "/", 0) == 0; });
}

}  // namespace faaskit::process
