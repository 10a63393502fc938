// If these failed: a deploy that was acknowledged would be gone after a crash or a power cut.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <map>
#include <random>
#include <vector>

#include "faaskit/port/unique_fd.h"
#include "stage.h"

namespace faaskit::registry {
namespace {

struct Acknowledged {
  std::uint32_t number = 0;
  std::uint32_t version = 0;
};

// In the child: puts until it is killed, and reports what was answered with OK.
[[noreturn]] void put_for_ever(const std::string& file, std::uint32_t number, int report) {
  auto registry = make_sqlite_registry({.path = file});
  if (!registry.ok()) ::_exit(2);
  for (;; ++number) {
    RegisteredFunction next = function("f" + std::to_string(number % 20));
    next.manifest = std::to_string(number) + std::string(number % 5000, ' ');
    const auto stored = (*registry)->put(next);
    if (!stored.ok()) ::_exit(3);
    const Acknowledged said{number, static_cast<std::uint32_t>(stored->version)};
    if (::write(report, &said, sizeof said) != sizeof said) ::_exit(4);
  }
}

TEST_CASE("what was acknowledged survives kill -9 at any moment", "[registry]") {
  Folder folder;
  const unsigned seed = std::random_device()();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  std::map<std::string, std::vector<Acknowledged>> all;
  std::uint32_t next = 0;
  std::size_t acknowledged = 0;
  for (int round = 0; round < 50; ++round) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    UniqueFd in(ends[0]);
    UniqueFd out(ends[1]);
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) put_for_ever(folder.file(), next, out.get());
    out.reset();
    const auto take = [&] {
      Acknowledged one;
      if (::read(in.get(), &one, sizeof one) != sizeof one) return false;
      all["f" + std::to_string(one.number % 20)].push_back(one);
      next = one.number + 1;
      ++acknowledged;
      return true;
    };
    // At least one, then a random number of them, then a random part of the next put.
    for (unsigned wanted = 1 + random() % 8; wanted > 0; --wanted) REQUIRE(take());
    pollfd none{-1, 0, 0};
    ::poll(&none, 1, static_cast<int>(random() % 4));
    REQUIRE(::kill(child, SIGKILL) == 0);
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    REQUIRE(WIFSIGNALED(status));
    while (take()) {
    }
    // The one that was never acknowledged may have been stored.
    ++next;

    auto registry = open(folder);
    for (const auto& [name, puts] : all) {
      const auto versions = registry->versions(name);
      REQUIRE(versions.ok());
      const Acknowledged& last = puts.back();
      bool found = false;
      for (const RegisteredFunction& version : *versions) {
        if (version.version != last.version) continue;
        found = true;
        REQUIRE(version.manifest.size() == std::to_string(last.number).size() + last.number % 5000);
        REQUIRE(std::stoul(version.manifest) == last.number);
      }
      REQUIRE(found);
    }
  }
  CHECK(acknowledged >= 50);
}

// Counts the syncs of the log: what is not synced is not there after a power cut.
sqlite3_vfs* real_vfs = nullptr;
sqlite3_io_methods methods;
const sqlite3_io_methods* real_methods = nullptr;
std::atomic<int> unsynced_writes{0};
std::atomic<int> syncs{0};

int open_counted(sqlite3_vfs*, const char* name, sqlite3_file* file, int flags, int* out) {
  // SQLite's own file object, with its methods replaced for the log alone.
  const int result = real_vfs->xOpen(real_vfs, name, file, flags, out);
  if (result == SQLITE_OK && (flags & SQLITE_OPEN_WAL) != 0) {
    real_methods = file->pMethods;
    methods = *real_methods;
    methods.xWrite = [](sqlite3_file* f, const void* bytes, int count, sqlite3_int64 at) {
      ++unsynced_writes;
      return real_methods->xWrite(f, bytes, count, at);
    };
    methods.xSync = [](sqlite3_file* f, int sync_flags) {
      unsynced_writes = 0;
      ++syncs;
      return real_methods->xSync(f, sync_flags);
    };
    file->pMethods = &methods;
  }
  return result;
}

TEST_CASE("nothing is acknowledged that was not synced", "[registry]") {
  real_vfs = sqlite3_vfs_find(nullptr);
  sqlite3_vfs counting = *real_vfs;
  counting.zName = "counting";
  counting.xOpen = open_counted;
  REQUIRE(sqlite3_vfs_register(&counting, 1) == SQLITE_OK);
  {
    Folder folder;
    auto registry = open(folder);
    for (int i = 0; i < 10; ++i) {
      const int before = syncs;
      put(*registry, function("f"));
      CHECK(syncs > before);
      CHECK(unsynced_writes == 0);
    }
    const int before = syncs;
    REQUIRE(registry->add_key(key("f", "k-1")).ok());
    REQUIRE(registry->revoke_key("f", "k-1").ok());
    REQUIRE(registry->require_key("f", true).ok());
    REQUIRE(registry->remove("f").ok());
    CHECK(syncs >= before + 4);
    CHECK(unsynced_writes == 0);
  }
  sqlite3_vfs_unregister(&counting);
}

}  // namespace
}  // namespace faaskit::registry
