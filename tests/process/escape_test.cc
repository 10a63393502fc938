// If these failed: hostile function code would get out of its sandbox, or take the machine down from inside.
#include "stage.h"

#include <sys/inotify.h>
#include <sys/mount.h>
#include <sys/syscall.h>

namespace faaskit::process {
namespace {

// Python's way to a system call: result of `number(args)`, or the errno's name.
std::string system_call(long number, const std::string& args) {
  return "import ctypes\nlibc = ctypes.CDLL(None, use_errno=True)\n"
         "answer = libc.syscall(" +
         std::to_string(number) + ", " + args +
         ")\n"
         "if answer < 0: raise OSError(ctypes.get_errno(), '')";
}

TEST_CASE("mounts can be neither made nor changed", "[process]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  CHECK(sandbox->attempt(system_call(SYS_mount, "b'none', b'/tmp', b'tmpfs', 0, 0")) == "EPERM");
  CHECK(sandbox->attempt(system_call(
            SYS_mount, "0, b'/usr', 0, " + std::to_string(MS_REMOUNT | MS_BIND) + ", 0")) == "EPERM");
  CHECK(sandbox->attempt(system_call(SYS_mount, "0, b'/', 0, " + std::to_string(MS_REMOUNT) + ", 0")) ==
        "EPERM");
  CHECK(sandbox->attempt(system_call(SYS_umount2, "b'/code', 2")) == "EPERM");
  CHECK(sandbox->attempt(system_call(SYS_fsopen, "b'tmpfs', 0")) == "EPERM");
  CHECK(sandbox->attempt(system_call(SYS_open_tree, "-100, b'/', 1")) == "EPERM");
  CHECK(sandbox->attempt(system_call(SYS_pivot_root, "b'/tmp', b'/tmp'")) == "EPERM");
  CHECK(sandbox->attempt("os.chroot('/tmp')") == "EPERM");
  CHECK(sandbox->attempt(system_call(SYS_mknod, "b'/tmp/sda', 0o60666, 0x800")) == "EPERM");
  // Private, read-only, nosuid and nodev, each of them; /tmp and the devices may be written.
  CHECK(sandbox->ask(R"(
wrong = []
for line in open('/proc/self/mountinfo'):
    fields = line.split()
    where, options, rest = fields[4], fields[5].split(','), fields[6:]
    if rest[0] != '-': wrong.append((where, rest[0]))
    if 'nosuid' not in options: wrong.append((where, 'suid'))
    if 'nodev' not in options and not where.startswith('/dev/'): wrong.append((where, 'dev'))
    if 'ro' not in options and where not in ('/tmp', '/proc') and not where.startswith('/dev/'): wrong.append((where, 'rw'))
result = wrong
)") == "[]");
}

TEST_CASE("a sandbox makes no user namespace, and so no privileges of any kind", "[process]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  for (const std::string flag :
       {"0x10000000" /* user */, "0x10020000" /* user and mount */, "0x50000000" /* user and net */})
    CHECK(sandbox->attempt(system_call(SYS_unshare, flag)) == "EPERM");
  // The second wall, should the filter ever let one through.
  CHECK(sandbox->ask("result = open('/proc/sys/user/max_user_namespaces').read().strip()") == "0");
  for (const std::string flag : {"0x00020000", "0x40000000", "0x20000000", "0x04000000"})
    CHECK(sandbox->attempt(system_call(SYS_unshare, flag)) == "EPERM");
  CHECK(sandbox->ask(
            "import os\npid = os.fork()\nif pid == 0: os._exit(0)\nresult = os.waitpid(pid, 0)[1]") == "0");
}

TEST_CASE("set-user-id programs and file owners give nothing", "[process]") {
  Stage stage;
  stage.folders.write("probe2", "#!/bin/sh\n", 0755);
  std::filesystem::copy_file("/usr/bin/id", stage.folders.code() + "/suid");
  REQUIRE(::chmod((stage.folders.code() + "/suid").c_str(), 06755) == 0);
  auto sandbox = stage.sandbox();
  CHECK(sandbox->ask("import subprocess\nresult = subprocess.run(['/code/suid', '-u', '-r'], "
                     "stdout=-1).stdout.decode().strip()") == "1000");
  CHECK(sandbox->ask("import subprocess\nresult = subprocess.run(['/code/suid', '-u'], "
                     "stdout=-1).stdout.decode().strip()") == "1000");
  CHECK(sandbox->attempt("os.setuid(0)") == "EINVAL");  // no such user in there
  CHECK(sandbox->attempt("os.setgid(0)") == "EINVAL");
  CHECK(sandbox->attempt("os.setgroups([1000])") == "EPERM");
  CHECK(sandbox->attempt("os.chown('/tmp', 0, 0)") == "EINVAL");
}

TEST_CASE("processes outside can be neither traced nor signalled", "[process]") {
  Stage stage;
  auto other = stage.sandbox();
  auto sandbox = stage.sandbox();
  for (const pid_t pid : {::getpid(), other->pid(), ::getppid()}) {
    const std::string number = std::to_string(pid);
    CHECK(sandbox->attempt("os.kill(" + number + ", 9)") == "ESRCH");
    CHECK(sandbox->attempt(system_call(SYS_ptrace, "16, " + number + ", 0, 0")) == "EPERM");
    CHECK(sandbox->attempt(system_call(SYS_pidfd_open, number + ", 0")) == "ESRCH");
    CHECK(sandbox->attempt("os.listdir('/proc/" + number + "')") == "ENOENT");
  }
  // Everybody it may signal is in it. Pid 1 itself is not among them.
  CHECK(sandbox->attempt("os.kill(-1, 9)") == "ESRCH");
  CHECK(other->ask("result = 'alive'") == "alive");
}

TEST_CASE("cgroups and kernel doors are out of reach", "[process]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  CHECK(sandbox->ask("import os\nresult = os.path.exists('/sys/fs/cgroup')") == "False");
  CHECK(sandbox->ask("result = [l for l in open('/proc/self/mountinfo') if ' - cgroup' in l]") == "[]");
  CHECK(sandbox->attempt(system_call(SYS_mount, "b'none', b'/tmp', b'cgroup2', 0, 0")) == "EPERM");
  CHECK(sandbox->attempt(system_call(SYS_sethostname, "b'evil', 4")) == "EPERM");
  CHECK(sandbox->attempt("import time\ntime.clock_settime(time.CLOCK_REALTIME, time.time())") == "EPERM");
  CHECK(sandbox->attempt(system_call(SYS_reboot, "0, 0, 0, 0")) == "EPERM");
  CHECK_FALSE(sandbox->attempt("open('/proc/kcore', 'rb')").empty());
  CHECK_FALSE(sandbox->attempt("open('/proc/kmsg', 'rb')").empty());
  CHECK_FALSE(sandbox->attempt("open('/proc/1/root/etc/shadow')").empty());
  // The keys of whoever started the host are not inherited.
  CHECK(sandbox->ask("result = open('/proc/keys').read().count('host-secret')") == "0");
}

TEST_CASE("memory beyond the limit ends the sandbox, and the seat says why", "[process]") {
  Stage stage;
  if (std::string(stage.freezer->limits_source()).find("memory: missing") != std::string::npos)
    FAASKIT_SKIP("no memory controller");
  stage.spec.limits.memory_bytes = 48 << 20;
  auto sandbox = stage.sandbox();
  const CallResult result = sandbox->call("block = bytearray(200 << 20)");
  CHECK_FALSE(result.status.ok());
  CHECK(sandbox->wait() == "killed by signal 9");
  CHECK(sandbox->seat().usage().oom_killed);
}

TEST_CASE("what is written to /tmp counts against the memory limit", "[process]") {
  Stage stage;
  if (std::string(stage.freezer->limits_source()).find("memory: missing") != std::string::npos)
    FAASKIT_SKIP("no memory controller");
  stage.spec.limits.memory_bytes = 48 << 20;
  auto sandbox = stage.sandbox();
  const CallResult result =
      sandbox->call("f = open('/tmp/big', 'wb')\nfor _ in range(60): f.write(bytes(1 << 20)); f.flush()");
  CHECK_FALSE(result.status.ok());
  CHECK(sandbox->seat().usage().oom_killed);
}

TEST_CASE("a fork bomb stops at the limit and dies with its sandbox", "[process]") {
  Stage stage;
  if (std::string(stage.freezer->limits_source()).find("pids: missing") != std::string::npos)
    FAASKIT_SKIP("no pids controller");
  stage.spec.limits.pids = 20;
  auto sandbox = stage.sandbox();
  CHECK(sandbox->ask(R"(
import os, time
count = 1
try:
    while count < 1000:
        if os.fork() == 0:
            os.setsid()
            while True: time.sleep(1000)
        count += 1
except BlockingIOError: pass
result = count
)") == "20");
  const pid_t pid = sandbox->pid();
  const std::string children =
      text_of("/proc/" + std::to_string(pid) + "/task/" + std::to_string(pid) + "/children");
  std::istringstream list(children);
  sandbox->end();
  int seen = 0;
  for (pid_t child; list >> child; ++seen) CHECK(::kill(child, 0) != 0);
  CHECK(seen == 19);
}

TEST_CASE("asynchronous I/O, of which the machine has a fixed amount, is not there", "[process]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  CHECK(sandbox->attempt(system_call(SYS_io_setup, "1, (ctypes.c_uint64 * 1)()")) == "ENOSYS");
}

// The kernel keeps them for each user, and for the owner of the user's namespace.
TEST_CASE("what is counted by user runs out for one sandbox alone", "[process]") {
  // An ordinary user's sandboxes are all that user's: there each is bounded.
  const bool ordinary = GENERATE(false, true);
  Stage stage({.ordinary_user = ordinary});
  auto greedy = stage.sandbox();
  auto neighbour = stage.sandbox();
  const std::string took = greedy->ask(R"(
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGRTMIN])
watches = signals = 0
while libc.inotify_init1(os.O_CLOEXEC) >= 0: watches += 1
while libc.sigqueue(os.getpid(), int(signal.SIGRTMIN), ctypes.c_void_p(0)) == 0: signals += 1
result = f'{watches} {signals}'
)");
  INFO(took);
  CHECK(took.find("0 ") != 0);
  const std::string one_of_each = R"(
import ctypes, os, signal
libc = ctypes.CDLL(None, use_errno=True)
timer = ctypes.c_void_p()
result = f'{libc.inotify_init1(os.O_CLOEXEC) >= 0} {libc.timer_create(1, None, ctypes.byref(timer)) == 0}'
)";
  CHECK(neighbour->ask(one_of_each) == "True True");
  // And for us, who made them all.
  const int mine = ::inotify_init1(IN_CLOEXEC);
  CHECK(mine >= 0);
  if (mine >= 0) ::close(mine);
  timer_t timer{};
  const int made = ::timer_create(CLOCK_MONOTONIC, nullptr, &timer);
  CHECK(made == 0);
  if (made == 0) ::timer_delete(timer);
}

}  // namespace
}  // namespace faaskit::process
