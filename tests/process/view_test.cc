// If these failed: function code would see, hold or be something of the host, or of another sandbox.
#include "stage.h"

#include <arpa/inet.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <set>
#include <vector>

namespace faaskit::process {
namespace {

std::string status_field(Sandbox& sandbox, const std::string& field) {
  return sandbox.ask(
      "result = [l.split(':')[1].split() for l in open('/proc/self/status') if l.startswith('" + field +
      ":')][0]\nresult = ' '.join(result)");
}

// The same line, as the host sees it.
std::string host_status(pid_t pid, const std::string& field) {
  std::istringstream lines(text_of("/proc/" + std::to_string(pid) + "/status"));
  for (std::string line; std::getline(lines, line);)
    if (line.rfind(field + ":", 0) == 0) {
      std::istringstream words(line.substr(field.size() + 1));
      std::string all, word;
      while (words >> word) all += (all.empty() ? "" : " ") + word;
      return all;
    }
  return "?";
}

// Of the host; returns its port.
std::uint16_t listen_on_loopback(int fd) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  REQUIRE(::bind(fd, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
  REQUIRE(::listen(fd, 8) == 0);
  socklen_t size = sizeof address;
  REQUIRE(::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) == 0);
  return ntohs(address.sin_port);
}

TEST_CASE("a sandbox has a uid and gid of its own, and no groups", "[process]") {
  Stage stage;
  auto one = stage.sandbox();
  auto two = stage.sandbox();
  std::set<std::string> outside;
  for (Sandbox* sandbox : {one.get(), two.get()}) {
    CHECK(sandbox->ask("import os\nresult = os.getresuid() + os.getresgid()") ==
          "(1000, 1000, 1000, 1000, 1000, 1000)");
    CHECK(sandbox->ask("import os\nresult = os.getgroups()") == "[]");
    const std::string uid = host_status(sandbox->pid(), "Uid");
    const std::string gid = host_status(sandbox->pid(), "Gid");
    CHECK(uid == gid);
    CHECK(host_status(sandbox->pid(), "Groups").empty());
    std::istringstream words(uid);
    for (unsigned long id; words >> id;) CHECK(id >= 2000000);
    outside.insert(uid);
  }
  CHECK(outside.size() == 2);
  CHECK(
      one->ask(
             "result = open('/proc/self/uid_map').read().split() + open('/proc/self/gid_map').read().split()")
          .find("'1000', '") != std::string::npos);
  CHECK(one->ask("result = open('/proc/self/setgroups').read().strip()") == "deny");
}

TEST_CASE("a sandbox has no capabilities and can get none", "[process]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  for (const char* set : {"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"}) {
    CAPTURE(set);
    CHECK(status_field(*sandbox, set) == "0000000000000000");
    CHECK(host_status(sandbox->pid(), set) == "0000000000000000");
  }
  CHECK(status_field(*sandbox, "NoNewPrivs") == "1");
}

TEST_CASE("each namespace of a sandbox is its own", "[process]") {
  Stage stage;
  auto one = stage.sandbox();
  auto two = stage.sandbox();
  for (const std::string name : {"user", "pid", "mnt", "ipc", "uts", "net", "cgroup"}) {
    CAPTURE(name);
    const auto of = [&](const std::string& pid) {
      return std::filesystem::read_symlink("/proc/" + pid + "/ns/" + name);
    };
    std::set<std::filesystem::path> seen{of("self"), of(std::to_string(one->pid())),
                                         of(std::to_string(two->pid()))};
    CHECK(seen.size() == 3);
    CHECK(one->ask("import os\nresult = os.readlink('/proc/self/ns/" + name + "')") ==
          of(std::to_string(one->pid())).string());
  }
  CHECK(one->ask("import socket\nresult = socket.gethostname()") == "sandbox");
  CHECK(one->ask("result = {l.strip().split(':', 2)[2] for l in open('/proc/self/cgroup')}") == "{'/'}");
}

TEST_CASE("a sandbox is pid 1 of a session of its own, and sees nobody else", "[process]") {
  Stage stage;
  auto other = stage.sandbox();
  auto sandbox = stage.sandbox();
  CHECK(sandbox->ask("import os\nresult = os.getpid(), os.getsid(0), os.getpgrp(), os.getppid()") ==
        "(1, 1, 1, 0)");
  CHECK(sandbox->ask("import os\nresult = [p for p in os.listdir('/proc') if p.isdigit()]") == "['1']");
}

TEST_CASE("the host's files are not there", "[process]") {
  Stage stage;
  const std::string marker = stage.folders.root() + "/marker";
  std::ofstream(marker) << "host";
  auto sandbox = stage.sandbox();
  for (const std::string path : {"/root", "/home", "/etc/shadow", "/etc/hostname", "/var", "/run", "/sys",
                                 "/boot", "/mnt", "/srv", "/opt"})
    CHECK(sandbox->ask("import os\nresult = os.path.lexists('" + path + "')") == "False");
  CHECK(sandbox->ask("import os\nresult = os.path.lexists('" + marker + "')") == "False");
  CHECK(sandbox->ask("import os\nresult = os.listdir('/tmp')") == "[]");
  CHECK(sandbox->ask("import os\nresult = sorted(os.listdir('/dev'))") ==
        "['fd', 'full', 'null', 'random', 'shm', 'stderr', 'stdin', 'stdout', 'urandom', 'zero']");
  CHECK(sandbox->ask("import pwd\nresult = [p.pw_name for p in pwd.getpwall()]") == "['sandbox']");
  CHECK(sandbox->ask("import os\nresult = set(os.listdir('/')) - {'usr', 'bin', 'sbin', 'lib', 'lib32', "
                     "'lib64', 'libx32', "
                     "'etc', 'dev', 'proc', 'tmp', 'code', 'faaskit'}") == "set()");
}

TEST_CASE("nothing but /tmp can be written", "[process]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  // Each directory and file that access(2) calls writable, and each where a file can really be made.
  CHECK(sandbox->ask(R"(
import os
found = []
for top, folders, files in os.walk('/'):
    if top in ('/proc', '/tmp', '/usr'): folders[:] = []
    if top in ('/proc', '/tmp'): continue
    for name in ['.'] + files:
        path = os.path.join(top, name)
        if not os.path.islink(path) and os.access(path, os.W_OK): found.append(path)
result = sorted(found)
)") == "['/dev/full', '/dev/null', '/dev/random', '/dev/urandom', '/dev/zero']");
  for (const std::string folder : {"/", "/usr", "/usr/lib", "/etc", "/dev", "/code", "/faaskit", "/bin"}) {
    CAPTURE(folder);
    const std::string error = sandbox->attempt("open('" + folder + "/new', 'w')");
    CHECK((error == "EROFS" || error == "EACCES"));
  }
  CHECK(sandbox->attempt("open('/tmp/new', 'w')").empty());
  CHECK(sandbox->attempt("open('/dev/shm/new', 'w')").empty());
  for (const std::string file :
       {"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger",
        "/proc/sys/user/max_user_namespaces", "/faaskit/runtime.py", "/code/probe.py"}) {
    CAPTURE(file);
    CHECK_FALSE(sandbox->attempt("open('" + file + "', 'a').write('x')").empty());
  }
  CHECK(text_of(stage.folders.code() + "/probe.py") == kProbe);
}

TEST_CASE("/tmp is private and has its size", "[process]") {
  StageOptions options;
  options.factory.tmp_bytes = 4 << 20;
  Stage stage(options);
  auto one = stage.sandbox();
  auto two = stage.sandbox();
  CHECK(one->ask("import os\nv = os.statvfs('/tmp')\nresult = v.f_blocks * v.f_frsize") == "4194304");
  CHECK(one->attempt("open('/tmp/big', 'wb').write(bytes(3 << 20))").empty());
  CHECK(one->attempt("open('/tmp/more', 'wb').write(bytes(3 << 20))") == "ENOSPC");
  CHECK(two->ask("import os\nresult = os.listdir('/tmp')") == "[]");
  // A file without a byte takes the kernel's memory, too.
  CHECK(two->attempt("for i in range(1200): open(f'/tmp/{i}', 'w').close()") == "ENOSPC");
  CHECK(one->ask("import os\nresult = oct(os.stat('/tmp').st_mode & 0o7777)") == "0o700");
}

TEST_CASE("the environment is the allow-list and the function's own", "[process]") {
  Stage stage;
  ::setenv("FAASKIT_TEST_SECRET", "host", 1);
  stage.spec.env = {{"GREETING", "hello world"}, {"LANG", "C"}};
  auto sandbox = stage.sandbox();
  // Of the process, not of the interpreter, which adds to what it shows.
  CHECK(sandbox->ask("result = sorted(open('/proc/self/environ').read().split('\\0'))") ==
        "['', 'GREETING=hello world', 'HOME=/tmp', 'LANG=C', 'PATH=/usr/local/bin:/usr/bin:/bin']");
}

TEST_CASE("descriptors are 0 to 3 and no others", "[process]") {
  Stage stage;
  UniqueFd inheritable(::open("/etc/passwd", O_RDONLY));  // not CLOEXEC: an application's mistake
  auto one = stage.sandbox(true);
  auto two = stage.sandbox(false);
  for (Sandbox* sandbox : {one.get(), two.get()}) {
    // From outside: Python's own epoll or directory descriptors would be seen from inside.
    const std::string folder = "/proc/" + std::to_string(sandbox->pid()) + "/fd";
    std::vector<std::string> targets(4);
    const std::string inside =
        sandbox->ask("import os\nresult = [os.readlink(f'/proc/self/fd/{n}') for n in range(4)]\n");
    CAPTURE(inside);
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      const int number = std::stoi(entry.path().filename().string());
      std::error_code gone;
      const std::string target = std::filesystem::read_symlink(entry.path(), gone).string();
      CAPTURE(number, target);
      if (number < 4) targets[static_cast<std::size_t>(number)] = target;
      CHECK((number < 4 || target.rfind("anon_inode:[event", 0) == 0));
    }
    CHECK(targets[0] == "/dev/null");
    CHECK(targets[1].rfind("pipe:", 0) == 0);
    CHECK(targets[2] == targets[1]);
    CHECK(targets[3].rfind("socket:", 0) == 0);
  }
}

TEST_CASE("an executable finds exactly descriptors 0 to 3 at its start", "[process]") {
  Stage stage;
  UniqueFd inheritable(::open("/etc/passwd", O_RDONLY));
  stage.spec.runtime = "exec";
  // /proc/self/fd is opened by ls itself: the one further number.
  stage.spec.code_path = stage.folders.write("list", "#!/bin/sh\nexec ls -l /proc/self/fd\n", 0755);
  for (const bool parked : {true, false}) {
    auto sandbox = stage.sandbox(parked);
    CHECK(sandbox->wait() == "exited with status 0");
    std::istringstream lines(sandbox->output());
    std::vector<std::string> entries;
    for (std::string line; std::getline(lines, line);)
      if (line.find("->") != std::string::npos) entries.push_back(line);
    REQUIRE(entries.size() == 5);
    CHECK(entries[4].find("4 -> /proc/") != std::string::npos);
  }
}

TEST_CASE("resource limits are the sandbox's, and inherited powers are gone", "[process]") {
  struct Given {
    std::string path, old;
    Given(std::string file, const std::string& text) : path(std::move(file)), old(text_of(path)) {
      std::ofstream(path) << text;
    }
    ~Given() { std::ofstream(path) << old; }
  };
  StageOptions options;
  options.factory.open_files = 77;
  Stage stage(options);
  // As a service manager sets it for a host that must not be killed; sandboxes are what shall be.
  Given protection("/proc/self/oom_score_adj", "-900");
  if (text_of(protection.path) != "-900\n")
    WARN("without CAP_SYS_RESOURCE: the host could not be taken from the OOM killer");
  REQUIRE(::setpriority(PRIO_PROCESS, 0, -7) == 0);  // whatever these tests were begun with
  auto sandbox = stage.sandbox();
  CHECK(sandbox->ask("import resource as r\nresult = r.getrlimit(r.RLIMIT_CORE)") == "(0, 0)");
  CHECK(sandbox->ask("import resource as r\nresult = r.getrlimit(r.RLIMIT_NOFILE)") == "(77, 77)");
  CHECK(sandbox->ask(
            "import resource as r\nresult = r.getrlimit(r.RLIMIT_RTPRIO), r.getrlimit(r.RLIMIT_NICE)") ==
        "((0, 0), (0, 0))");
  CHECK(sandbox->ask("import os\nresult = os.umask(0)") == "63");
  CHECK(sandbox->ask("import os\nresult = os.nice(0)") == "0");
  CHECK(sandbox->attempt("os.nice(-1)") == "EPERM");
  CHECK(sandbox->ask("result = open('/proc/self/oom_score_adj').read().strip()") == "0");
  CHECK(sandbox->attempt("os.write(os.open('/proc/self/oom_score_adj', 1), b'-500')") == "EACCES");
  CHECK(sandbox->ask("import signal\nresult = signal.pthread_sigmask(signal.SIG_BLOCK, [])") == "set()");
  CHECK(status_field(*sandbox, "SigBlk") == "0000000000000000");
}

TEST_CASE("a sandbox has no network", "[process]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  CHECK(sandbox->ask("result = [l.split(':')[0].strip() for l in list(open('/proc/net/dev'))[2:]]") ==
        "['lo']");
  CHECK(sandbox->attempt("import socket\nsocket.create_connection(('127.0.0.1', 1), 1)") == "ENETUNREACH");
  CHECK(sandbox->attempt("import socket\nsocket.create_connection(('192.0.2.1', 1), 1)") == "ENETUNREACH");
  CHECK(sandbox->attempt("import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)") == "EPERM");
  CHECK(sandbox->attempt("import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)") ==
        "EAFNOSUPPORT");
}

