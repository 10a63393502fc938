// If these failed: a machine that lacks something would weaken a sandbox without saying so.
#include "stage.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <set>

#include "process/machine.h"
#include "process/setup.h"
#include "process/spec_check.h"

namespace faaskit::process {
namespace {

TEST_CASE("namespaces that are unknown or limited to none are missing, by name", "[process]") {
  Folders folders;
  const std::string known = folders.root() + "/ns", limits = folders.root() + "/user";
  std::filesystem::create_directories(known);
  std::filesystem::create_directories(limits);
  for (const std::string name : {"mnt", "pid", "ipc", "uts", "net", "user", "cgroup"}) {
    std::ofstream(known + "/" + name).flush();
    std::ofstream(limits + "/max_" + name + "_namespaces") << "100\n";
  }
  CHECK(available_namespaces(known, limits).missing.empty());
  CHECK(available_namespaces(known, "/nonexistent").missing.empty());
  std::ofstream(limits + "/max_user_namespaces") << "0\n";
  std::filesystem::remove(known + "/net");
  const Namespaces some = available_namespaces(known, limits);
  CHECK(some.missing == "net namespace, user namespace");
  CHECK_FALSE(some.user);
  CHECK((some.at_birth & CLONE_NEWNET) == 0);
  CHECK((some.at_birth & CLONE_NEWNS) != 0);
}

TEST_CASE("a loopback that cannot be brought up is refused by name", "[process]") {
  Folders folders;
  FunctionSpec spec;
  spec.name = "probe";
  spec.handler = "probe:handler";
  spec.network = Network::loopback;
  Offer offer;
  offer.isolation = Isolation::process;
  offer.python = "/usr/bin/python3";
  struct stat code{};
  const absl::Status refused = check_spec(spec, folders.code(), offer, code);
  CHECK(absl::IsFailedPrecondition(refused));
  CHECK_THAT(std::string(refused.message()), ContainsSubstring("CAP_NET_ADMIN"));
  offer.loopback = true;
  CHECK(check_spec(spec, folders.code(), offer, code).ok());
}

// The steps of the factory on a machine without user namespaces.
TEST_CASE("without a user namespace a sandbox still gives up everything", "[process]") {
  if (::geteuid() != 0) FAASKIT_SKIP("needs root");
  Folders folders;
  int ends[2];
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  UniqueFd control(ends[0]), theirs(ends[1]);
  REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
  UniqueFd output(ends[0]), written(ends[1]);
  REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
  UniqueFd host_end(ends[0]), channel(ends[1]);
  UniqueFd code(static_cast<int>(
      ::syscall(SYS_open_tree, AT_FDCWD, folders.code().c_str(), OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC)));
  REQUIRE(code);

  UniqueFd image = spawner::make_image().value();
  spawner::SpawnParams params;
  params.image = image.get();
  params.argv = {"faaskit-spare"};
  params.fds = {theirs.get()};
  params.namespaces = available_namespaces().at_birth;
  spawner::Child child = spawner::spawn(params).value();
  theirs.reset();

  const std::uint32_t uid = 2000000 + static_cast<std::uint32_t>(::getpid());
  const std::vector<HostPath> tree = survey({"/usr", "/bin", "/lib", "/lib64"});
  ParkPlan park;
  const std::vector<std::pair<std::string, std::string>> files = {{"runtime.py", ""}};
  park.tree = &tree;
  park.files = &files;
  park.uid = uid;
  park.tmp_bytes = 1 << 20;
  FurnishPlan furnish;
  furnish.code = code.get();
  furnish.open_files = 64;
  BecomePlan become;
  become.channel = channel.get();
  become.output = written.get();
  become.id = uid;
  const std::vector<sock_filter> filter = write_filter(sandbox_policy());
  become.filter = &filter;
  become.argv = {"/bin/cat", "/proc/self/status"};
  for (const absl::Status& status :
       {parked(park).run(control.get(), 5s), furnished(furnish).run(control.get(), 5s),
        becomes(become).run_and_become(control.get(), 5s)}) {
    INFO(status.ToString());
    if (!status.ok()) spawner::kill_and_reap(child);
    REQUIRE(status.ok());
  }
  written.reset();
  REQUIRE(spawner::wait_and_reap(child.pidfd.get(), 5000));
  char text[8192] = {};
  REQUIRE(::read(output.get(), text, sizeof text - 1) > 0);
  const std::string said = text, id = std::to_string(uid);
  for (const std::string& line :
       {"Uid:\t" + id + "\t" + id + "\t" + id + "\t" + id, "Gid:\t" + id + "\t" + id + "\t" + id + "\t" + id,
        std::string("Groups:\t \n"), std::string("CapPrm:\t0000000000000000"),
        std::string("CapEff:\t0000000000000000"), std::string("CapBnd:\t0000000000000000"),
        std::string("CapAmb:\t0000000000000000"), std::string("NoNewPrivs:\t1"), std::string("Seccomp:\t2")})
    CHECK_THAT(said, ContainsSubstring(line));
}

}  // namespace
}  // namespace faaskit::process
