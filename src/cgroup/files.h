// Small files of the kernel: read whole, written in one write.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>

#include "faaskit/port/unique_fd.h"

namespace faaskit::cgroup {

// nullopt: cannot be opened or read. `dir` may be AT_FDCWD.
std::optional<std::string> read_text(int dir, const std::string& path);
// 0 or errno.
int write_text(int dir, const std::string& path, std::string_view text);
// Status form; `what` names directory and file.
absl::Status write_file(int dir, const std::string& path, std::string_view text, const std::string& what);

std::optional<std::uint64_t> parse_number(std::string_view text);
// Value of "key value" on a line of its own, as in memory.events.
std::optional<std::uint64_t> find_value(std::string_view text, std::string_view key);
std::vector<std::string> split(std::string_view text, char separator);
// mountinfo writes blanks and backslashes in paths as \ooo.
std::string unescape(std::string_view text);

}  // namespace faaskit::cgroup
