// Spares: helpers in their seats and trees, waiting to be told what to be.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/port/freezer.h"
#include "faaskit/port/unique_fd.h"
#include "process/machine.h"
#include "process/uid_pool.h"
#include "spawner/spawn.h"

namespace faaskit::process {

// Maps the one id that a sandbox has inside to `uid` and `gid`; a process cannot do that for itself.
absl::Status map_ids(pid_t pid, std::uint32_t uid, std::uint32_t gid);

struct Spare {
  spawner::Child child;
  UniqueFd control;
  std::uint32_t uid = 0;
  std::string seat_path;
};

// What is the same for all spares of a factory.
struct SpareKind {
  std::vector<HostPath> tree;
  std::vector<std::pair<std::string, std::string>> files;  // in /faaskit, with their content
  Namespaces namespaces;
  std::uint64_t tmp_bytes = 0;
  std::chrono::milliseconds setup_timeout{};
};

// A spare owns its uid until it is discarded; whoever takes one and makes a sandbox of it owns that from then
// on. Thread-safe; all but the destructor may block.
class Spares {
 public:
  // `uids`: null where the user namespace comes first; all sandboxes then run as this process's own user. One
  // is made and ended at once, to see whether it can be done.
  static absl::StatusOr<std::unique_ptr<Spares>> open(SpareKind kind, std::unique_ptr<UidPool> uids);
  ~Spares();
  Spares(const Spares&) = delete;
  Spares& operator=(const Spares&) = delete;

  const SpareKind& kind() const { return kind_; }

  // Makes one in `seat`, unless one is there.
  absl::Status park(Seat& seat);
  // The one parked in `seat`, or a new one.
  absl::StatusOr<Spare> take(Seat& seat);
  // Kills it; its uid is free once it is dead.
  void discard(Spare spare);
  void give_back(std::uint32_t uid) {
    if (uids_) uids_->give_back(uid);
  }

 private:
  Spares(SpareKind kind, std::unique_ptr<UidPool> uids) : kind_(std::move(kind)), uids_(std::move(uids)) {}
  // `seat`: null for none.
  absl::StatusOr<Spare> make(Seat* seat);
  void clear_ended();

  const SpareKind kind_;
  UniqueFd image_;
  const std::unique_ptr<UidPool> uids_;

  std::mutex mutex_;
  std::map<const Seat*, Spare> parked_;
  std::vector<Spare> doomed_;  // killed, but not dead yet
};

}  // namespace faaskit::process
