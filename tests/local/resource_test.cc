// What the machine has runs out: the error names it, nothing half made is left, and the function serves again
// as soon as there is some.
#include <fcntl.h>
#include <malloc.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "faaskit/cgroup/layout.h"
#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

local::PlatformOptions unparked() {
  local::PlatformOptions options;
  options.host.parked_seats = 0;  // each start asks the machine for all it needs
  return options;
}

local::PlatformOptions with_own_mounts(local::PlatformOptions options) {
  need_own_mounts();
  return options;
}

// Told after two failures; and no breaker, which would keep what is there again from being noticed at once.
constexpr StartRetry kImpatient = {
    .budget = 2, .backoff = 10ms, .max_backoff = 20ms, .breaker_failures = 1000000};

// One function serves, so that the platform has its groups; `f` is to start when there is nothing left.
struct Scarce {
  explicit Scarce(local::PlatformOptions options = unparked()) : stage(with_own_mounts(std::move(options))) {
    stage.deploy_program({.name = "other"});
    REQUIRE(stage.invoke("other", "echo x").ok());
    REQUIRE(eventually([&] { return stage.all_frozen(1); }));
    stage.deploy_program({.name = "f", .retry = kImpatient});
    group = groups_of(*stage.platform);
    before = settled(group);
  }
  // The call is told what has run out; with nothing of its starts left behind.
  void check_failure(const std::string& word) {
    const InvocationResult result = stage.invoke("f", "echo x");
    CHECK(absl::IsUnavailable(result.status));
    CHECK_THAT(std::string(result.status.message()), ContainsSubstring(word));
    // A backoff begins a start now and then, for nobody: once they have ended.
    CHECK(eventually([&] { return stage.platform->sandboxes().size() == 1; }));
    CHECK(as_before(before, group));
    CHECK(stage.invoke("other", "echo y").text() == "y");
  }
  void check_recovery() {
    CHECK(stage.invoke("f", "echo back").text() == "back");
    CHECK(stage.invoke("other", "echo y").text() == "y");
  }

  Stage stage;
  std::string group;
  Belongings before;
};

// At most so many descriptors, until the end of the scope.
class FewDescriptors {
 public:
  explicit FewDescriptors(rlim_t most) {
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &saved_) == 0);
    const rlimit few{.rlim_cur = most, .rlim_max = saved_.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &few) == 0);
  }
  ~FewDescriptors() { ::setrlimit(RLIMIT_NOFILE, &saved_); }

 private:
  rlimit saved_{};
};

// No more address space than there is now, until the end of the scope, but for what malloc has in stock: only
// who asks the kernel finds none. Made before there are threads, which would have stocks of their own.
class NoMoreMemory {
 public:
  NoMoreMemory() {
    ::mallopt(M_ARENA_MAX, 1);
    ::mallopt(M_TRIM_THRESHOLD, 1 << 30);
    std::vector<std::unique_ptr<char[]>> stock;
    for (int i = 0; i < 256; ++i) stock.push_back(std::make_unique<char[]>(64 << 10));
    REQUIRE(::getrlimit(RLIMIT_AS, &saved_) == 0);
  }
  ~NoMoreMemory() { end(); }
  void begin() const {
    std::size_t pages = 0;
    std::ifstream("/proc/self/statm") >> pages;
    const rlimit none{.rlim_cur = pages * static_cast<std::size_t>(::sysconf(_SC_PAGESIZE)),
                      .rlim_max = saved_.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_AS, &none) == 0);
  }
  void end() const { ::setrlimit(RLIMIT_AS, &saved_); }

 private:
  rlimit saved_{};
};