// Where a server may listen, or the errno.
std::string listeners(Sandbox& sandbox) {
  return sandbox.ask(
      "import socket\nresult = []\nfor family, address in ((2, '127.0.0.1'), (10, '::1')):\n"
      "  try:\n    socket.socket(family).bind((address, 0)); result.append(address)\n"
      "  except OSError as e: result.append(e.errno)\n");
}

TEST_CASE("a loopback of its own serves a sandbox, and shows it nobody else's", "[process][network]") {
  UniqueFd outside(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const std::uint16_t port = listen_on_loopback(outside.get());
  Stage stage;
  stage.spec.network = Network::loopback;
  auto one = stage.sandbox();
  auto two = stage.sandbox(false);
  CHECK(listeners(*one) == "['127.0.0.1', '::1']");
  // A server and its client inside, on a port that the neighbour uses as well.
  for (Sandbox* sandbox : {one.get(), two.get()})
    CHECK(sandbox->ask(R"(
import socket, builtins
builtins.server = socket.create_server(('127.0.0.1', 8080))
client = socket.create_connection(('localhost', 8080), 5)
peer = server.accept()[0]
client.send(b'hello'); result = peer.recv(5).decode()
)") == "hello");
  CHECK(one->attempt("import socket\nsocket.create_connection(('127.0.0.1', " + std::to_string(port) +
                     "), 5)") == "ECONNREFUSED");
  CHECK(one->attempt("import socket\nsocket.create_connection(('192.0.2.1', 80), 5)") == "ENETUNREACH");
}

TEST_CASE("without a network not even loopback is up", "[process][network]") {
  Stage stage;
  CHECK(stage.sandbox()->attempt("import socket\ns = socket.create_server(('127.0.0.1', 0))\n"
                                 "socket.create_connection(s.getsockname(), 5)") == "ENETUNREACH");
}

TEST_CASE("the host's network is for those who may have it", "[process][network]") {
  UniqueFd outside(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const std::uint16_t port = listen_on_loopback(outside.get());
  StageOptions options;
  {
    Stage stage(options);
    stage.spec.network = Network::host;
    const absl::Status refused = stage.factory->check(stage.spec);
    CHECK(absl::IsFailedPrecondition(refused));
    CHECK_THAT(std::string(refused.message()), ContainsSubstring("allow_host_network"));
  }
  options.factory.allow_host_network = true;
  Stage stage(options);
  auto without = stage.sandbox();
  stage.spec.network = Network::host;
  auto with = stage.sandbox();
  const std::string connect =
      "import socket\nsocket.create_connection(('127.0.0.1', " + std::to_string(port) + "), 5)";
  CHECK(without->attempt(connect) == "ENETUNREACH");
  CHECK(with->attempt(connect).empty());
  const auto network_of = [](const std::string& pid) {
    return std::filesystem::read_symlink("/proc/" + pid + "/ns/net");
  };
  CHECK(network_of(std::to_string(with->pid())) == network_of("self"));
  CHECK(with->ask("result = open('/etc/resolv.conf').read()") == text_of("/etc/resolv.conf"));
  CHECK(with->ask("result = 'dns' in open('/etc/nsswitch.conf').read()") == "True");
  CHECK(without->attempt("open('/etc/resolv.conf')") == "ENOENT");
  // It may use it, and has no power over it: SIOCSIFFLAGS.
  CHECK(with->attempt("import fcntl, socket\n"
                      "fcntl.ioctl(socket.socket(), 0x8914, b'lo'.ljust(16, b'\\0') + bytes(24))") ==
        "EPERM");
}

TEST_CASE("code in a folder that only root may enter is readable inside", "[process]") {
  Stage stage;
  const std::string checkout = stage.folders.root() + "/checkout";
  std::filesystem::create_directories(checkout + "/function/package");
  std::ofstream(checkout + "/function/main.py")
      << "from package import text\ndef handler(payload, context): return text\n";
  std::ofstream(checkout + "/function/package/__init__.py") << "text = 'from the checkout'\n";
  std::filesystem::permissions(checkout, std::filesystem::perms::owner_all);
  stage.spec.code_path = checkout + "/function";
  stage.spec.handler = "main:handler";
  CHECK(stage.sandbox()->ask("") == "from the checkout");
  stage.spec.code_path = checkout + "/function/package/one.py";
  std::ofstream(stage.spec.code_path) << "def handler(payload, context): return 'one file'\n";
  stage.spec.handler = "one:handler";
  CHECK(stage.sandbox()->ask("") == "one file");
}

}  // namespace
}  // namespace faaskit::process
