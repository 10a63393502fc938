#include "spawner/spawn.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstddef>
#include <cstring>

#include <absl/strings/str_cat.h>

#include "spawner/protocol.h"
#include "support/errno_status.h"

extern "C" const char faaskit_spawner_image_begin[];
extern "C" const char faaskit_spawner_image_end[];

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif
#ifndef P_PIDFD
#define P_PIDFD static_cast<idtype_t>(3)
#endif

namespace faaskit::spawner {
namespace {

// The kernel's struct clone_args; its header clashes with libc's <sched.h> on some systems.
struct CloneArgs {
  std::uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid,
      set_tid_size, cgroup;
};
constexpr std::uint64_t kCloneVm = 0x100, kClonePidfd = 0x1000, kCloneVfork = 0x4000,
                        kCloneNewUser = 0x10000000, kCloneIntoCgroup = 0x200000000ull;
constexpr std::size_t kStackBytes = 64 << 10;
constexpr int kFirstFreeFd = 64;  // above every number the child gives a meaning to

struct Start {
  bool own_user_namespace;
  int image;
  int null;
  const int* fds;
  int fd_count;
  char* const* argv;
  int error;  // set by the child: which errno kept it from becoming the helper
};

// In the child. The kernel says EINVAL where the limit on descriptors is not even that high: they have run
// out.
__attribute__((noinline, no_sanitize("address", "thread", "undefined"))) long move_up(int fd) {
  const long moved = ::syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, kFirstFreeFd);
  if (moved < 0 && errno == EINVAL) errno = EMFILE;
  return moved;
}

// Runs in the child, on a stack of its own but in the parent's memory: system calls only.
__attribute__((noinline, noreturn, no_sanitize("address", "thread", "undefined"))) void become_helper(
    void* arg) {
  auto* start = static_cast<Start*>(arg);
  // Two steps, since a source may sit on a number that another one is to get.
  int moved[16];
  const long image = move_up(start->image);
  const long null = move_up(start->null);
  bool ok = image >= 0 && null >= 0;
  for (int i = 0; ok && i < start->fd_count; ++i) {
    moved[i] = static_cast<int>(move_up(start->fds[i]));
    ok = moved[i] >= 0;
  }
  for (int fd = 0; ok && fd < 3; ++fd) ok = ::syscall(SYS_dup3, null, fd, 0) >= 0;
  if (ok) ok = ::syscall(SYS_close_range, 3u, ~0u, CLOSE_RANGE_CLOEXEC) == 0;
  for (int i = 0; ok && i < start->fd_count; ++i)
    ok = ::syscall(SYS_dup3, moved[i], kSpawnerControlFd + i, 0) >= 0;
  // In a new user namespace we have every capability and no name: nobody has mapped our uid yet. An exec
  // takes them from everybody but root; ambient ones it leaves.
  if (ok && start->own_user_namespace) {
    __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct sets[2];
    ok = ::syscall(SYS_capget, &header, sets) == 0;
    sets[0].inheritable = sets[0].permitted;
    sets[1].inheritable = sets[1].permitted;
    if (ok) ok = ::syscall(SYS_capset, &header, sets) == 0;
    for (int i = 0; ok && i < 64; ++i) {
      if ((sets[i / 32].permitted >> (i % 32) & 1) != 0)
        ok = ::syscall(SYS_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, i, 0, 0) == 0;
    }
  }
  if (ok) {
    char* const environment[] = {nullptr};
    ::syscall(SYS_execveat, image, "", start->argv, environment, AT_EMPTY_PATH);
  }
  start->error = errno;
  for (;;) ::syscall(SYS_exit_group, 127);
}

// clone3 that calls `child(arg)` on args.stack. In assembly, because a child that returned through the
// frames of a shared or foreign stack would pull them from under the parent.
long clone3_call(CloneArgs* args, void (*child)(void*), void* arg) {
#if defined(__x86_64__)
  long result = SYS_clone3;
  register void (*fn)(void*) __asm__("r12") = child;
  register void* fn_arg __asm__("r13") = arg;
  __asm__ volatile(
      "syscall\n\t"
      "test %%rax, %%rax\n\t"
      "jnz 1f\n\t"
      "xor %%ebp, %%ebp\n\t"
      "mov %%r13, %%rdi\n\t"
      "call *%%r12\n\t"
      "ud2\n\t"
      "1:"
      : "+a"(result)
      : "D"(args), "S"(sizeof *args), "r"(fn), "r"(fn_arg)
      : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = SYS_clone3;
  register long x0 __asm__("x0") = reinterpret_cast<long>(args);
  register long x1 __asm__("x1") = sizeof *args;
  register void (*fn)(void*) __asm__("x19") = child;
  register void* fn_arg __asm__("x20") = arg;
  __asm__ volatile(
      "svc 0\n\t"
      "cbnz x0, 1f\n\t"
      "mov x29, #0\n\t"
      "mov x0, x20\n\t"
      "blr x19\n\t"
      "brk #0\n\t"
      "1:"
      : "+r"(x0)
      : "r"(x8), "r"(x1), "r"(fn), "r"(fn_arg)
      : "memory");
  return x0;
#else
#error "faaskit: process sandboxes know x86_64 and aarch64"
#endif
}

// No handler of the application may run in a child that shares its memory; the helper unblocks again.
class AllSignalsBlocked {
 public:
  AllSignalsBlocked() {
    const std::uint64_t all = ~std::uint64_t{0};
    ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &all, &before_, sizeof before_);
  }
  ~AllSignalsBlocked() { ::syscall(SYS_rt_sigprocmask, SIG_SETMASK, &before_, nullptr, sizeof before_); }
  AllSignalsBlocked(const AllSignalsBlocked&) = delete;
  AllSignalsBlocked& operator=(const AllSignalsBlocked&) = delete;

 private:
  std::uint64_t before_ = 0;
};

}  // namespace

