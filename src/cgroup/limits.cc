#include "cgroup/limits.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

namespace faaskit::cgroup {
namespace {

// The kernel's own default. Shorter periods stop a sandbox more often for the same share.
constexpr std::uint64_t kPeriodUs = 100'000;

}  // namespace

std::vector<LimitWrite> memory_writes(bool v2, std::uint64_t bytes) {
  const std::string text = std::to_string(bytes);
  if (v2)
    return {{"memory.max", text},
            // Swap would let a sandbox exceed its memory; absent without swap accounting.
            {"memory.swap.max", "0", true},
            // One victim alone leaves a half-dead sandbox.
            {"memory.oom.group", "1", true}};
  // The sum with swap may never be below the limit itself, so raising needs the other order.
  return {{"memory.memsw.limit_in_bytes", text, true},
          {"memory.limit_in_bytes", text},
          {"memory.memsw.limit_in_bytes", text, true}};
}

std::vector<LimitWrite> pids_writes(std::uint32_t pids) { return {{"pids.max", std::to_string(pids)}}; }

std::vector<LimitWrite> cpu_weight_writes(bool v2, std::uint32_t weight) {
  weight = std::clamp<std::uint32_t>(weight, 1, 10000);
  if (v2) return {{"cpu.weight", std::to_string(weight)}};
  // v1's scale has 1024 where v2's has 100, and begins at 2.
  return {{"cpu.shares", std::to_string(std::max(2u, weight * 1024 / 100))}};
}

std::vector<LimitWrite> cpu_max_writes(bool v2, std::optional<std::uint32_t> milli) {
  const std::string quota = milli ? std::to_string(*milli * kPeriodUs / 1000) : "";
  if (v2) return {{"cpu.max", absl::StrCat(milli ? quota : "max", " ", kPeriodUs), false, true}};
  // From one bound to another through none: the two files would else have to agree in between.
  std::vector<LimitWrite> writes = {{"cpu.cfs_quota_us", "-1"}};
  if (milli) {
    writes.push_back({"cpu.cfs_period_us", std::to_string(kPeriodUs)});
    writes.push_back({"cpu.cfs_quota_us", quota, false, true});
  }
  return writes;
}

}  // namespace faaskit::cgroup
