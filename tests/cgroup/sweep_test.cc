// What the start-up sweep must never touch: whatever is not ours, by accident or by somebody's design. Each
// case has a dead instance beside it, which must go: a sweep that does nothing would be no proof.
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/wait.h>

#include <atomic>
#include <thread>
#include <vector>

#include "machine.h"

namespace faaskit::cgroup {
namespace {

// Of the v2 hierarchy, made and removed here.
class Group {
 public:
  explicit Group(const std::string& path) : path_(path) { REQUIRE(::mkdir(path.c_str(), 0755) == 0); }
  ~Group() { ::rmdir(path_.c_str()); }
  const std::string& path() const { return path_; }
  bool there() const { return std::filesystem::exists(path_); }
  std::uint64_t inode() const {
    struct stat info{};
    REQUIRE(::stat(path_.c_str(), &info) == 0);
    return info.st_ino;
  }

 private:
  std::string path_;
};

// A process that lives in `group`; it must live on.
class Bystander {
 public:
  Bystander(const Bystander&) = delete;
  explicit Bystander(const std::string& group) {
    pid_ = ::fork();
    if (pid_ == 0) {
      for (;;) ::pause();
    }
    std::ofstream procs(group + "/cgroup.procs");
    procs << pid_ << std::flush;
    REQUIRE(procs.good());
  }
  ~Bystander() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  bool lives() const { return ::waitpid(pid_, nullptr, WNOHANG) == 0; }

 private:
  pid_t pid_ = -1;
};

struct Machine {
  Machine() { need(Choice::cgroup_v2); }
  // As a dead host leaves it: a directory with an unlocked lock and a record.
  std::string leave(const std::string& instance, const std::string& record) const {
    const std::string path = dir.path() + "/" + instance;
    std::filesystem::create_directory(path);
    std::ofstream(path + "/lock") << "";
    std::ofstream(path + "/groups") << record;
    return path;
  }
  // Ours, with a group of its own; the sweep is expected to remove it.
  std::string leave_ours() {
    dead = unique_instance("dead");
    const std::string group = v2 + "/faaskit-" + dead;
    REQUIRE(::mkdir(group.c_str(), 0755) == 0);
    REQUIRE(::mkdir((group + "/sb-1").c_str(), 0755) == 0);
    struct stat info{};
    REQUIRE(::stat(group.c_str(), &info) == 0);
    return leave(dead, "try:" + group + " 0\nv2:" + group + " " + std::to_string(info.st_ino) + "\n");
  }
  // Sweeps, sees that ours is gone, and answers with the report.
  SweepReport sweep_ours() {
    const std::string ours = leave_ours();
    absl::StatusOr<SweepReport> report = sweep(dir.path());
    INFO(report.status().ToString());
    REQUIRE(report.ok());
    CHECK_FALSE(std::filesystem::exists(ours));
    CHECK_FALSE(std::filesystem::exists(v2 + "/faaskit-" + dead));
    return *report;
  }

