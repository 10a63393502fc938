// The state folder: what of this platform outlives the process. One process at a time has it.
//
//   admin-token   0600     registry/   functions, versions, keys
//   code/         unpacked and packed        logs/       what functions print
//   records.jsonl one line per invocation    incoming/   bodies of deploys under way; emptied at start
#pragma once

#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/port/unique_fd.h"

namespace mini {

class State {
 public:
  // Makes what is missing, 0700. kFailedPrecondition: another process has it; kPermissionDenied.
  static absl::StatusOr<State> open(std::string folder);

  std::string path(std::string_view name) const { return folder_ + "/" + std::string(name); }
  const std::string& folder() const { return folder_; }

 private:
  std::string folder_;
  faaskit::UniqueFd lock_;
};

// A file of incoming/ that goes with its object.
class Incoming {
 public:
  static absl::StatusOr<Incoming> make(const State& state);
  // Whether a file of that name in incoming/ was made by us.
  static bool is_name(std::string_view name);
  Incoming(Incoming&& other) noexcept = default;
  ~Incoming();

  const std::string& path() const { return path_; }
  // kResourceExhausted: the disk is full.
  absl::Status append(const void* data, std::size_t size);

 private:
  Incoming() = default;
  std::string path_{};
  faaskit::UniqueFd file_{};
};

// The whole of a small file: configuration, a manifest. Follows no link at its end.
absl::StatusOr<std::string> read_small_file(const std::string& path, std::size_t max_bytes);

}  // namespace mini
