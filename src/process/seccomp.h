// Which system calls a sandbox may make, and the filter that holds it to them. Values only: nothing here
// installs anything.
//
// Kernel: userspace-api/seccomp_filter. A filter is classic BPF; for system calls that are allowed whatever
// their arguments the kernel remembers so and does not run it.
#pragma once

#include <linux/filter.h>

#include <cstdint>
#include <vector>

namespace faaskit::process {

// What one argument must be; its low 32 bits, which is all that the kernel looks at where these are used.
struct Clause {
  std::uint8_t argument = 0;
  std::uint32_t mask = ~0u;
  std::vector<std::uint32_t> values{};
  bool must_match = true;       // false: must match none of them
  std::uint32_t otherwise = 0;  // SECCOMP_RET_*
};

struct Rule {
  std::uint32_t number = 0;
  std::uint32_t verdict = 0;  // SECCOMP_RET_*, if all clauses hold
  std::vector<Clause> clauses{};
};

struct SyscallPolicy {
  std::uint32_t architecture = 0;  // AUDIT_ARCH_*; another one kills the process
  std::vector<Rule> rules{};       // each number once
  std::uint32_t otherwise = 0;     // for numbers without a rule
};

// Of the machine this was compiled for.
SyscallPolicy sandbox_policy();

// A binary search by number, so that no call is far from its verdict.
std::vector<sock_filter> write_filter(const SyscallPolicy& policy);

// Whether this kernel runs filters that can kill a process.
bool seccomp_available();

}  // namespace faaskit::process
