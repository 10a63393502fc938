// Reaping a sandbox's process by the pidfd that SandboxHandles carries.
//
// execve resets a child's termination signal to SIGCHLD, so a sandbox is an ordinary child to the
// application: its own waitpid(-1) may be faster than we are. The pidfd still tells that the process has
// ended, and on Linux 6.15 and later how.
#pragma once

#include <cstdint>
#include <string>

#include "faaskit/core/export.h"

namespace faaskit::process {

struct ExitInfo {
  enum class How : std::uint8_t {
    running,    // not ended yet; nothing was reaped
    exited,     // value: exit status
    signalled,  // value: signal number
    lost,       // ended, but somebody else reaped it and the kernel does not say how
  };
  How how = How::running;
  int value = 0;
};
FAASKIT_EXPORT std::string to_string(const ExitInfo& info);  // "exited with status 1", "killed by signal 9"

// Never blocks. Call it when the pidfd reads as ready; once it answers anything but `running`, the process
// is reaped, and asking again answers the same or `lost`.
FAASKIT_EXPORT ExitInfo reap(int pidfd);

}  // namespace faaskit::process
