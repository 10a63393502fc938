// Private: a tree of files as it may be written: names checked, everything counted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/code/code_store.h"
#include "faaskit/port/unique_fd.h"

namespace faaskit::code {

// For messages: quoted, control characters and what is not ASCII escaped, cut at 200 bytes.
std::string shown_name(std::string_view name);

// "./a/b/" -> "a/b"; the top itself is "". kInvalidArgument: what a name must not be.
absl::StatusOr<std::string> plain_name(std::string_view name, const ArchiveLimits& limits);

// Writes beneath `top`, never elsewhere and never over what is there. Names are plain_name()s; even one that
// is not stays beneath. Modes and owners are made good by settle() at the end.
class TreeWriter {
 public:
  // packed_bytes: of the source, for the ratio; 0: it has none.
  TreeWriter(int top, const ArchiveLimits& limits, std::uint64_t packed_bytes)
      : top_(top), limits_(limits), packed_bytes_(packed_bytes) {}

  absl::Status folder(const std::string& name);
  // Then write() until the next file() or the end.
  absl::Status file(const std::string& name, bool executable);
  absl::Status write(const void* data, std::size_t size);

 private:
  absl::StatusOr<UniqueFd> open_folder(const std::string& name);
  absl::Status count_entry();

  int top_;
  ArchiveLimits limits_;
  std::uint64_t packed_bytes_;
  std::uint32_t entries_ = 0;
  std::uint64_t bytes_ = 0;
  std::uint64_t file_bytes_ = 0;
  std::string file_name_;
  UniqueFd file_;
  // Files of one folder come one after the other.
  std::string last_folder_;
  UniqueFd last_folder_fd_;
};

// Owner: this process; 0755 for folders and what may be executed, else 0644; time 1980-01-01.
absl::Status settle(int top);

// Copies what is beneath `source`. The names are the kernel's, so no thread needs to be nobody for it. Links
// and devices are refused by name.
absl::Status copy_folder(int source, const ArchiveLimits& limits, TreeWriter& out);

// Writes the tree beneath `top` as the canonical tar file to `out`. Returns its SHA-256 in hexadecimal.
absl::StatusOr<std::string> pack(int top, int out);

}  // namespace faaskit::code
