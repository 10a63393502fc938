// Files in one folder that grow at their end and are rotated by size. An interface, so that tests can put
// a slow or failing disk in its place.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/port/unique_fd.h"

namespace faaskit::sinks {

// Thread safety: every member from any thread; all may block.
class Disk {
 public:
  Disk() = default;
  Disk(const Disk&) = delete;
  Disk& operator=(const Disk&) = delete;
  virtual ~Disk() = default;
  // Adds whole lines to the file; all of them or, on an error, none.
  virtual absl::Status append(const std::string& name, std::string_view lines) = 0;
  // The file and its older generations. OK if there is none.
  virtual absl::Status remove(const std::string& name) = 0;
};

struct DiskLimits {
  std::size_t max_file_bytes = 0;
  std::size_t max_files = 0;  // of one name
  std::size_t max_open = 0;
};
std::unique_ptr<Disk> make_disk(UniqueFd folder, DiskLimits limits);

// kInvalidArgument names the option.
absl::Status validate(const DiskLimits& limits);

// Opens a folder, and makes it, 0700, if it is not there and `make` is set.
absl::StatusOr<UniqueFd> open_folder(const std::string& path, bool make);

// "name", "name.1", "name.2"...
std::string generation(const std::string& name, std::size_t number);

}  // namespace faaskit::sinks
