// If these failed: function code would get out, or the document would promise what is not so.
#include <arpa/inet.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstdio>

#include "escapes.h"

namespace faaskit::process {
namespace {

// What there is outside for an attempt to find.
class Outside {
 public:
  explicit Outside(Stage& stage) {
    around.host = ::getpid();
    around.host_file = stage.folders.root() + "/host-secret";
    std::ofstream(around.host_file) << "secret";
    around.state_folder = stage.folders.run();
    around.neighbour_code = stage.folders.code() + "/probe.py";
    ::setenv("FAASKIT_TEST_SECRET", "secret", 1);

    tcp_.reset(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::bind(tcp_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    REQUIRE(::listen(tcp_.get(), 8) == 0);
    socklen_t size = sizeof address;
    REQUIRE(::getsockname(tcp_.get(), reinterpret_cast<sockaddr*>(&address), &size) == 0);
    around.host_port = ntohs(address.sin_port);

    around.abstract_socket = "faaskit-test-" + std::to_string(::getpid());
    unix_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    std::memcpy(name.sun_path + 1, around.abstract_socket.data(), around.abstract_socket.size());
    REQUIRE(::bind(unix_.get(), reinterpret_cast<sockaddr*>(&name),
                   static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 +
                                          around.abstract_socket.size())) == 0);
    REQUIRE(::listen(unix_.get(), 8) == 0);

    around.shared_memory_key = ::getpid() + 0x10000000;
    shared_memory_ = ::shmget(around.shared_memory_key, 4096, IPC_CREAT | 0666);
    REQUIRE(shared_memory_ >= 0);

    std::filesystem::copy_file("/usr/bin/id", stage.folders.code() + "/suid");
    REQUIRE(::chmod((stage.folders.code() + "/suid").c_str(), 06755) == 0);
  }
  ~Outside() { ::shmctl(shared_memory_, IPC_RMID, nullptr); }

  Surroundings around;

 private:
  UniqueFd tcp_, unix_;
  int shared_memory_ = -1;
};

bool is_one_of(const std::string& seen, const std::string& alternatives) {
  std::istringstream list(alternatives);
  for (std::string one; std::getline(list, one, '|');)
    if (one == seen) return true;
  return false;
}

void check_column(Column column, Stage& stage) {
  Outside outside(stage);
  auto neighbour = stage.sandbox();
  neighbour->ask("open('/tmp/secret', 'w').write('secret')\nresult = 1");
  outside.around.neighbour = neighbour->pid();
  const FunctionSpec plain = stage.spec;
  for (const Escape& escape : all_escapes()) {
    const std::optional<Verdict>& expected = escape.expected[column];
    if (!expected) continue;
    if (column == kRootHost && !escape.needs.empty() &&
        stage.freezer->missing_limits().find(escape.needs) != std::string::npos) {
      std::printf("%-44s (no %s controller here)\n", escape.what.c_str(), escape.needs.c_str());
      continue;
    }
    stage.spec = plain;
    if (escape.prepare) escape.prepare(stage.spec);
    auto sandbox = stage.sandbox();
    const std::string code = probe_code(escape, outside.around);
    const std::string seen = escape.outside ? escape.outside(stage, *sandbox, code) : sandbox->ask(code);
    std::printf("%-44s %s\n", escape.what.c_str(), seen.c_str());
    INFO(escape.what << ": " << seen);
    CHECK(is_one_of(seen, escape.evidence));
    CHECK(static_cast<int>(outcome_of(seen)) == static_cast<int>(expected->outcome));
    // Whatever it did, and may still be doing: nobody else feels it.
    CHECK(neighbour->ask("result = open('/tmp/secret').read()") == "secret");
    sandbox->end();
  }
  std::printf("\n%s\n", table().c_str());
}

TEST_CASE("attempts to escape, from a host that runs as root", "[process][escape]") {
  Stage stage;
  check_column(kRootHost, stage);
}

TEST_CASE("attempts to escape, from a host that is an ordinary user", "[process][escape]") {
  Stage stage({.ordinary_user = true});
  check_column(kOrdinaryHost, stage);
  // What is not stopped here must have been accepted: nothing less than that gets a sandbox.
  FunctionSpec strict = stage.spec;
  strict.minimum_isolation = Isolation::process;
  CHECK(stage.factory->check(strict).code() == absl::StatusCode::kFailedPrecondition);
}

TEST_CASE("the document shows the table of attempts", "[process][escape]") {
  const std::string text = text_of(FAASKIT_DOCS "/isolation.md");
  const std::string begin = "<!-- attempts -->\n", end = "<!-- end of attempts -->";
  const std::size_t from = text.find(begin), to = text.find(end);
  REQUIRE(from != std::string::npos);
  REQUIRE(to != std::string::npos);
  CHECK(text.substr(from + begin.size(), to - from - begin.size()) == table());
}

}  // namespace
}  // namespace faaskit::process
