// What is written where for a limit, on either version. Values only: nothing here writes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "faaskit/port/freezer.h"

namespace faaskit::cgroup {

struct LimitWrite {
  const char* file;
  std::string text;
  // Without the file, or refused, the limit still holds.
  bool optional = false;
  // EINVAL says that a group above is bounded more tightly (v1), or that no machine has so much: it holds.
  bool may_exceed = false;
};

// In the order in which they must be written.
std::vector<LimitWrite> memory_writes(bool v2, std::uint64_t bytes);
std::vector<LimitWrite> pids_writes(std::uint32_t pids);
std::vector<LimitWrite> cpu_weight_writes(bool v2, std::uint32_t weight);
// nullopt: as much as there is.
std::vector<LimitWrite> cpu_max_writes(bool v2, std::optional<std::uint32_t> milli);

}  // namespace faaskit::cgroup
