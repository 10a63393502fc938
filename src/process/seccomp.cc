#include "process/seccomp.h"

#include <linux/seccomp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstddef>
#include <iterator>
#include <span>

namespace faaskit::process {
namespace {

using Code = std::vector<sock_filter>;

void append(Code& code, const Code& more) { code.insert(code.end(), more.begin(), more.end()); }

sock_filter load(std::uint32_t offset) { return BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset); }
sock_filter answer(std::uint32_t verdict) { return BPF_STMT(BPF_RET | BPF_K, verdict); }

// Both machines are little endian: the low half comes first.
std::uint32_t argument_offset(std::uint8_t argument) {
  return static_cast<std::uint32_t>(offsetof(seccomp_data, args) + argument * sizeof(std::uint64_t));
}

// Falls through if it holds.
Code clause_code(const Clause& clause) {
  Code code = {load(argument_offset(clause.argument))};
  if (clause.mask != ~0u) code.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, clause.mask));
  for (std::size_t i = 0; i < clause.values.size(); ++i) {
    const auto left = static_cast<std::uint8_t>(clause.values.size() - i - 1);
    // A match jumps over the refusal, or to it.
    const auto over = static_cast<std::uint8_t>(left + (clause.must_match ? 1 : 0));
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, clause.values[i], over,
                            static_cast<std::uint8_t>(!clause.must_match && left == 0 ? 1 : 0)));
  }
  code.push_back(answer(clause.otherwise));
  return code;
}

Code rule_code(const Rule& rule) {
  Code code;
  for (const Clause& clause : rule.clauses) append(code, clause_code(clause));
  code.push_back(answer(rule.verdict));
  return code;
}

// From `first` up to the next range's.
struct Range {
  std::uint32_t first;
  Code code;
};

bool equal(const Code& a, const Code& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const sock_filter& x, const sock_filter& y) {
    return x.code == y.code && x.jt == y.jt && x.jf == y.jf && x.k == y.k;
  });
}

std::vector<Range> ranges_of(const SyscallPolicy& policy) {
  std::vector<Rule> rules = policy.rules;
  std::sort(rules.begin(), rules.end(), [](const Rule& a, const Rule& b) { return a.number < b.number; });
  const Code rest = {answer(policy.otherwise)};
  std::vector<Range> ranges;
  const auto add = [&](std::uint32_t first, Code code) {
    if (ranges.empty() || !equal(ranges.back().code, code)) ranges.push_back({first, std::move(code)});
  };
  std::uint32_t next = 0;
  for (const Rule& rule : rules) {
    if (rule.number > next) add(next, rest);
    add(rule.number, rule_code(rule));
    next = rule.number + 1;
  }
  add(next, rest);
  return ranges;
}

Code search(std::span<const Range> ranges) {
  if (ranges.size() == 1) return ranges.front().code;
  const std::size_t middle = ranges.size() / 2;
  const Code below = search(ranges.first(middle));
  Code code;
  // A conditional jump reaches 255 instructions.
  if (below.size() <= 255) {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, ranges[middle].first,
                            static_cast<std::uint8_t>(below.size()), 0));
  } else {
    code.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, ranges[middle].first, 0, 1));
    code.push_back(BPF_STMT(BPF_JMP | BPF_JA, static_cast<std::uint32_t>(below.size())));
  }
  append(code, below);
  append(code, search(ranges.subspan(middle)));
  return code;
}

}  // namespace

std::vector<sock_filter> write_filter(const SyscallPolicy& policy) {
  // The same number is another call on another architecture, and a process may change between them.
  Code code = {load(offsetof(seccomp_data, arch)),
               BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, policy.architecture, 1, 0),
               answer(SECCOMP_RET_KILL_PROCESS), load(offsetof(seccomp_data, nr))};
  std::vector<Range> ranges = ranges_of(policy);
#if defined(__x86_64__)
  // Numbers of x32 arrive under this very architecture. What is above them is nobody's.
  const Range x32[] = {{0x40000000, {answer(SECCOMP_RET_KILL_PROCESS)}},
                       {0x80000000, {answer(policy.otherwise)}}};
  ranges.insert(ranges.end(), std::begin(x32), std::end(x32));
#endif
  append(code, search(ranges));
  return code;
}

bool seccomp_available() {
  const std::uint32_t action = SECCOMP_RET_KILL_PROCESS;
  return ::syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0;
}

}  // namespace faaskit::process
