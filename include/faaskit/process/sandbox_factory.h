// SandboxFactory that makes isolated processes with nothing but the kernel.
//
// A sandbox is one process from birth to end: a tiny helper is started inside the seat and in fresh pid,
// mount, network, ipc, uts and cgroup namespaces; it builds the sandbox's tree, enters a user namespace,
// gives up all it has and executes the runtime in place. It is pid 1 there, so its end takes all with it.
//
// What function code finds: uid and gid 1000 (outside: one pair of the range, shared with no other live
// sandbox), no supplementary groups, no capabilities, no_new_privs; a read-only tree of `host_paths`, its
// code in /code, a /proc of its own, a few devices, a private sized /tmp; the network its function asks for,
// none by default; only the system calls ordinary programs make; descriptors 0
// (/dev/null), 1 and 2 (the output pipe) and 3 (the channel); the environment PATH, HOME, LANG and the
// function's own.
//
// A spare made by park() has all of that up to the code: create() then takes well under a millisecond.
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
#include "faaskit/port/sandbox_factory.h"

namespace faaskit::process {

struct FactoryOptions {
  // uid and gid of a sandbox, as the machine sees them. No account may be in the range.
  std::uint32_t uid_base = 200000;
  std::uint32_t uid_count = 4096;
  // Where hosts agree on who uses which uid. The same for all hosts of the machine; private to root.
  std::string runtime_dir = "/run/faaskit";
  // A real ELF file below one of host_paths; empty: /usr/bin/python3 or /usr/local/bin/python3, resolved.
  // None there: functions of runtime "python3" are refused, everything else works.
  std::string python = {};
  // The same for Node.js and runtime "node"; empty: /usr/bin/node or /usr/local/bin/node.
  std::string node = {};
  // Source of the Python worker; empty: the one built in.
  std::string python_runtime = {};
  // Of the Node.js worker.
  std::string node_runtime = {};
  // What of the host a sandbox sees, read-only, nosuid, nodev. Symbolic links are copied, what is not there
  // is left out.
  std::vector<std::string> host_paths = {"/usr",
                                         "/bin",
                                         "/sbin",
                                         "/lib",
                                         "/lib32",
                                         "/lib64",
                                         "/libx32",
                                         "/etc/ld.so.cache",
                                         "/etc/alternatives",
                                         "/etc/localtime",
                                         "/etc/mime.types",
                                         "/etc/ssl/certs",
                                         "/etc/ssl/openssl.cnf",
                                         "/etc/pki/tls/certs",
                                         "/etc/pki/ca-trust/extracted"};
  // Whether a function may have the host's network (FunctionSpec::network). It then reaches whatever listens
  // there, abstract sockets included, and can be mistaken for the host. Off: such functions are refused.
  bool allow_host_network = false;
  // Size of the private /tmp, in which there may be one file or folder for each 4 KiB of it; counts against
  // the memory limit as it fills. Not 0.
  std::uint64_t tmp_bytes = 64ull << 20;
  std::uint32_t open_files = 1024;
  // For one step of the set-up inside; beyond it the sandbox is killed.
  std::chrono::milliseconds setup_timeout = std::chrono::seconds(5);
};

// kInvalidArgument names the field at fault. Succeeds on machines (and for users) where no sandbox can be
// made: isolation() then says `none`, and create() says what is missing.
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<SandboxFactory>> make_sandbox_factory(
    FactoryOptions options = {});

}  // namespace faaskit::process
