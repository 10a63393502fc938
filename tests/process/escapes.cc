#include "escapes.h"

#include <sys/syscall.h>

#include <cctype>

namespace faaskit::process {
namespace {

const Verdict kBlocked{Outcome::blocked, ""};
Verdict limited(const std::string& by) { return {Outcome::limited, by}; }
Verdict open_because(const std::string& why) { return {Outcome::open, why}; }

Escape row(std::string what, std::string body, std::string evidence, Verdict root = kBlocked) {
  Escape escape;
  escape.what = std::move(what);
  escape.body = std::move(body);
  escape.evidence = std::move(evidence);
  escape.expected[kRootHost] = root;
  escape.expected[kOrdinaryHost] = std::move(root);
  return escape;
}

// Where the host is an ordinary user it comes to something else.
Escape unless_ordinary(Verdict ordinary, Escape escape) {
  escape.expected[kOrdinaryHost] = std::move(ordinary);
  return escape;
}

// The sandbox dies of it, and whoever asks is told of what.
std::string dies(Stage&, Sandbox& sandbox, const std::string& code) {
  if (sandbox.call(code).status.ok()) return "it worked";
  return "blocked: " + sandbox.wait();
}

std::string dies_of_memory(Stage& stage, Sandbox& sandbox, const std::string& code) {
  if (stage.ordinary_user)
    return sandbox.ask(
        "import os\nready, done = os.pipe(), os.pipe()\n"
        "if os.fork() == 0:\n  block = bytearray(200 << 20)\n  os.write(ready[1], b'x')\n  os.read(done[0], "
        "1)\n"
        "  os._exit(0)\n"
        "os.close(ready[1])\n"
        "block = bytearray(200 << 20)\n"
        "result = 'it worked' if os.read(ready[0], 1) else 'limited: for all together'\nos.write(done[1], "
        "b'x')");
  if (sandbox.call(code).status.ok()) return "it worked";
  const std::string how = sandbox.wait();
  return "limited: " + how + (sandbox.seat().usage().oom_killed ? ", out of memory" : "");
}

std::string leaves_nothing(Stage&, Sandbox& sandbox, const std::string& code) {
  sandbox.ask(code);
  const std::string pid = std::to_string(sandbox.pid());
  std::istringstream list(text_of("/proc/" + pid + "/task/" + pid + "/children"));
  std::vector<pid_t> left;
  for (pid_t child; list >> child;) left.push_back(child);
  sandbox.end();
  for (const pid_t child : left)
    if (::kill(child, 0) == 0) return "it lives on";
  return left.empty() ? "it was never there" : "blocked: it died with its sandbox";
}

std::vector<Escape> make() {
  std::vector<Escape> rows = {
      // Files
      row("read a neighbour's /tmp", "open('/tmp/secret').read()", "ENOENT"),
      row("read a neighbour's code", "open(NEIGHBOUR_CODE).read()", "ENOENT"),
      row("read a neighbour's /proc", "os.listdir(f'/proc/{NEIGHBOUR}')", "ENOENT"),
      row("read the host's /etc/shadow", "open('/etc/shadow').read()", "ENOENT"),
      row("read the host's /root", "os.listdir('/root')", "ENOENT"),
      row("read the host's /tmp", "open(HOST_FILE).read()", "ENOENT"),
      row("read the library's state", "os.listdir(STATE)", "ENOENT"),
      row("read /proc/1/root", "open('/proc/1/root/etc/shadow').read()", "ENOENT|EACCES"),
      row("open a host file by its handle",
          "handle = (ctypes.c_char * 136)(*bytes([128, 0, 0, 0, 1, 0, 0, 0, 2]))\n"
          "call(SYS_open_by_handle_at, os.open('/usr', os.O_RDONLY), handle, 0)",
          "EPERM"),
      row("write its own code", "open('/code/probe.py', 'a').write('x')", "EROFS|EACCES"),
      row("write its runtime", "open('/faaskit/runtime.py', 'a').write('x')", "EROFS|EACCES"),
      row("write the host's programs", "open('/usr/bin/new', 'w')", "EROFS|EACCES"),
      row("see or write cgroup files", "os.listdir('/sys/fs/cgroup')", "ENOENT"),
      row("see /sys", "os.listdir('/sys')", "ENOENT"),
      row("write /proc/sys", "open('/proc/sys/kernel/core_pattern', 'w').write('|/tmp/x')", "EROFS|EACCES"),
      row("write /proc/sysrq-trigger", "open('/proc/sysrq-trigger', 'w').write('h')", "EROFS|EACCES|ENOENT"),
      row("read kernel memory (/proc/kcore)", "open('/proc/kcore', 'rb').read(1)", "EPERM|EACCES|ENOENT"),
      row("open /dev/mem, /dev/kmsg or a disk",
          "for name in ('mem', 'kmsg', 'sda', 'vda', 'kvm', 'fuse', 'net/tun'):\n"
          "  if os.path.lexists('/dev/' + name): return name\nopen('/dev/mem')",
          "ENOENT"),
      row("make a device node", "os.mknod('/tmp/mem', 0o20666, os.makedev(1, 1))", "EPERM"),
      // Mounts
      row("mount a file system", "call(SYS_mount, b'none', b'/tmp', b'tmpfs', 0, 0)", "EPERM"),
      row("mount cgroups", "call(SYS_mount, b'none', b'/tmp', b'cgroup2', 0, 0)", "EPERM"),
      row("bind-mount a folder", "call(SYS_mount, b'/proc', b'/tmp', None, 4096, 0)", "EPERM"),
      row("remount /usr for writing", "call(SYS_mount, None, b'/usr', None, 0x1020, 0)", "EPERM"),
      row("use the new mount calls",
          "for n in (SYS_fsopen, SYS_open_tree, SYS_move_mount, SYS_mount_setattr):\n"
          "  try: return call(n, -100, b'/', 1, 0, 0) and 'it worked'\n"
          "  except OSError as e:\n    if e.errno != 1: raise\nraise OSError(1, '')",
          "EPERM"),
      row("unmount what hides the host", "call(SYS_umount2, b'/code', 2)", "EPERM"),
      row("pivot_root", "call(SYS_pivot_root, b'/tmp', b'/tmp')", "EPERM"),
      row("chroot", "os.chroot('/tmp')", "EPERM"),
      // Processes
      row("trace a host process", "call(SYS_ptrace, 16, HOST, 0, 0)", "EPERM"),
      row("trace a neighbour", "call(SYS_ptrace, 16, NEIGHBOUR, 0, 0)", "EPERM"),
      row("read another process's memory", "call(SYS_process_vm_readv, NEIGHBOUR, None, 0, None, 0, 0)",
          "EPERM"),
      row("take another process's descriptors", "call(SYS_pidfd_getfd, 0, 0, 0)", "EPERM"),
      row("signal a host process", "os.kill(HOST, 0)", "ESRCH"),
      row("signal a neighbour", "os.kill(NEIGHBOUR, 0)", "ESRCH"),
      row("signal everybody (kill -1)", "os.kill(-1, 9)", "ESRCH"),
      row("open a host process (pidfd_open)", "os.pidfd_open(HOST)", "ESRCH"),
      row("use inherited descriptors",
          "extra = [n for n in os.listdir('/proc/self/fd') if int(n) > 3 and not "
          "os.path.realpath(f'/proc/self/fd/{n}').startswith(('/proc/', 'anon_inode'))"
          " and 'anon_inode' not in os.path.realpath(f'/proc/self/fd/{n}')]\n"
          "return f'open: {extra}' if extra else 'blocked: none but 0 to 3'",
          "blocked: none but 0 to 3"),
      row("read the host's environment",
          "return 'open' if b'FAASKIT_TEST_SECRET' in open('/proc/1/environ', 'rb').read() else 'blocked: "
          "not there'",
          "blocked: not there"),
      row("read the host's name", "return 'blocked: sandbox' if os.uname().nodename == 'sandbox' else 'open'",
          "blocked: sandbox"),
      row("change the host's name", "call(SYS_sethostname, b'evil', 4)", "EPERM"),
      // Privileges
      row("run a set-user-id program",
          "import subprocess\n"
          "who = subprocess.run(['/code/suid', '-u'], stdout=-1).stdout.decode().strip()\n"
          "return 'blocked: no effect' if who == '1000' else 'open: ' + who",
          "blocked: no effect"),
      row("become another user", "os.setuid(0)", "EINVAL"),
      row("get capabilities back",
          "data = (ctypes.c_uint32 * 6)(*([0xffffffff] * 6))\n"
          "call(SYS_capset, (ctypes.c_uint32 * 2)(0x20080522, 0), data)",
          "EPERM"),
      row("make a user namespace", "call(SYS_unshare, 0x10000000)", "EPERM"),
      row("make one with clone", "call(SYS_clone, 0x10000011, 0, 0, 0, 0)", "EPERM"),
      row("make one with clone3", "call(SYS_clone3, (ctypes.c_uint64 * 11)(0x10000000), 88)", "ENOSYS"),
      row("enter another namespace", "call(SYS_setns, os.open('/proc/self/ns/net', 0), 0)", "EPERM"),
      unless_ordinary(
          open_because("to the kernel it is its host's own user"),
          row("be taken for the host's user", "return 'it worked'", "blocked: a uid of its own|it worked")),
      unless_ordinary(
          open_because("groups cannot be dropped, and count as nobody's"),
          row("keep the host's groups", "return 'it worked' if os.getgroups() else 'blocked: none'",
              "blocked: none|it worked")),
      row("raise its priority", "os.nice(-5)", "EPERM"),
      row("raise its limits",
          "import resource\ntry: resource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))\n"
          "except ValueError: return 'blocked: hard limit'",
          "blocked: hard limit"),
      row("leave a core dump on the host",
          "import resource, signal\nif resource.getrlimit(resource.RLIMIT_CORE) != (0, 0): return 'open'\n"
          "pid = os.fork()\nif pid == 0: os.abort()\n"
          "return 'open' if os.WCOREDUMP(os.waitpid(pid, 0)[1]) else 'blocked: none written'",
          "blocked: none written"),
      row("be spared by the OOM killer", "os.write(os.open('/proc/self/oom_score_adj', 1), b'-500')",
          "EACCES"),
      // Kernel interfaces
      row("raw sockets", "socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)", "EPERM"),
      row("packet sockets", "socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)", "EAFNOSUPPORT"),
      row("netlink sockets", "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)", "EAFNOSUPPORT"),
      row("kernel keys", "call(SYS_keyctl, 0, -3, 0)", "EPERM"),
      row("bpf", "call(SYS_bpf, 0, 0, 0)", "EPERM"),
      row("perf events", "call(SYS_perf_event_open, 0, 0, -1, -1, 0)", "EPERM"),
      row("io_uring", "call(SYS_io_uring_setup, 8, (ctypes.c_char * 120)())", "EPERM"),
      row("userfaultfd", "call(SYS_userfaultfd, 1)", "EPERM"),
      row("load a kernel module", "call(SYS_finit_module, 0, b'', 0)", "EPERM"),
      row("load a kernel to boot", "call(SYS_kexec_load, 0, 0, 0, 0)", "EPERM"),
      row("read the kernel's log", "call(SYS_syslog, 10, 0, 0)", "EPERM"),
      row("reboot", "call(SYS_reboot, 0, 0, 0, 0)", "EPERM"),
      row("set the clock", "import time\ntime.clock_settime(time.CLOCK_REALTIME, time.time())", "EPERM"),
      row("type into a terminal", "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')", "EPERM"),
      row("calls of a 32-bit program",
          "import mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(b'\\xb8\\x14\\0\\0\\0\\xcd\\x80\\xc3')\n"
          "ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))()",
          "blocked: killed by signal 31"),
      // Others, by the network and by memory
      row("reach servers on the host's loopback", "socket.create_connection(('127.0.0.1', PORT), 5)",
          "ENETUNREACH"),
      row("the same with a loopback of its own", "socket.create_connection(('127.0.0.1', PORT), 5)",
          "ECONNREFUSED"),
      row("reach the world", "socket.create_connection(('192.0.2.1', 80), 5)", "ENETUNREACH"),
      row("reach the host's abstract sockets", "socket.socket(socket.AF_UNIX).connect(ABSTRACT)",
          "ECONNREFUSED"),
      row("the host's shared memory", "call(SYS_shmget, KEY, 0, 0)", "ENOENT"),
      // Resources
      row("fork without end",
          "count = 1\ntry:\n  while count < 1000:\n    if os.fork() == 0:\n      import time\n"
          "      while True: time.sleep(1000)\n    count += 1\n"
          "except BlockingIOError: return f'limited: {count} processes'",
          "limited: 64 processes", limited("by limits.pids")),
      row("leave a process behind",
          "import time\nif os.fork() == 0:\n  os.setsid()\n  while True: time.sleep(1000)\nreturn 'limited: "
          "left'",
          "blocked: it died with its sandbox"),
      unless_ordinary(open_because("limits.memory_bytes holds for each process, not for all together"),
                      row("take all memory", "block = bytearray(1 << 30)",
                          "limited: killed by signal 9, out of memory|it worked",
                          limited("by limits.memory_bytes: it alone is killed, and the caller is told why"))),
      row("fill /tmp",
          "import errno as e\nwritten = 0\nwith open('/tmp/big', 'wb', 0) as f:\n  try:\n"
          "    while written < 256: f.write(bytes(1 << 20)); written += 1\n"
          "  except OSError as error:\n    if error.errno != e.ENOSPC: raise\n"
          "    return f'limited: {written} MiB'",
          "limited: 64 MiB", limited("by tmp_bytes")),
      row("use up descriptors",
          "kept = []\ntry:\n  while True: kept.append(os.open('/dev/null', 0))\n"
          "except OSError as error:\n  if error.errno != 24: raise\n"
          "  for fd in kept: os.close(fd)\n  return 'limited: EMFILE' if len(kept) <= 1024 else 'open'",
          "limited: EMFILE", limited("by open_files")),
      unless_ordinary(open_because("there is no group to bound"),
                      row("take all CPU time",
                          "import time\nend = time.monotonic() + 0.6\nwhile time.monotonic() < end: pass\n"
                          "return f'limited: {time.process_time() < 100}'",
                          "limited: throttled|it worked",
                          limited("by limits.cpu_weight, and limits.cpu_max_milli if given"))),
      unless_ordinary(open_because("stop signals reach its first process only"),
                      row("use cycles while it is frozen", "return 'limited: it was awake'",
                          "blocked: it did not run|it worked")),
      // What is not hidden
      row("learn the machine's load and memory", "open('/proc/meminfo').read(); return 'it worked'",
          "it worked", open_because("/proc/meminfo, loadavg, cpuinfo are the machine's")),
      row("watch which programs others start (inotify)",
          "fd = libc.inotify_init()\nif fd < 0 or libc.inotify_add_watch(fd, b'/usr/bin', 0x20) < 0: "
          "raise OSError(ctypes.get_errno(), '')",
          "it worked", open_because("/usr is the host's own, not a copy")),
      row("lock files of /usr",
          "import fcntl\nfcntl.flock(open('/usr/bin/env', 'rb'), fcntl.LOCK_EX | fcntl.LOCK_NB)", "it worked",
          open_because("advisory, and it takes no right to write")),
      row("learn the path of its code on the host",
          "return 'it worked' if '/code' in "
          "[l.split()[4] for l in open('/proc/self/mountinfo')] else 'blocked: hidden'",
          "it worked", open_because("/proc/self/mountinfo names it")),
  };
  for (Escape& escape : rows) {
    if (escape.what == "calls of a 32-bit program") escape.outside = dies;
    if (escape.what == "fork without end") escape.needs = "pids";
    if (escape.what == "take all memory") {
      escape.needs = "memory";
      escape.outside = dies_of_memory;
    }
    if (escape.what == "be taken for the host's user") {
      escape.outside = [](Stage&, Sandbox& sandbox, const std::string&) {
        struct stat info{};
        // A process is owned by the user it acts as.
        if (::stat(("/proc/" + std::to_string(sandbox.pid())).c_str(), &info) != 0)
          return std::string("gone");
        return std::string(info.st_uid == ::geteuid() || info.st_uid == 0 ? "it worked"
                                                                          : "blocked: a uid of its own");
      };
    }
    if (escape.what == "leave a process behind") escape.outside = leaves_nothing;
    if (escape.what == "the same with a loopback of its own")
      escape.prepare = [](FunctionSpec& spec) { spec.network = Network::loopback; };
    if (escape.what == "take all CPU time") {
      escape.needs = "cpu";
      escape.prepare = [](FunctionSpec& spec) { spec.limits.cpu_max_milli = 100; };
      escape.outside = [](Stage& stage, Sandbox& sandbox, const std::string& code) {
        if (stage.ordinary_user)
          return sandbox.ask("import time\nwhile time.process_time() < 0.4: pass\nresult = 'it worked'");
        const auto used = [&] {
          std::istringstream words(text_of("/proc/" + std::to_string(sandbox.pid()) + "/schedstat"));
          std::uint64_t nanoseconds = 0;
          words >> nanoseconds;
          return nanoseconds;
        };
        sandbox.ask("result = 1");
        const std::uint64_t before = used();
        sandbox.ask(code);
        // 0.6 s of the clock, or a little more where it was late: 60 ms are its share, two periods' are 200.
        return std::string(used() - before < 400'000'000 ? "limited: throttled" : "it worked");
      };
    }
    if (escape.what == "use cycles while it is frozen")
      escape.outside = [](Stage& stage, Sandbox& sandbox, const std::string&) {
        sandbox.ask(stage.ordinary_user ? "import os\nif os.fork() == 0:\n  while True: pass\nresult = 1"
                                        : "import threading\ndef spin():\n  while True: pass\n"
                                          "threading.Thread(target=spin, daemon=True).start()\nresult = 1");
        std::string spinner = std::to_string(sandbox.pid());
        if (stage.ordinary_user) {
          std::istringstream list(text_of("/proc/" + spinner + "/task/" + spinner + "/children"));
          list >> spinner;
        }
        // CPU time of all its threads.
        const auto used = [&] {
          std::uint64_t all = 0;
          for (const auto& task : std::filesystem::directory_iterator("/proc/" + spinner + "/task")) {
            std::istringstream words(text_of(task.path().string() + "/schedstat"));
            std::uint64_t nanoseconds = 0;
            words >> nanoseconds;
            all += nanoseconds;
          }
          return all;
        };
        const std::uint64_t started = used();
        if (!eventually([&] { return used() > started; })) return std::string("it does not even spin");
        if (!sandbox.seat().freeze().ok()) return std::string("it could not be frozen");
        if (!eventually([&] { return sandbox.seat().frozen() == std::optional<bool>(true); }))
          return std::string("it did not freeze");
        const std::uint64_t before = used();
        const bool ran = eventually([&] { return used() != before; }, 100ms);
        return std::string(ran ? "it worked" : "blocked: it did not run");
      };
  }
  return rows;
}

const std::pair<const char*, long> kNumbers[] = {{"SYS_mount", SYS_mount},
                                                 {"SYS_umount2", SYS_umount2},
                                                 {"SYS_fsopen", SYS_fsopen},
                                                 {"SYS_open_tree", SYS_open_tree},
                                                 {"SYS_move_mount", SYS_move_mount},
                                                 {"SYS_mount_setattr", SYS_mount_setattr},
                                                 {"SYS_pivot_root", SYS_pivot_root},
                                                 {"SYS_ptrace", SYS_ptrace},
                                                 {"SYS_process_vm_readv", SYS_process_vm_readv},
                                                 {"SYS_pidfd_getfd", SYS_pidfd_getfd},
                                                 {"SYS_sethostname", SYS_sethostname},
                                                 {"SYS_capset", SYS_capset},
                                                 {"SYS_unshare", SYS_unshare},
                                                 {"SYS_clone", SYS_clone},
                                                 {"SYS_clone3", SYS_clone3},
                                                 {"SYS_setns", SYS_setns},
                                                 {"SYS_keyctl", SYS_keyctl},
                                                 {"SYS_bpf", SYS_bpf},
                                                 {"SYS_perf_event_open", SYS_perf_event_open},
                                                 {"SYS_io_uring_setup", SYS_io_uring_setup},
                                                 {"SYS_userfaultfd", SYS_userfaultfd},
                                                 {"SYS_finit_module", SYS_finit_module},
                                                 {"SYS_kexec_load", SYS_kexec_load},
                                                 {"SYS_syslog", SYS_syslog},
                                                 {"SYS_reboot", SYS_reboot},
                                                 {"SYS_shmget", SYS_shmget},
                                                 {"SYS_open_by_handle_at", SYS_open_by_handle_at}};

std::string quoted(const std::string& text) { return "'" + text + "'"; }

}  // namespace

std::string probe_code(const Escape& escape, const Surroundings& around) {
  std::string code = "import os, errno, ctypes, socket\nlibc = ctypes.CDLL(None, use_errno=True)\n";
  for (const auto& [name, number] : kNumbers)
    code += std::string(name) + " = " + std::to_string(number) + "\n";
  code += "HOST = " + std::to_string(around.host) + "\nNEIGHBOUR = " + std::to_string(around.neighbour) +
          "\nHOST_FILE = " + quoted(around.host_file) + "\nSTATE = " + quoted(around.state_folder) +
          "\nNEIGHBOUR_CODE = " + quoted(around.neighbour_code) + "\nABSTRACT = '\\0' + " +
          quoted(around.abstract_socket) + "\nPORT = " + std::to_string(around.host_port) +
          "\nKEY = " + std::to_string(around.shared_memory_key) + "\n";
  code +=
      "def call(number, *args):\n"
      "  answer = libc.syscall(number, *args)\n"
      "  if answer < 0: raise OSError(ctypes.get_errno(), '')\n"
      "  return answer\n"
      "def escape():\n  ";
  for (const char c : escape.body) {
    code += c;
    if (c == '\n') code += "  ";
  }
  code +=
      "\ntry: result = escape() or 'it worked'\n"
      "except OSError as error: result = errno.errorcode.get(error.errno, str(error))\n";
  // Functions defined here look for names where they were defined.
  return "exec(" + std::string("compile(") + "'''" + [&] {
    std::string escaped;
    for (const char c : code) {
      if (c == '\\' || c == '\'') escaped += '\\';
      escaped += c;
    }
    return escaped;
  }() + "''', 'escape', 'exec'), globals())\nresult = globals()['result']\n";
}

Outcome outcome_of(const std::string& evidence) {
  if (evidence.rfind("limited", 0) == 0) return Outcome::limited;
  if (evidence.rfind("blocked", 0) == 0) return Outcome::blocked;
  const bool is_errno = evidence.size() > 2 && evidence[0] == 'E' &&
                        std::isupper(static_cast<unsigned char>(evidence[1])) &&
                        evidence.find(' ') == std::string::npos;
  return is_errno ? Outcome::blocked : Outcome::open;
}

const std::vector<Escape>& all_escapes() {
  static const std::vector<Escape> rows = make();
  return rows;
}

std::string table() {
  std::string text = "| attempt |";
  for (const char* title : kColumnTitles) text += std::string(" ") + title + " |";
  text += "\n|---|---|---|\n";
  for (const Escape& escape : all_escapes()) {
    text += "| " + escape.what + " |";
    for (const auto& verdict : escape.expected) {
      text += " ";
      if (!verdict) {
        text += "no sandbox";
      } else {
        text += verdict->outcome == Outcome::blocked   ? "blocked"
                : verdict->outcome == Outcome::limited ? "limited"
                                                       : "not blocked";
        if (!verdict->note.empty())
          text += verdict->outcome == Outcome::limited ? " " + verdict->note : ": " + verdict->note;
      }
      text += " |";
    }
    text += "\n";
  }
  return text;
}

}  // namespace faaskit::process
