// Freezer on cgroup v2, v1 or both, and without cgroups on stop signals; limits wherever the machine has
// their controllers. missing_limits() says what is not enforced, and an event why.
//
// Place: groups are made in the process's own group. On v2 a group that holds processes cannot give memory
// and pids to groups below; then they are made in the nearest group above that can, and an event says where:
// limits given to this process do not hold for sandboxes there.
// Names: every group is "<parent>/faaskit-<instance>/<seat>". Beside the groups an instance owns
// "<runtime_dir>/<instance>/" with a lock that lives as long as the instance or its guardian.
// Guardian: a tiny process in a session of its own. When the host ends, be it by SIGKILL, the guardian
// kills what lives in the instance's groups, removes them and the directory, and ends. Without cgroups it
// has nothing to find processes by; those end when they see their channel closed. It watches the process that
// made the freezer: daemonise first. It is a child of that process, whose end sends SIGCHLD; an application
// that waits for every child takes nothing from us. If it is killed, the next prepare() starts another.
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
  automatic,  // cgroup_v2, else cgroup_v1; never anything weaker
  cgroup_v2,
  cgroup_v1,     // also on a machine with v2, which is then not used at all
  stop_signals,  // needs no group; those that can be made serve limits and clean-up
  none,          // likewise
};

struct FreezerOptions {
  // Names this host among all on the machine: [a-z0-9-], 1 to 48 characters.
  std::string instance;
  Choice choice = Choice::automatic;
  // May be null.
  std::shared_ptr<EventSink> events = nullptr;
  // Absolute. Private to the user of this process; made if it is not there. Its parent must exist.
  std::string runtime_dir = "/run/faaskit";
  ProbeOptions probe = {};
};

// Takes the instance's lock, starts the guardian, makes the groups all seats will be in.
//   kInvalidArgument     a bad instance name; a relative runtime_dir
//   kAlreadyExists       the instance is alive (or its guardian still busy, after 6 s), or another host, with
//                        another runtime directory, has a group of that name
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
//   kInvalidArgument     a relative path
//   kFailedPrecondition  not ours, or others may write it: its records are not to be trusted
FAASKIT_EXPORT absl::StatusOr<SweepReport> sweep(const std::string& runtime_dir = "/run/faaskit",
                                                 EventSink* events = nullptr);

}  // namespace faaskit::cgroup
