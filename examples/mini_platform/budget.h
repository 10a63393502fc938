// Descriptors: how many this process has, and who gets them. A sandbox must still start when every connection
// is taken, so the door gets what sandboxes leave.
#pragma once

#include <cstdint>

#include <absl/status/statusor.h>

namespace mini {

struct Budget {
  std::uint64_t descriptors = 0;
  std::uint32_t sandboxes = 0;
  std::uint32_t connections = 0;
  std::uint32_t log_files = 0;
};

// Raises the soft limit to the hard one first. kResourceExhausted: too few to do anything.
absl::StatusOr<Budget> make_budget(std::uint32_t shards, std::uint32_t max_sandboxes,
                                   std::uint32_t max_connections);

}  // namespace mini
