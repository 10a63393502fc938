// SandboxFactory: makes the process (container, microVM) of a sandbox, inside a Seat, and hands out raw
// handles. It neither freezes nor speaks to what it made.
//
// Thread safety: every member from any thread; create() may block and is called on the blocking executor.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/sandbox.h"
#include "faaskit/port/freezer.h"
#include "faaskit/port/unique_fd.h"

namespace faaskit {

// From weakest to strongest; a function may demand a minimum.
enum class Isolation : std::uint8_t {
  none,       // an ordinary child process
  partial,    // some namespaces or limits are missing on this machine
  process,    // own uid, namespaces, no capabilities, limits
  container,  // an OCI runtime
  microvm,
};
FAASKIT_EXPORT std::string_view to_string(Isolation level);

// What of a network a sandbox has.
enum class Network : std::uint8_t {
  none,      // not even loopback
  loopback,  // 127.0.0.1 and ::1 of its own, shared with nobody
  host,      // the host's own, abstract sockets included: only where the platform allows it
};
FAASKIT_EXPORT std::string_view to_string(Network network);

// What is to run. Equal for all sandboxes of a function version.
struct FunctionSpec {
  std::string name{};
  Version version = 0;
  // "python3": `code_path` is a .py file or a folder, `handler` is "module:callable" ("main:handler"), or
  // "asgi:module:app", "wsgi:module:app". A folder `site-packages` in the code is importable.
  // "node": `code_path` is a .js, .cjs or .mjs file or a folder, `handler` is "module:function"
  // ("index:handler", the module's path without its extension).
  // "exec": `code_path` is an executable that speaks the channel on descriptor 3, or a folder that
  // holds it; `handler` is then its name in that folder.
  std::string runtime = "python3";
  std::string code_path{};
  std::string handler{};
  // Added to a fixed, minimal environment; names must match [A-Za-z_][A-Za-z0-9_]*.
  std::vector<std::pair<std::string, std::string>> env{};
  ResourceLimits limits{};
  Network network = Network::none;
  Isolation minimum_isolation = Isolation::process;
};

//   serve  becomes a sandbox that serves calls
//   check  looks at the code without running it: the runtime reads every source file for its syntax and
//          whether the handler is there, writes what is wrong to its output ("main.py:3: invalid syntax"),
//          and exits with 0 (well), 1 (at fault) or anything else (could not tell). No hello is sent.
//          For "exec" there is nothing to check: kUnimplemented.
enum class Purpose : std::uint8_t { serve, check };

struct CreateParams {
  const FunctionSpec* spec = nullptr;
  Origin origin = Origin::fresh;
  Purpose purpose = Purpose::serve;
  SandboxId id{};
  Seat* seat = nullptr;  // outlives the sandbox
  // Where the code is now; empty: the spec's code_path. It must stay until the sandbox is reaped. Without
  // symbolic links: one on the way was not there when the path was handed out, and is refused.
  std::string code_path{};
};

// Raw handles; whoever holds them owns them.
struct SandboxHandles {
  pid_t pid = -1;
  UniqueFd pidfd{};
  UniqueFd channel{};  // our end of a SOCK_STREAM socketpair, non-blocking
  UniqueFd output{};   // read end of the pipe that is both stdout and stderr, non-blocking
  Isolation isolation = Isolation::none;
  // Names what is missing when isolation is `partial` or `none`; empty otherwise.
  std::string missing{};
  // Of the time in create(), the part after the spare was told what to become.
  std::chrono::nanoseconds exec_time{};
};

class FAASKIT_EXPORT SandboxFactory {
 public:
  SandboxFactory(const SandboxFactory&) = delete;
  SandboxFactory& operator=(const SandboxFactory&) = delete;
  virtual ~SandboxFactory() = default;

  // What create() will provide on this machine.
  virtual Isolation isolation() const = 0;
  // Checks a spec without making anything: runtime known, code there, handler well-formed, isolation
  // sufficient. kInvalidArgument, kNotFound, kFailedPrecondition name the field.
  virtual absl::Status check(const FunctionSpec& spec) = 0;
  // Makes a spare inside `seat` ahead of time, so that a later create() there is fast. Optional. May block.
  virtual absl::Status park(Seat& seat) = 0;
  // Returns once the process exists (its own init is still running). Nothing half made is left on error.
  //   kResourceExhausted  EAGAIN, ENOMEM, EMFILE, pid limit, no uid free: with the operand
  //   kUnavailable        the set-up inside failed: says which step, with errno
  virtual absl::StatusOr<SandboxHandles> create(const CreateParams& params) = 0;
  // Asked when a sandbox's pidfd reads as ready: reaps it, and says how it ended ("exited with status 1",
  // "killed by signal 9"). Empty: it has not ended yet. Never blocks.
  virtual std::string reap(int pidfd) = 0;
  // The sandbox was reaped: what belonged to it (uid, directory) may be used again.
  virtual void released(SandboxId id) = 0;

 protected:
  SandboxFactory() = default;
};

}  // namespace faaskit
