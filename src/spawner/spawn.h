// Private: starts the static helper (protocol.h says what it does) without forking the host.
//
// clone3 with CLONE_VFORK | CLONE_VM: the caller's thread waits for the exec, no page table is copied, so
// the cost does not grow with the host. The child is known by pidfd from birth.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/port/unique_fd.h"

namespace faaskit::spawner {

// A sealed memory file holding the helper; one per owner, kept open as long as it starts children.
absl::StatusOr<UniqueFd> make_image();

struct Child {
  pid_t pid = -1;
  UniqueFd pidfd;
};

struct SpawnParams {
  int image = -1;
  // argv[0] is "faaskit-spare" or "faaskit-guardian".
  std::vector<std::string> argv;
  // Become descriptors 4, 5, ... of the child; nothing else is inherited, 0 to 2 are /dev/null.
  std::vector<int> fds;
  std::uint64_t namespaces = 0;  // CLONE_NEW*; with CLONE_NEWUSER the child has all capabilities in it
  int cgroup = -1;               // directory to be born into; -1: the caller's
};

// The environment is empty. kResourceExhausted: EAGAIN, ENOMEM, EMFILE; kPermissionDenied: namespaces.
absl::StatusOr<Child> spawn(const SpawnParams& params);

// Waits until the child of `pidfd` has ended and reaps it. False: not within the time, still running.
// ECHILD counts as ended: an application that waits for any child may have been faster, since an exec makes
// SIGCHLD the termination signal of every child. `exit_status` is -1 then, as for one that was killed: it
// proves nothing, so look for what the child was to do.
bool wait_and_reap(int pidfd, int timeout_ms, int* exit_status = nullptr);

// SIGKILL, then wait_and_reap() for 2 s.
bool kill_and_reap(const Child& child);

}  // namespace faaskit::spawner
