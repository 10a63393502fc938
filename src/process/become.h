// The last part of a start: what a spare becomes.
#pragma once

#include <sys/stat.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/port/sandbox_factory.h"
#include "process/seccomp.h"
#include "process/spares.h"

namespace faaskit::process {

// The command that runs a function of `spec`, as seen from inside. `code_file`: the code's name in /code;
// empty: the folder itself is the code.
struct Command {
  std::string python, node;  // interpreters
  std::string code_file;
  bool check = false;
};
std::vector<std::string> command_of(const FunctionSpec& spec, const Command& command);

struct Becoming {
  const FunctionSpec* spec = nullptr;
  std::string code_path;
  bool links = true;   // may it lead through symbolic links?
  struct stat code{};  // as it was checked
  Command command;     // but for its code_file
  std::uint32_t open_files = 0;
  bool user_namespace = false;
  bool own_network = true;                           // it was born in a network namespace of its own
  int host_network = -1;                             // the host's; only for functions that are to have it
  const std::vector<sock_filter>* filter = nullptr;  // of system calls; null: none
  bool user_first = false;                           // as Namespaces says
  std::chrono::milliseconds setup_timeout{};
};

// The handles but for isolation and missing. On error the spare is spoilt: discard it.
absl::StatusOr<SandboxHandles> become(Spare& spare, Seat& seat, const Becoming& what);

}  // namespace faaskit::process
