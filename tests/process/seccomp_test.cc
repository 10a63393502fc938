// If these failed: a sandbox could make a system call that it must not, or not one that programs need.
#include "process/seccomp.h"

#include <linux/audit.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <map>

#include "stage.h"

namespace faaskit::process {
namespace {

// What the kernel would do with the filter: each instruction that write_filter() may use. `steps` counts.
std::uint32_t interpret(const std::vector<sock_filter>& filter, const seccomp_data& data,
                        int* steps = nullptr) {
  std::uint32_t accumulator = 0;
  for (std::size_t at = 0; at < filter.size(); ++at) {
    const sock_filter& one = filter[at];
    if (steps != nullptr) ++*steps;
    switch (one.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        REQUIRE(one.k % 4 == 0);
        REQUIRE(one.k + 4 <= sizeof data);
        std::memcpy(&accumulator, reinterpret_cast<const char*>(&data) + one.k, 4);
        break;
      case BPF_ALU | BPF_AND | BPF_K: accumulator &= one.k; break;
      case BPF_JMP | BPF_JA: at += one.k; break;
      case BPF_JMP | BPF_JEQ | BPF_K: at += accumulator == one.k ? one.jt : one.jf; break;
      case BPF_JMP | BPF_JGE | BPF_K: at += accumulator >= one.k ? one.jt : one.jf; break;
      case BPF_RET | BPF_K: return one.k;
      default: FAIL("no such instruction: " << one.code);
    }
  }
  FAIL("the filter has no end");
  return 0;
}

seccomp_data call(std::uint32_t number, std::vector<std::uint64_t> arguments = {}) {
  seccomp_data data{};
  data.nr = static_cast<int>(number);
  data.arch = sandbox_policy().architecture;
  std::copy(arguments.begin(), arguments.end(), data.args);
  return data;
}

constexpr std::uint32_t refused(int error) { return SECCOMP_RET_ERRNO | static_cast<std::uint32_t>(error); }

TEST_CASE("the filter says of each number what its rule says", "[process][seccomp]") {
  const SyscallPolicy policy = sandbox_policy();
  const std::vector<sock_filter> filter = write_filter(policy);
  CHECK(filter.size() <= BPF_MAXINSNS);
  std::map<std::uint32_t, const Rule*> rules;
  for (const Rule& rule : policy.rules) {
    CAPTURE(rule.number);
    CHECK(rules.emplace(rule.number, &rule).second);
  }
  int most = 0;
  for (std::uint32_t number = 0; number < 2000; ++number) {
    const auto found = rules.find(number);
    if (found != rules.end() && !found->second->clauses.empty()) continue;
    CAPTURE(number);
    int steps = 0;
    CHECK(interpret(filter, call(number), &steps) ==
          (found == rules.end() ? refused(ENOSYS) : found->second->verdict));
    most = std::max(most, steps);
  }
  CHECK(most <= 12);
}

TEST_CASE("calls of another architecture kill", "[process][seccomp]") {
  const std::vector<sock_filter> filter = write_filter(sandbox_policy());
  seccomp_data data = call(SYS_read);
  for (const std::uint32_t other : {AUDIT_ARCH_I386, AUDIT_ARCH_ARM, 0}) {
    data.arch = other;
    CHECK(interpret(filter, data) == SECCOMP_RET_KILL_PROCESS);
  }
  CHECK(interpret(filter, call(0xffffffff)) == refused(ENOSYS));
#if defined(__x86_64__)
  for (const std::uint32_t number : {0x40000000u, 0x40000000u | SYS_mount, 0x7fffffffu})
    CHECK(interpret(filter, call(number)) == SECCOMP_RET_KILL_PROCESS);
#endif
}

TEST_CASE("arguments decide where they must", "[process][seccomp]") {
  const std::vector<sock_filter> filter = write_filter(sandbox_policy());
  const auto says = [&](std::uint32_t number, std::vector<std::uint64_t> arguments) {
    return interpret(filter, call(number, std::move(arguments)));
  };
  const std::uint64_t thread =
      CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SETTLS;
  CHECK(says(SYS_clone, {thread}) == SECCOMP_RET_ALLOW);
  CHECK(says(SYS_clone, {SIGCHLD}) == SECCOMP_RET_ALLOW);
  for (const std::uint64_t flag :
       {std::uint64_t{CLONE_NEWUSER}, std::uint64_t{CLONE_NEWNS}, std::uint64_t{CLONE_NEWPID},
        std::uint64_t{CLONE_NEWNET}, std::uint64_t{CLONE_NEWIPC}, std::uint64_t{CLONE_NEWUTS},
        std::uint64_t{CLONE_NEWCGROUP}})
    CHECK(says(SYS_clone, {thread | flag}) == refused(EPERM));
  // What is in the upper half the kernel does not see, and so must not hide anything.
  CHECK(says(SYS_clone, {std::uint64_t{1} << 32 | CLONE_NEWUSER}) == refused(EPERM));
  CHECK(says(435 /* clone3 */, {}) == refused(ENOSYS));

  CHECK(says(SYS_personality, {0}) == SECCOMP_RET_ALLOW);
  CHECK(says(SYS_personality, {0xffffffff}) == SECCOMP_RET_ALLOW);
  CHECK(says(SYS_personality, {0x0040000}) == refused(EPERM));
  CHECK(says(SYS_ioctl, {1, TCGETS}) == SECCOMP_RET_ALLOW);
  CHECK(says(SYS_ioctl, {1, FIONBIO}) == SECCOMP_RET_ALLOW);
  CHECK(says(SYS_ioctl, {1, TIOCSTI}) == refused(EPERM));
  CHECK(says(SYS_ioctl, {1, std::uint64_t{7} << 32 | TIOCLINUX}) == refused(EPERM));

  for (const std::uint64_t family : {AF_UNIX, AF_INET, AF_INET6}) {
    CHECK(says(SYS_socket, {family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0}) == SECCOMP_RET_ALLOW);
    CHECK(says(SYS_socket, {family, SOCK_DGRAM, 0}) == SECCOMP_RET_ALLOW);
    CHECK(says(SYS_socket, {family, SOCK_RAW, 1}) == refused(EPERM));
    CHECK(says(SYS_socket, {family, 10 /* SOCK_PACKET */, 0}) == refused(EPERM));
    CHECK(says(SYS_socket, {family, SOCK_STREAM, 132 /* SCTP */}) == refused(EPROTONOSUPPORT));
  }
  for (std::uint64_t family = 0; family < 64; ++family)
    if (family != AF_UNIX && family != AF_INET && family != AF_INET6) {
      CHECK(says(SYS_socket, {family, SOCK_STREAM, 0}) == refused(EAFNOSUPPORT));
      CHECK(says(SYS_socketpair, {family, SOCK_STREAM, 0}) == refused(EAFNOSUPPORT));
    }
  CHECK(says(SYS_socketpair, {AF_UNIX, SOCK_STREAM, 0}) == SECCOMP_RET_ALLOW);
}

TEST_CASE("jumps farther than one instruction can go are made in two", "[process][seccomp]") {
  SyscallPolicy policy = sandbox_policy();
  policy.rules.clear();
  Clause many;
  for (std::uint32_t value = 0; value < 60; ++value) many.values.push_back(value * 3);
  many.otherwise = refused(EBADF);
  for (std::uint32_t number = 0; number < 60; ++number) {
    Rule rule{number * 2, refused(static_cast<int>(number)), {many}};
    rule.clauses.front().must_match = number % 2 == 0;
    policy.rules.push_back(rule);
  }
  const std::vector<sock_filter> filter = write_filter(policy);
  for (std::uint32_t number = 0; number < 120; ++number)
    for (const std::uint64_t argument : {0, 1, 3, 177, 178}) {
      CAPTURE(number, argument);
      const bool holds = (argument % 3 == 0) == (number / 2 % 2 == 0);
      CHECK(interpret(filter, call(number, {argument})) == (number % 2 != 0 ? policy.otherwise
                                                            : holds ? refused(static_cast<int>(number / 2))
                                                                    : refused(EBADF)));
    }
}

TEST_CASE("a sandbox is filtered, and so is what it starts", "[process][seccomp]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  const std::string field =
      "result = [l.split()[1] for l in open('/proc/self/status') if l.startswith('Seccomp:')]";
  CHECK(sandbox->ask(field) == "['2']");
  CHECK(sandbox->ask("import subprocess\nresult = subprocess.run(['grep', '-c', '^Seccomp:.2', "
                     "'/proc/self/status'], stdout=-1).stdout.decode().strip()") == "1");
  // A listed attack, an unlisted number, and one that no kernel has.
  const std::string answer =
      "import ctypes, os\nlibc = ctypes.CDLL(None, use_errno=True)\n"
      "def no(n, *a):\n  assert libc.syscall(n, *a) == -1\n  return ctypes.get_errno()\n";
  CHECK(sandbox->ask(answer + "result = no(" + std::to_string(SYS_bpf) +
                     ", 0, 0, 0), no(435, 0, 0), no(999)") == "(1, 38, 38)");
  // What programs need goes on: threads, processes, an event loop, sockets within.
  CHECK(sandbox->ask(R"(
import threading, asyncio, socket, mmap, tempfile, subprocess, multiprocessing
done = []
t = threading.Thread(target=lambda: done.append(1)); t.start(); t.join()
done.append(subprocess.run(['sh', '-c', 'exit 3']).returncode)
async def main():
    p = await asyncio.create_subprocess_exec('true')
    return await p.wait()
done.append(asyncio.run(main()))
a, b = socket.socketpair()
a.send(b'x'); done.append(b.recv(1))
with multiprocessing.get_context('fork').Pool(2) as pool: done.append(pool.map(abs, [-1, -2]))
with tempfile.NamedTemporaryFile() as f:
    f.write(bytes(4096)); f.flush(); done.append(len(mmap.mmap(f.fileno(), 0)))
result = done
)") == "[1, 3, 0, b'x', [1, 2], 4096]");
}

TEST_CASE("the kernel answers as the filter says, for every number it refuses", "[process][seccomp]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  const std::vector<sock_filter> filter = write_filter(sandbox_policy());
  std::string asked, expected;
  for (std::uint32_t number = 0; number < 1000; ++number) {
    const std::uint32_t verdict = interpret(filter, call(number));
    if ((verdict & SECCOMP_RET_ACTION_FULL) != SECCOMP_RET_ERRNO) continue;
#if defined(__x86_64__)
    // uretprobe and uprobe, which newer kernels pass by every filter: they end who makes them from anywhere
    // but a probe.
    if (number == 335 || number == 336) continue;
#endif
    asked += std::to_string(number) + ",";
    expected += (expected.empty() ? "" : ", ") + std::to_string(verdict & SECCOMP_RET_DATA);
  }
  CHECK(sandbox->ask("import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\nresult = []\n"
                     "for n in (" +
                     asked +
                     "):\n  result.append(ctypes.get_errno() if libc.syscall(n, 0, 0, 0, 0, 0, 0) == -1 "
                     "else 'done')\n") == "[" + expected + "]");
}

TEST_CASE("a call in the words of another architecture ends the sandbox", "[process][seccomp]") {
#if defined(__x86_64__)
  Stage stage;
  // mov eax, 20 (getpid of i386); int 0x80; ret
  for (const std::string way :
       {"ctypes.CDLL(None).syscall(0x40000000 | 39)",
        "m = mmap.mmap(-1, 4096, prot=7)\n"
        "m.write(b'\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3')\n"
        "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()"}) {
    auto sandbox = stage.sandbox();
    CHECK_FALSE(sandbox->call("import ctypes, mmap\n" + way).status.ok());
    CHECK(sandbox->wait() == "killed by signal 31");
  }
#else
  FAASKIT_SKIP("written for x86_64");
#endif
}

}  // namespace
}  // namespace faaskit::process
