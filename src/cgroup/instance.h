// Instance: one live freezer's claim on the machine: its lock, its record and its guardian.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/port/unique_fd.h"
#include "spawner/spawn.h"

namespace faaskit::cgroup {

// "faaskit-<instance>": the name of our group in every hierarchy.
std::string group_name(const std::string& instance);
// [a-z0-9-], 1 to 48 characters.
absl::Status validate_instance(const std::string& name);

// Absolute, a directory, ours, and nobody else may write it; yields it without trailing slashes. kNotFound:
// not there.
absl::StatusOr<std::string> checked_runtime_dir(const std::string& path);

// Takes the name first, then makes the groups, then has them guarded. The name is the runtime directory's,
// the hierarchies may be shared with others who use it too: only groups that were made here are ever cleared.
class Instance {
 public:
  // Takes the lock. What a dead instance of the same name left is removed first.
  static absl::StatusOr<std::unique_ptr<Instance>> open(const std::string& runtime_dir,
                                                        const std::string& name);
  // Lets the guardian clear up and waits for it.
  ~Instance();
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  // Makes the group and yields its directory; kAlreadyExists: it is somebody else's. `kind` is how the
  // guardian is to clear it: "v2", "v1f" (freezer) or "v1".
  absl::StatusOr<UniqueFd> make_group(const std::string& kind, const std::string& path);
  // For the groups made so far. Yields whether one had to be started; false: it is there. Any thread.
  absl::StatusOr<bool> ensure_guardian();

  // Runs the clean-up now; OK if nothing is left.
  absl::Status close();

 private:
  Instance() = default;
  absl::Status start_guardian();

  std::string dir_;
  std::vector<std::string> arguments_;
  UniqueFd image_;
  UniqueFd lock_;
  UniqueFd record_;
  std::mutex guardian_mutex_;
  UniqueFd control_;  // the guardian sees its end
  spawner::Child guardian_;
};

enum class Swept { removed, alive, failed };
// One entry of a runtime directory. `detail` says what would not go.
Swept sweep_instance(const std::string& runtime_dir, const std::string& name, std::string& detail);

}  // namespace faaskit::cgroup
