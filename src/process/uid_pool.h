// UidPool: which uids of the range are free, among all hosts of the machine.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/port/unique_fd.h"

namespace faaskit::process {

// Byte N of "<runtime_dir>/uids" is locked by the host that uses uid N; the kernel unlocks what a host that
// died had. Thread-safe.
class UidPool {
 public:
  static absl::StatusOr<std::unique_ptr<UidPool>> open(const std::string& runtime_dir, std::uint32_t base,
                                                       std::uint32_t count);
  // kResourceExhausted: none is free; says how many there are.
  absl::StatusOr<std::uint32_t> take();
  void give_back(std::uint32_t uid);

 private:
  UidPool(std::uint32_t base, std::uint32_t count) : base_(base), used_(count, false) {}
  bool lock(std::uint32_t uid, bool locked);

  std::mutex mutex_;
  UniqueFd file_;
  const std::uint32_t base_;
  std::vector<bool> used_;
  std::uint32_t next_ = 0;
};

}  // namespace faaskit::process
