// Private: folders and files by descriptor, never by a path that could lead elsewhere.
#pragma once

#include <sys/stat.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/port/unique_fd.h"

namespace faaskit::code {

// openat2(2) with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS: the kernel itself refuses a path that leaves
// `dir`, by "..", by a link or by a name that begins with '/'. Returns -1 with errno, as open(2).
UniqueFd open_beneath(int dir, const std::string& path, int flags, mode_t mode = 0);

// Names in the folder, sorted by byte, without "." and "..".
absl::StatusOr<std::vector<std::string>> list_folder(int dir);

// One below `top`, at any depth. A link is named, never followed.
struct FoundEntry {
  int parent = -1;   // valid during the visit
  std::string leaf;  // its name in `parent`
  std::string path;  // from `top`
  struct stat info = {};
};
// Folders before what is in them, names sorted by byte: one order for equal trees. Stops at the first error.
// kResourceExhausted: folders nested deeper than `max_depth`.
absl::Status walk(int top, std::size_t max_depth,
                  const std::function<absl::Status(const FoundEntry&)>& visit);

// Removes `name` in `parent` and all below it. What is not there is removed. Never follows a link.
absl::Status remove_tree(int parent, const std::string& name);

absl::Status write_all(int fd, const void* data, std::size_t size);

// Of files and folders below `top`, in whole blocks: what they take on a usual disk.
absl::StatusOr<std::uint64_t> disk_bytes(int top);
constexpr std::uint64_t in_blocks(std::uint64_t bytes) { return (bytes + 4095) / 4096 * 4096; }

}  // namespace faaskit::code
