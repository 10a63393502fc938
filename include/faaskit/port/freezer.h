// Freezer: stops and continues all processes of a sandbox through the kernel, and owns the cgroups that
// hold its limits.
//
// prepare() yields a Seat: the place a sandbox will be born into. The factory fills it, the host freezes
// and thaws it, and in the end destroys it.
//
// Order: a call is sent first and thawed second; a thaw may overtake an unfinished freeze.
// Kernel: admin-guide/cgroup-v2 "cgroup.freeze", cgroup-v1/freezer-subsystem. On v1 a frozen process
// ignores SIGKILL until it is thawed; on v2 it dies.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/core/export.h"

namespace faaskit {

enum class FreezerKind : std::uint8_t {
  cgroup_v2,     // cgroup.freeze; sandboxes are born in their group
  cgroup_v1,     // freezer.state, with one empty group kept frozen (28 to 44 times faster)
  stop_signals,  // SIGSTOP/SIGCONT to the sandbox's first process: visible to it, and not to its children
  none,          // never frozen
};
FAASKIT_EXPORT std::string_view to_string(FreezerKind kind);

struct ResourceLimits {
  std::uint64_t memory_bytes = 256ull << 20;  // whole sandbox, its tmpfs included
  std::uint32_t pids = 64;
  std::uint32_t cpu_weight = 100;  // cgroup v2 scale, 1..10000: the share where CPUs are short
  // At most so much CPU time per time, in thousandths of one CPU: 500 is half a CPU, 2000 are two. 10 and
  // more. nullopt: as much as there is.
  std::optional<std::uint32_t> cpu_max_milli = {};
};

struct SeatUsage {
  std::uint64_t memory_peak_bytes = 0;
  std::string_view memory_source{};  // "memory.peak", "memory.max_usage_in_bytes", "VmHWM"
  bool oom_killed = false;
};

class FAASKIT_EXPORT Seat {
 public:
  Seat(const Seat&) = delete;
  Seat& operator=(const Seat&) = delete;
  // Gives up the seat without waiting; what is left is swept by the next start of the same instance.
  virtual ~Seat() = default;

  // Directory to be born into with CLONE_INTO_CGROUP; -1 if the machine has no v2 hierarchy.
  virtual int cgroup_v2_fd() const = 0;
  // For people: the cgroup's path; empty without cgroups.
  virtual std::string path() const = 0;
  // Puts `pid` into every group that it was not born into (v1 controllers, v1 freezer). Call it for a
  // parked spare only: the write costs up to 13 ms after an idle gap. May block.
  virtual absl::Status adopt(pid_t pid) = 0;
  // Replaces the limits given to prepare(), for a seat that was made before its function was known.
  virtual absl::Status set_limits(const ResourceLimits& limits) = 0;

  // One write each, from the sandbox's home shard, and no waiting: freeze() only asks.
  virtual absl::Status freeze() = 0;
  virtual absl::Status thaw() = 0;
  // What the kernel says now; one read. nullopt if it cannot be known (FreezerKind::none).
  virtual std::optional<bool> frozen() = 0;

  // SIGKILL for everything inside, then thaw, so that it dies on v1 too. Idempotent. Does not wait.
  virtual absl::Status kill() = 0;
  // Removes the groups once nothing lives in them. kFailedPrecondition while something does; call
  // again. May block.
  virtual absl::Status remove() = 0;

  // Starts a new measurement of peak memory where the kernel can; one or no write.
  virtual void reset_peak() = 0;
  virtual SeatUsage usage() = 0;
  // As usage(), but for the peak alone: one read, for every call. From the sandbox's home shard.
  virtual SeatUsage peak() { return usage(); }

 protected:
  Seat() = default;
};

struct SeatSpec {
  // Unique per instance; becomes the directory's name.
  std::string name{};
  ResourceLimits limits = {};
};

class FAASKIT_EXPORT Freezer {
 public:
  Freezer(const Freezer&) = delete;
  Freezer& operator=(const Freezer&) = delete;
  virtual ~Freezer() = default;
  virtual FreezerKind kind() const = 0;
  // Which of memory, pids and cpu limits are really enforced here, for `doctor` and for records.
  virtual std::string_view limits_source() const = 0;
  // Of memory, pids and cpu, the limits that are not enforced here: "memory, pids". Empty: all are.
  virtual std::string missing_limits() const = 0;
  // Makes the groups with their limits set. May block: call it on the blocking executor.
  //   kAlreadyExists      a seat of that name is there
  //   kResourceExhausted  the kernel is out of groups, descriptors or memory
  //   kPermissionDenied   EACCES, EPERM: fix the deployment
  virtual absl::StatusOr<std::unique_ptr<Seat>> prepare(const SeatSpec& spec) = 0;

 protected:
  Freezer() = default;
};

}  // namespace faaskit
