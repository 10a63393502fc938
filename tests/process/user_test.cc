// What an ordinary user gets: no root, no cgroups, no range of uids. If these failed: somebody's code would
// run with more of its host's rights than was said.
#include "stage.h"

namespace faaskit::process {
namespace {

TEST_CASE("an ordinary user's sandbox is called partial, and says what is missing", "[process]") {
  Stage stage({.ordinary_user = true});
  CHECK(stage.factory->isolation() == Isolation::partial);
  FunctionSpec strict = stage.spec;
  strict.minimum_isolation = Isolation::process;
  const absl::Status refused = stage.factory->check(strict);
  CHECK(refused.code() == absl::StatusCode::kFailedPrecondition);
  for (const char* word : {"minimum_isolation is process", "partial", "a uid of its own", "limits", "root"})
    CHECK_THAT(std::string(refused.message()), ContainsSubstring(word));
  CHECK(stage.factory->check(stage.spec).ok());
  auto sandbox = stage.sandbox();
  CHECK(sandbox->handles().isolation == Isolation::partial);
  CHECK_THAT(sandbox->handles().missing, ContainsSubstring("a uid of its own"));
}

TEST_CASE("an ordinary user's sandbox has given up everything it had", "[process]") {
  Stage stage({.ordinary_user = true});
  auto parked = stage.sandbox(true);
  auto sandbox = stage.sandbox(false);
  CHECK_THAT(parked->ask("result = open('/proc/self/status').read()"),
             ContainsSubstring("CapBnd:\t0000000000000000"));
  const std::string status = sandbox->ask("result = open('/proc/self/status').read()");
  for (const char* line : {"Uid:\t1000\t1000\t1000\t1000", "CapInh:\t0000000000000000",
                           "CapPrm:\t0000000000000000", "CapEff:\t0000000000000000",
                           "CapBnd:\t0000000000000000", "CapAmb:\t0000000000000000", "NoNewPrivs:\t1"})
    CHECK_THAT(status, ContainsSubstring(line));
  CHECK(sandbox->ask("import os; result = sorted(os.listdir('/proc/self/fd'))[:4]").find("'3'") !=
        std::string::npos);
  CHECK(sandbox->ask("import os; result = os.getpid()") == "1");
  CHECK(sandbox->ask("import os; result = [p for p in os.listdir('/proc') if p.isdigit()]") == "['1']");
}

TEST_CASE("an ordinary user's sandbox sees nothing of its host's files, and cannot write", "[process]") {
  Stage stage({.ordinary_user = true});
  const std::string secret = stage.folders.root() + "/secret";
  std::ofstream(secret) << "secret";
  auto sandbox = stage.sandbox();
  CHECK(sandbox->attempt("open('" + secret + "').read()") == "ENOENT");
  CHECK(sandbox->attempt("open('/etc/shadow').read()") == "ENOENT");
  for (const char* path : {"/code/x", "/usr/x", "/x", "/etc/x", "/faaskit/x"})
    CHECK(sandbox->attempt("open('" + std::string(path) + "', 'w')") == "EROFS");
  CHECK(sandbox->attempt("open('/tmp/x', 'w')").empty());
  CHECK(
      sandbox->attempt(
          "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
          "if libc.mount(b'none', b'/tmp', b'tmpfs', 0, None) != 0: raise OSError(ctypes.get_errno(), '')") ==
      "EPERM");
  const std::string nested = sandbox->attempt(
      "import ctypes; libc = ctypes.CDLL(None, use_errno=True)\n"
      "if libc.unshare(0x10000000) != 0: raise OSError(ctypes.get_errno(), '')");
  CHECK((nested == "ENOSPC" || nested == "EPERM"));
}

TEST_CASE("an ordinary user's sandboxes are limited by process: memory, processes", "[process]") {
  Stage stage({.ordinary_user = true});
  stage.spec.limits.memory_bytes = 128ull << 20;
  stage.spec.limits.pids = 8;
  auto sandbox = stage.sandbox();
  CHECK(
      sandbox->ask("try:\n    x = bytearray(256 << 20); result = 'got it'\nexcept MemoryError:\n    result = "
                   "'refused'") == "refused");
  CHECK(
      sandbox->ask(
          "import os, signal\npids = []\nresult = 'no end'\nfor i in range(50):\n    try:\n        pid = "
          "os.fork()\n    except BlockingIOError:\n        result = len(pids)\n        break\n    if pid == "
          "0:\n        signal.pause()\n    pids.append(pid)\nfor pid in pids:\n    os.kill(pid, 9); "
          "os.waitpid(pid, 0)") == "7");
}

TEST_CASE("an ordinary user's sandboxes cannot reach each other", "[process]") {
  Stage stage({.ordinary_user = true});
  auto one = stage.sandbox();
  auto two = stage.sandbox();
  CHECK(one->attempt("open('/tmp/mine', 'w').write('x')").empty());
  CHECK(two->attempt("open('/tmp/mine').read()") == "ENOENT");
  CHECK(two->attempt("import os; os.kill(" + std::to_string(one->pid()) + ", 0)") == "ESRCH");
}

}  // namespace
}  // namespace faaskit::process
