// Instance: one live freezer's claim on the machine: its lock, its record and its guardian.
#pragma once

#include <memory>
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

class Instance {
 public:
  // `groups`: what the guardian is to clear, as it expects its arguments ("v2:/path"); none need exist yet.
  // What a dead instance of the same name left is removed first.
  static absl::StatusOr<std::unique_ptr<Instance>> open(const std::string& runtime_dir, const std::string& name,
                                                        const std::vector<std::string>& groups);
  // Lets the guardian clear up and waits for it.
  ~Instance();
  Instance(const Instance&) = delete;
  Instance& operator=(const Instance&) = delete;

  // Runs the clean-up now; OK if nothing is left.
  absl::Status close();

 private:
  Instance() = default;

  std::string name_;
  std::vector<std::string> arguments_;
  UniqueFd image_;
  UniqueFd lock_;
  UniqueFd pipe_;  // write end; the guardian sees it end
  spawner::Child guardian_;
};

enum class Swept { removed, alive, failed };
// One entry of a runtime directory. `detail` says what would not go.
Swept sweep_instance(const std::string& runtime_dir, const std::string& name, std::string& detail);

}  // namespace faaskit::cgroup