// This process alone in a group of the pids controller, wherever that is.
class PidsGroup {
 public:
  PidsGroup() {
    const cgroup::Layout layout = cgroup::probe();
    if (layout.v1_pids.empty()) FAASKIT_SKIP("no pids controller of cgroup v1 on this machine");
    parent_ = layout.v1_pids;
    path_ = parent_ + "/test-" + std::to_string(::getpid());
    std::filesystem::create_directory(path_);
    write(path_ + "/cgroup.procs", std::to_string(::getpid()));
  }
  ~PidsGroup() {
    write(parent_ + "/cgroup.procs", std::to_string(::getpid()));
    std::error_code ignored;
    std::filesystem::remove(path_, ignored);
  }
  void allow_no_more() { write(path_ + "/pids.max", text(path_ + "/pids.current")); }
  void allow_all() { write(path_ + "/pids.max", "max"); }

 private:
  static std::string text(const std::string& path) {
    std::string word;
    std::ifstream(path) >> word;
    return word;
  }
  static void write(const std::string& path, const std::string& text) {
    std::ofstream file(path);
    file << text;
    file.flush();
    CHECK(file.good());
  }
  std::string parent_;
  std::string path_;
};

// A file system of a few pages, mounted until the end of the scope.
class SmallDisk {
 public:
  SmallDisk() {
    need_own_mounts();  // it must be unmounted where it was mounted
    if (::mount("small", folder_.path().c_str(), "tmpfs", 0, "size=64k,nr_inodes=64,mode=0700") != 0)
      FAASKIT_SKIP("no tmpfs may be mounted here");
  }
  ~SmallDisk() { ::umount2(folder_.path().c_str(), MNT_DETACH); }
  const std::string& path() const { return folder_.path(); }
  void fill() {
    std::ofstream file(path() + "/filler");
    const std::string page(4096, 'x');
    while (file.write(page.data(), 4096).flush()) {
    }
    for (int i = 0; i < 64; ++i) {
      const int fd = ::open((path() + "/empty" + std::to_string(i)).c_str(), O_CREAT | O_WRONLY, 0600);
      if (fd < 0) break;
      ::close(fd);
    }
  }
  void empty() {
    for (const auto& each : std::filesystem::directory_iterator(path())) {
      const std::string name = each.path().filename();
      if (name.rfind("filler", 0) == 0 || name.rfind("empty", 0) == 0) std::filesystem::remove(each.path());
    }
  }

 private:
  Folder folder_;
};

}  // namespace

TEST_CASE("descriptors run out while a sandbox is made: said by name, nothing left, and it recovers",
          "[local][resource]") {
  need_root();
#ifdef FAASKIT_SANITIZED
  FAASKIT_SKIP("the sanitizers need descriptors of their own to look at an exception");
#endif
  // A hundred in use already: below 64 the kernel has another word for it.
  const bool many = GENERATE(false, true);
  std::vector<UniqueFd> in_use;
  for (int i = 0; many && i < 100; ++i) in_use.emplace_back(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  Scarce scarce;
  // From none at all to almost enough: each step of a start meets its end once.
  for (rlim_t spare = 0; spare <= 8; ++spare) {
    CAPTURE(spare);
    InvocationResult result;
    {
      const FewDescriptors few(static_cast<rlim_t>(scarce.before.descriptors) + spare);
      result = scarce.stage.invoke("f", "echo x");
    }
    if (result.ok()) {
      break;
    }
    CHECK(absl::IsUnavailable(result.status));
    CHECK_THAT(std::string(result.status.message()), ContainsSubstring("Too many open files"));
    CHECK(eventually([&] { return scarce.stage.platform->sandboxes().size() == 1; }));
    CHECK(as_before(scarce.before, scarce.group));
  }
  scarce.check_recovery();
}

TEST_CASE("no process may be made any more: said by name, nothing left, and it recovers",
          "[local][resource]") {
  need_root();
  PidsGroup pids;
  Scarce scarce;
  pids.allow_no_more();
  scarce.check_failure("Resource temporarily unavailable");
  pids.allow_all();
  scarce.check_recovery();
}

TEST_CASE("no memory is left to make a sandbox with: said by name, nothing left, and it recovers",
          "[local][resource]") {
  need_root();
#ifdef FAASKIT_SANITIZED
  FAASKIT_SKIP("the sanitizers live in address space of their own");
#endif
  const NoMoreMemory memory;
  Scarce scarce;
  memory.begin();
  const InvocationResult result = scarce.stage.invoke("f", "echo x");
  memory.end();
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring("Cannot allocate memory"));
  CHECK(eventually([&] { return scarce.stage.platform->sandboxes().size() == 1; }));
  CHECK(as_before(scarce.before, scarce.group));
  scarce.check_recovery();
}

