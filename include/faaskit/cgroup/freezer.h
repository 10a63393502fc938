// Freezer on cgroup v2, v1 or both, and without cgroups on stop signals; limits wherever the machine has
// their controllers.
//
// Names: every group is "<parent>/faaskit-<instance>/<seat>". Beside the groups an instance owns
// "<runtime_dir>/<instance>/" with a lock that lives as long as the instance or its guardian.
// Guardian: a tiny process in a session of its own. When the host ends, be it by SIGKILL, the guardian
// kills what lives in the instance's groups, removes them and the directory, and ends. Without cgroups it
// has nothing to find processes by; those end when they see their channel closed.
// Descriptors: one per seat once its sandbox is born (cgroup.freeze or freezer.state); the others are opened
// when they are needed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/cgroup/layout.h"
#include "faaskit/core/export.h"
#include "faaskit/port/event_sink.h"
#include "faaskit/port/freezer.h"

namespace faaskit::cgroup {

enum class Choice : std::uint8_t {
  automatic,     // cgroup_v2, else cgroup_v1; never anything weaker
  cgroup_v2,
  cgroup_v1,     // also on a machine with v2, which is then not used at all
  stop_signals,
  none,
};

struct FreezerOptions {
  // Names this host among all on the machine: [a-z0-9-], 1 to 48 characters.
  std::string instance;
  Choice choice = Choice::automatic;
  // May be null.
  std::shared_ptr<EventSink> events = nullptr;
  // Private to root; made if it is not there. Its parent must exist.
  std::string runtime_dir = "/run/faaskit";
  ProbeOptions probe = {};
};

// Takes the instance's lock, starts the guardian, makes the groups all seats will be in.
//   kInvalidArgument     a bad instance name
//   kAlreadyExists       the instance is alive (or its guardian still busy, after 6 s)
//   kFailedPrecondition  the chosen mechanism is not on this machine: says what is
//   kPermissionDenied    groups or the runtime directory may not be made
// Destroying the freezer kills whatever its seats still hold and removes all of it; it may block for that.
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<Freezer>> make_freezer(FreezerOptions options);

struct SweepReport {
  int removed = 0;  // instances of which nothing is left
  int alive = 0;    // left alone
  int failed = 0;   // something would not go; an event says what
};

// Removes what dead instances left behind: processes, groups, mounts below their runtime directory, and that
// directory. Knows them by their records there; touches nothing of a live instance and nothing else. May
// block, 5 s for each instance that resists. A directory that does not exist is clean.
FAASKIT_EXPORT absl::StatusOr<SweepReport> sweep(const std::string& runtime_dir = "/run/faaskit",
                                                 EventSink* events = nullptr);

}  // namespace faaskit::cgroup