absl::StatusOr<UniqueFd> make_image() {
  const unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  UniqueFd file(::memfd_create("faaskit-spawner", flags | MFD_EXEC));
  if (!file && errno == EINVAL) file.reset(::memfd_create("faaskit-spawner", flags));  // before Linux 6.3
  if (!file) return errno_status(errno, "memfd_create");
  const char* at = faaskit_spawner_image_begin;
  while (at < faaskit_spawner_image_end) {
    const ssize_t wrote = ::write(file.get(), at, static_cast<std::size_t>(faaskit_spawner_image_end - at));
    if (wrote < 0) {
      if (errno == EINTR) continue;
      return errno_status(errno, "write of the helper's image");
    }
    at += wrote;
  }
  if (::fcntl(file.get(), F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) != 0)
    return errno_status(errno, "seal the helper's image");
  return file;
}

absl::StatusOr<Child> spawn(const SpawnParams& params) {
  if (params.fds.size() > 8) return absl::InvalidArgumentError("spawn: more than 8 descriptors");
  UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  if (!null) return errno_status(errno, "open /dev/null");
  std::vector<char*> argv;
  for (const std::string& arg : params.argv) argv.push_back(const_cast<char*>(arg.c_str()));
  argv.push_back(nullptr);

  void* stack =
      ::mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
  if (stack == MAP_FAILED)
    return errno_status(errno, absl::StrCat("mmap a stack of ", kStackBytes, " bytes"));

  Start start{(params.namespaces & kCloneNewUser) != 0, params.image, null.get(), params.fds.data(),
              static_cast<int>(params.fds.size()),      argv.data(),  0};
  int pidfd = -1;
  CloneArgs args{};
  args.flags = kCloneVm | kCloneVfork | kClonePidfd | params.namespaces;
  args.pidfd = reinterpret_cast<std::uint64_t>(&pidfd);
  args.stack = reinterpret_cast<std::uint64_t>(stack);
  args.stack_size = kStackBytes;
  if (params.cgroup >= 0) {
    args.flags |= kCloneIntoCgroup;
    args.cgroup = static_cast<std::uint64_t>(params.cgroup);
  }
  long pid;
  {
    AllSignalsBlocked blocked;
    pid = clone3_call(&args, &become_helper, &start);
  }
  ::munmap(stack, kStackBytes);
  if (pid < 0) return errno_status(static_cast<int>(-pid), "clone3");

  Child child{static_cast<pid_t>(pid), UniqueFd(pidfd)};
  if (start.error != 0) {
    wait_and_reap(child.pidfd.get(), 1000);
    return errno_status(start.error, "exec of the helper");
  }
  return child;
}

bool wait_and_reap(int pidfd, int timeout_ms, int* exit_status) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(timeout_ms);
  pollfd ended{pidfd, POLLIN, 0};
  for (;;) {
    const auto left =
        std::chrono::duration_cast<std::chrono::milliseconds>(deadline - std::chrono::steady_clock::now());
    const int ready = ::poll(&ended, 1, left.count() > 0 ? static_cast<int>(left.count()) : 0);
    if (ready > 0) break;
    if (ready == 0) return false;
    if (errno != EINTR) return false;
  }
  siginfo_t info{};
  int got;
  do {
    got = ::waitid(P_PIDFD, static_cast<id_t>(pidfd), &info, WEXITED | __WALL);
  } while (got != 0 && errno == EINTR);
  if (exit_status != nullptr) *exit_status = got == 0 && info.si_code == CLD_EXITED ? info.si_status : -1;
  return true;
}

bool kill_and_reap(const Child& child) {
  ::syscall(SYS_pidfd_send_signal, child.pidfd.get(), SIGKILL, nullptr, 0);
  return wait_and_reap(child.pidfd.get(), 2000);
}

}  // namespace faaskit::spawner