TEST_CASE("a call waits through a shortage that ends before its deadline, and is served",
          "[local][resource]") {
  need_root();
  PidsGroup pids;
  Scarce scarce;
  scarce.stage.deploy_program(
      {.name = "f",
       .retry = {.budget = 1000000, .backoff = 5ms, .max_backoff = 10ms, .breaker_failures = 1000000}});
  pids.allow_no_more();
  std::future<InvocationResult> call = scarce.stage.start("f", "echo patience");
  REQUIRE(eventually([&] { return scarce.stage.platform->stats("f").starts_failed >= 3; }));
  pids.allow_all();
  CHECK(call.get().text() == "patience");
}

TEST_CASE("the runtime directory's disk is full: starts and calls go on, or say so by name",
          "[local][resource]") {
  need_root();
  SmallDisk disk;
  local::PlatformOptions options = unparked();
  options.runtime_dir = disk.path();
  Scarce scarce(std::move(options));
  disk.fill();
  const InvocationResult result = scarce.stage.invoke("f", "echo x");
  INFO(result.status.ToString());
  if (!result.ok()) {
    CHECK(absl::IsUnavailable(result.status));
    CHECK_THAT(std::string(result.status.message()), ContainsSubstring("No space left on device"));
  }
  // A second platform cannot take its name there.
  local::PlatformOptions second;
  second.runtime_dir = disk.path();
  const absl::Status refused = local::make_platform(second).status();
  CHECK(absl::IsResourceExhausted(refused));
  CHECK_THAT(std::string(refused.message()), ContainsSubstring(disk.path()));
  disk.empty();
  scarce.check_recovery();
  CHECK(local::make_platform(second).status().ToString() == "OK");
}

TEST_CASE("two hundred sandboxes later nothing is left: descriptors, processes, mounts, groups",
          "[local][resource][slow]") {
  need_own_mounts();
  Stage stage;
  stage.deploy_program({.name = "other"});
  stage.deploy_program({.name = "f", .caps = {.max_sandboxes = 4, .max_starts = 4}});
  REQUIRE(stage.invoke("other", "echo x").ok());
  REQUIRE(stage.invoke("f", "echo x").ok());
  const std::string group = groups_of(*stage.platform);
  const auto ended = [&] {
    for (const SandboxView& view : stage.platform->sandboxes()) {
      if (view.function == "f") (void)stage.platform->host().destroy(view.id);
    }
    return eventually([&] {
      return stage.platform->sandboxes().size() == 1 && stage.platform->stats("f").live() == 0 &&
             stage.platform->stats("f").starts_in_flight == 0;
    });
  };
  REQUIRE(ended());
  // The spares are all parked again, and none is being made.
  REQUIRE(eventually([&] { return Belongings::now(group).children >= 6; }));
  const Belongings before = settled(group);
  for (int round = 0; round < 50; ++round) {
    std::vector<std::future<InvocationResult>> calls;
    for (int i = 0; i < 4; ++i) calls.push_back(stage.start("f", "hold 1"));
    for (auto& call : calls) {
      const InvocationResult result = call.get();
      CHECK(result.text() == "held");
    }
    REQUIRE(ended());
  }
  // Nearly: now and then one is back before the last of its round has asked.
  CHECK(stage.platform->stats("f").starts_admitted > 150);
  CHECK(as_before(before, group));
}