  RuntimeDir dir;
  std::string v2 = probe().v2;
  std::string dead;
};

TEST_CASE("the sweep: a group that looks like ours, without a record, is left alone", "[cgroup][sweep]") {
  Machine machine;
  Group lookalike(machine.v2 + "/faaskit-" + unique_instance("stranger"));
  Group seat(lookalike.path() + "/sb-1");
  Bystander bystander(seat.path());
  machine.sweep_ours();
  CHECK(seat.there());
  CHECK(bystander.lives());
}

TEST_CASE("the sweep: a record is believed only of a group that can be its instance's", "[cgroup][sweep]") {
  Machine machine;
  const std::string name = unique_instance("forged");
  Group other(machine.v2 + "/precious-" + name);
  Group seat(other.path() + "/sb-1");
  Bystander bystander(seat.path());
  const std::string inode = std::to_string(other.inode());
  const std::vector<std::string> records = {
      // Its own path and inode, but not our name.
      "v2:" + other.path() + " " + inode + "\n",
      // Our name at the end, with a way out behind it or before.
      "v2:" + other.path() + "/../precious-" + name + " " + inode + "\n",
      "v2:" + machine.v2 + "/faaskit-" + name + "/../precious-" + name + " " + inode + "\n",
      // The whole hierarchy; its parent; nothing.
      "v2:" + machine.v2 + " 1\n", "v2:/ 1\n", "v2: 1\n", "v2:relative/faaskit-" + name + " 1\n",
      // Kinds that there are none of, and broken lines.
      "v3:" + other.path() + " " + inode + "\n", "v2", "\n\n:::\n v2:/ \n", std::string(100000, 'x'),
      // Made and not noted, at another's path: only an empty one would go.
      "try:" + other.path() + " 0\n"};
  for (const std::string& record : records) {
    CAPTURE(record.substr(0, 200));
    machine.leave(name, record);
    machine.sweep_ours();
    CHECK(other.there());
    CHECK(seat.there());
    CHECK(bystander.lives());
    // What was left was nothing of anybody's; its directory is ours and goes.
    CHECK_FALSE(std::filesystem::exists(machine.dir.path() + "/" + name));
  }
}

TEST_CASE("the sweep: our name at our path, made by somebody else since, is left alone", "[cgroup][sweep]") {
  Machine machine;
  const std::string name = unique_instance("reused");
  const std::string path = machine.v2 + "/faaskit-" + name;
  std::uint64_t old = 0;
  {
    Group ours(path);
    old = ours.inode();
  }
  Group theirs(path);
  Group seat(path + "/sb-1");
  Bystander bystander(seat.path());
  REQUIRE(theirs.inode() != old);
  machine.leave(name, "try:" + path + " 0\nv2:" + path + " " + std::to_string(old) + "\n");
  machine.sweep_ours();
  CHECK(theirs.there());
  CHECK(bystander.lives());
}

TEST_CASE("the sweep: an instance whose lock is held is alive, whatever its record says", "[cgroup][sweep]") {
  Machine machine;
  const std::string name = unique_instance("held");
  Group group(machine.v2 + "/faaskit-" + name);
  Group seat(group.path() + "/sb-1");
  Bystander bystander(seat.path());
  const std::string path =
      machine.leave(name, "v2:" + group.path() + " " + std::to_string(group.inode()) + "\n");
  UniqueFd lock(::open((path + "/lock").c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(::flock(lock.get(), LOCK_EX | LOCK_NB) == 0);
  const SweepReport report = machine.sweep_ours();
  CHECK(report.alive == 1);
  CHECK(report.removed == 1);
  CHECK(seat.there());
  CHECK(bystander.lives());
  // No process number is written down anywhere: one that is used again is nothing to it. Once the lock is
  // free, it is the group that says who belongs to the dead.
  lock.reset();
  CHECK(sweep(machine.dir.path())->removed == 1);
  CHECK(eventually([&] { return !bystander.lives(); }));
  CHECK_FALSE(group.there());
}

TEST_CASE("the sweep: links, files and foreign names in the runtime directory are left alone",
          "[cgroup][sweep]") {
  Machine machine;
  RuntimeDir elsewhere;
  // A whole instance of somebody's, to which only a link points.
  const std::string precious = elsewhere.path() + "/instance";
  std::filesystem::create_directory(precious);
  for (const std::string file : {"lock", "groups", "precious"}) std::ofstream(precious + "/" + file) << "x";
  const std::string& run = machine.dir.path();
  std::filesystem::create_directory_symlink(precious, run + "/linked");
  std::ofstream(run + "/file") << "x";
  std::ofstream(run + "/uids") << "x";
  REQUIRE(::mkfifo((run + "/fifo").c_str(), 0600) == 0);
  const std::vector<std::string> foreign_names = {"Capital", "dot.ted", "under_score", std::string(49, 'a')};
  for (const std::string& foreign : foreign_names) {
    std::filesystem::create_directory(run + "/" + foreign);
    std::ofstream(run + "/" + foreign + "/lock") << "";
    std::ofstream(run + "/" + foreign + "/groups") << "";
  }
  // Folders of somebody who did not know whose this is: one has a lock of its own.
  for (const std::string folder : {"nolock", "norecord"}) {
    std::filesystem::create_directory(run + "/" + folder);
    std::ofstream(run + "/" + folder + "/file") << "x";
  }
  std::ofstream(run + "/norecord/lock") << "";
  machine.sweep_ours();
  for (const std::string file : {"lock", "groups", "precious"})
    CHECK(std::filesystem::exists(precious + "/" + file));
  for (const std::string left : {"linked", "file", "uids", "fifo", "Capital/lock", "dot.ted/groups",
                                 "under_score/lock", "nolock/file", "norecord/file", "norecord/lock"})
    CHECK(std::filesystem::exists(run + "/" + left));
  CHECK(std::filesystem::exists(run + "/" + std::string(49, 'a') + "/lock"));
  CHECK(absl::IsAlreadyExists(
      make_freezer({.instance = "norecord", .choice = Choice::cgroup_v2, .runtime_dir = run}).status()));
}

TEST_CASE("the sweep: a lock that is a link, a folder or a pipe is not followed, and is told",
          "[cgroup][sweep]") {
  Machine machine;
  RuntimeDir elsewhere;
  const std::string target = elsewhere.path() + "/target";
  const std::string kind = GENERATE(as<std::string>{}, "link", "dangling", "folder", "pipe");
  CAPTURE(kind);
  const std::string name = unique_instance("lock");
  const std::string path = machine.dir.path() + "/" + name;
  std::filesystem::create_directory(path);
  std::ofstream(path + "/groups") << "";
  std::ofstream(path + "/kept") << "x";
  if (kind == "link") std::ofstream(target) << "x";
  if (kind == "link" || kind == "dangling") std::filesystem::create_symlink(target, path + "/lock");
  if (kind == "folder") std::filesystem::create_directory(path + "/lock");
  if (kind == "pipe") REQUIRE(::mkfifo((path + "/lock").c_str(), 0600) == 0);
  const SweepReport report = machine.sweep_ours();
  CHECK(report.removed == 1);
  CHECK(std::filesystem::exists(path + "/kept"));
  CHECK(std::filesystem::exists(target) == (kind == "link"));
}

TEST_CASE("the sweep: a link in a dead instance's directory goes, what it points to stays",
          "[cgroup][sweep]") {
  Machine machine;
  RuntimeDir elsewhere;
  std::ofstream(elsewhere.path() + "/precious") << "x";
  const std::string path = machine.leave_ours();
  std::filesystem::create_directory_symlink(elsewhere.path(), path + "/link");
  std::filesystem::create_symlink(elsewhere.path() + "/precious", path + "/file");
  REQUIRE(::link((elsewhere.path() + "/precious").c_str(), (path + "/hard").c_str()) == 0);
  CHECK(sweep(machine.dir.path())->removed == 1);
  CHECK(std::filesystem::exists(elsewhere.path() + "/precious"));
  CHECK(std::filesystem::is_empty(machine.dir.path()));
}

TEST_CASE("the sweep: what is mounted in a dead instance's directory is unmounted, and not emptied",
          "[cgroup][sweep]") {
  Machine machine;
  RuntimeDir elsewhere;
  std::ofstream(elsewhere.path() + "/precious") << "x";
  const std::string path = machine.leave_ours();
  std::filesystem::create_directory(path + "/mount");
  // A sibling whose name begins as the dead one's, with a mount of its own.
  const std::string sibling = path + "-b";
  std::filesystem::create_directories(sibling + "/mount");
  std::ofstream(sibling + "/lock") << "";
  UniqueFd lock(::open((sibling + "/lock").c_str(), O_RDWR | O_CLOEXEC));
  REQUIRE(::flock(lock.get(), LOCK_EX | LOCK_NB) == 0);
  for (const std::string& mount : {path + "/mount", sibling + "/mount"}) {
    if (::mount(elsewhere.path().c_str(), mount.c_str(), nullptr, MS_BIND, nullptr) != 0)
      FAASKIT_SKIP("nothing may be mounted here");
  }
  CHECK(sweep(machine.dir.path())->removed == 1);
  CHECK(std::filesystem::exists(elsewhere.path() + "/precious"));
  CHECK_FALSE(std::filesystem::exists(path));
  CHECK(std::filesystem::exists(sibling + "/mount/precious"));
  ::umount2((sibling + "/mount").c_str(), MNT_DETACH);
}

TEST_CASE("a name whose directory is a link is not taken, and what it points to is left alone",
          "[cgroup][sweep]") {
  Machine machine;
  RuntimeDir elsewhere;
  std::ofstream(elsewhere.path() + "/groups") << "";
  std::ofstream(elsewhere.path() + "/precious") << "x";
  const std::string name = unique_instance("link");
  std::filesystem::create_directory_symlink(elsewhere.path(), machine.dir.path() + "/" + name);
  const absl::Status status =
      make_freezer({.instance = name, .choice = Choice::cgroup_v2, .runtime_dir = machine.dir.path()})
          .status();
  INFO(status.ToString());
  CHECK_FALSE(status.ok());
  CHECK(std::filesystem::exists(elsewhere.path() + "/precious"));
  CHECK(groups_of(name).empty());
}

TEST_CASE("hosts that come and go while others sweep: none loses what it has, nothing is left",
          "[cgroup][sweep]") {
  Machine machine;
  const std::string& run = machine.dir.path();
  std::atomic<bool> stop{false};
  std::atomic<int> wrong{0};
  std::atomic<int> failed_sweeps{0};
  std::vector<std::thread> threads;
  for (int t = 0; t < 2; ++t) {
    threads.emplace_back([&] {
      while (!stop) {
        const absl::StatusOr<SweepReport> report = sweep(run);
        if (!report.ok() || report->failed > 0) ++failed_sweeps;
      }
    });
  }
  std::vector<std::thread> hosts;
  for (int t = 0; t < 4; ++t) {
    hosts.emplace_back([&, t] {
      // A name of its own that is used again and again.
      const std::string name = unique_instance("busy" + std::to_string(t));
      for (int i = 0; i < 10; ++i) {
        auto freezer = make_freezer({.instance = name, .choice = Choice::cgroup_v2, .runtime_dir = run});
        if (!freezer.ok()) {
          UNSCOPED_INFO(freezer.status().ToString());
          ++wrong;
          continue;
        }
        auto seat = (*freezer)->prepare({.name = "sb-1"});
        const bool there = seat.ok() && std::filesystem::exists(run + "/" + name + "/lock") &&
                           std::filesystem::exists(machine.v2 + "/faaskit-" + name + "/sb-1");
        if (!there) ++wrong;
      }
    });
  }
  for (std::thread& host : hosts) host.join();
  stop = true;
  for (std::thread& thread : threads) thread.join();
  CHECK(wrong == 0);
  CHECK(failed_sweeps == 0);
  CHECK(sweep(run).ok());
  CHECK(std::filesystem::is_empty(run));
}

}  // namespace
}  // namespace faaskit::cgroup
