// If these failed, a sandbox could lose its code under its feet, or run what was not deployed.
#include <signal.h>
#include <sys/wait.h>

#include <algorithm>
#include <atomic>
#include <barrier>
#include <string>
#include <thread>
#include <vector>

#include "code/stage.h"

namespace faaskit::code {
namespace {

using namespace testing;

// Code that can be told from other code by each of its files.
std::string package(int number, int files = 8) {
  Tar tar;
  for (int i = 0; i < files; ++i)
    tar.file("d" + std::to_string(i % 3) + "/f" + std::to_string(i),
             std::to_string(number) + std::string(3000, 'x'));
  return tar.bytes();
}

bool whole(const fs::path& top, int number, int files = 8) {
  for (int i = 0; i < files; ++i) {
    if (read_file(top / ("d" + std::to_string(i % 3)) / ("f" + std::to_string(i))) !=
        std::to_string(number) + std::string(3000, 'x'))
      return false;
  }
  return true;
}

std::string text(const absl::Status& status) { return std::string(status.message()); }

// The unpacked folder goes, the blob stays: the next open must unpack. As a reboot does it.
void lose_unpacked(Stage& stage) {
  stage.store.reset();
  write_file(fs::path(stage.options.root) / "boot", "another life of the kernel");
  stage.restart();
  REQUIRE(stage.store->stats().unpacked == 0);
}

}  // namespace

TEST_CASE("what was admitted is there after a restart, under the same id", "[code][store]") {
  Stage stage;
  const CodeId id = stage.admitted(package(1));
  CHECK(parse_code_id(to_string(id)).value() == id);
  CHECK(stage.store->stats().bytes > 8 * 3000);
  stage.restart();
  CHECK(stage.store->stats().unpacked == 1);
  CHECK(whole(stage.opened(id)->path(), 1));
  CHECK(stage.store->stats().unpacks == 0);
  lose_unpacked(stage);
  CHECK(whole(stage.opened(id)->path(), 1));
  CHECK(stage.store->stats().unpacks == 1);
  CHECK(stage.store->stats().opened == 1);
}

TEST_CASE("many at once unpack once", "[code][store]") {
  Stage stage;
  const CodeId id = stage.admitted(package(1, 300));
  for (int round = 0; round < 5; ++round) {
    lose_unpacked(stage);
    constexpr int kThreads = 8;
    std::barrier start(kThreads);
    std::atomic<int> well = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < kThreads; ++i) {
      threads.emplace_back([&] {
        start.arrive_and_wait();
        const auto lease = stage.store->open(id);
        if (lease.ok() && whole((*lease)->path(), 1, 300)) ++well;
      });
    }
    for (std::thread& thread : threads) thread.join();
    CHECK(well == kThreads);
    CHECK(stage.store->stats().unpacks == 1);
    CHECK(stage.store->stats().opened == kThreads);
  }
}

TEST_CASE("a failed unpack is told to all who waited, and not remembered", "[code][store]") {
  Stage stage;
  const CodeId id = stage.admitted(package(1, 300));
  lose_unpacked(stage);
  const std::string good = read_file(stage.blob(id));
  std::string bad = good;
  bad[700] = 'y';
  write_file(stage.blob(id), bad, 0600);

  std::atomic<int> lost = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 8; ++i) {
    threads.emplace_back([&] {
      if (stage.store->open(id).status().code() == absl::StatusCode::kDataLoss) ++lost;
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(lost == 8);
  CHECK(stage.store->stats().unpacked == 0);
  CHECK(stage.store->stats().failed_unpacks >= 1);
  CHECK(stage.rubbish() == 0);

  write_file(stage.blob(id), good, 0600);
  CHECK(whole(stage.opened(id)->path(), 1, 300));
}

TEST_CASE("a blob that does not match its digest is data loss, whatever is wrong with it", "[code][store]") {
  Stage stage;
  const CodeId id = stage.admitted(package(1));
  lose_unpacked(stage);
  const std::string good = read_file(stage.blob(id));
  for (const std::string& bad :
       {std::string(), good.substr(0, good.size() - 512), good + "x", std::string(good.size(), 'x')}) {
    write_file(stage.blob(id), bad, 0600);
    CHECK(stage.store->open(id).status().code() == absl::StatusCode::kDataLoss);
  }
  fs::remove(stage.blob(id));
  CHECK(stage.store->open(id).status().code() == absl::StatusCode::kDataLoss);
}

TEST_CASE("what is unknown or forgotten cannot be opened", "[code][store]") {
  Stage stage;
  const CodeId unknown{CodeKind::copied, "sha256:" + std::string(64, '0')};
  CHECK(stage.store->open(unknown).status().code() == absl::StatusCode::kNotFound);
  CHECK(stage.store->open({CodeKind::copied, "../../etc"}).status().code() == absl::StatusCode::kNotFound);
  CHECK(stage.store->forget(unknown).ok());
  const CodeId id = stage.admitted(package(1));
  CHECK(stage.store->forget(id).ok());
  CHECK(stage.store->open(id).status().code() == absl::StatusCode::kNotFound);
  CHECK_FALSE(fs::exists(stage.blob(id)));
  CHECK_FALSE(fs::exists(stage.unpacked(id)));
  CHECK(stage.store->stats().bytes == 0);
}

TEST_CASE("forgotten code stays as long as it is leased, also over its store's end", "[code][store]") {
  Stage stage;
  const CodeId id = stage.admitted(package(1));
  auto lease = stage.opened(id);
  CHECK(stage.store->forget(id).ok());
  CHECK(whole(lease->path(), 1));
  // Back again, in the same place.
  CHECK(stage.admitted(package(1)) == id);
  CHECK(stage.opened(id)->path() == lease->path());
  CHECK(stage.store->forget(id).ok());
  CHECK(whole(lease->path(), 1));
  stage.store.reset();
  CHECK(whole(lease->path(), 1));
  CHECK(make_code_store(stage.options).status().code() == absl::StatusCode::kAlreadyExists);
  const fs::path path = lease->path();
  lease.reset();
  stage.restart();
  CHECK_FALSE(fs::exists(path));
}

TEST_CASE("the end of a lease lets forgotten code go with the next call", "[code][store]") {
  Stage stage;
  const CodeId id = stage.admitted(package(1));
  auto lease = stage.opened(id);
  CHECK(stage.store->forget(id).ok());
  const fs::path path = lease->path();
  lease.reset();
  CHECK(stage.store->forget(id).ok());
  CHECK_FALSE(fs::exists(path));
  CHECK(stage.store->stats().bytes == 0);
  CHECK(stage.rubbish() == 0);
}

TEST_CASE("over the budget the least recently used goes, and is unpacked again", "[code][store]") {
  Stage stage;
  std::vector<CodeId> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(stage.admitted(package(i)));
  const std::uint64_t all = stage.store->stats().bytes;
  stage.options.disk_budget_bytes = all - 1;
  stage.restart();
  auto kept = stage.opened(ids[0]);  // the oldest is in use: then it is the next that goes
  CHECK(stage.store->stats().removed == 1);
  CHECK(fs::exists(stage.unpacked(ids[0])));
  CHECK_FALSE(fs::exists(stage.unpacked(ids[1])));
  CHECK(whole(stage.opened(ids[1])->path(), 1));
  CHECK_FALSE(fs::exists(stage.unpacked(ids[2])));
  CHECK(stage.store->stats().bytes < all);
  CHECK(stage.rubbish() == 0);

  stage.options.disk_budget_bytes = 1;
  kept.reset();
  stage.restart();
  CHECK(whole(stage.opened(ids[3])->path(), 3));
  const absl::StatusOr<CodeId> more = stage.admit(package(99));
  CHECK(more.status().code() == absl::StatusCode::kResourceExhausted);
  CHECK_THAT(text(more.status()), ContainsSubstring("disk_budget_bytes, 1"));
  CHECK(stage.admitted(package(3)) == ids[3]);  // nothing more than there is
}

TEST_CASE("threads that open and close under a tiny budget find their code whole", "[code][store]") {
  Stage stage;
  std::vector<CodeId> ids;
  for (int i = 0; i < 6; ++i) ids.push_back(stage.admitted(package(i)));
  stage.options.disk_budget_bytes = stage.store->stats().bytes * 6 / 10;  // the blobs, and one or two folders
  stage.restart();
  constexpr int kThreads = 6;
  std::atomic<int> broken = 0;
  std::atomic<int> refused = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      unsigned seed = static_cast<unsigned>(t) * 7919 + 1;
      for (int i = 0; i < 120; ++i) {
        seed = seed * 1664525 + 1013904223;
        const int which = static_cast<int>(seed >> 16) % 6;
        const auto lease = stage.store->open(ids[which]);
        if (!lease.ok()) {
          ++refused;
          continue;
        }
        if (!whole((*lease)->path(), which)) ++broken;
        if (!whole((*lease)->path(), which)) ++broken;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(broken == 0);
  CHECK(refused == 0);
  const CodeStats stats = stage.store->stats();
  CHECK(stats.opened == kThreads * 120);
  CHECK(stats.removed > 10);
  CHECK(stats.unpacks > 10);
  CHECK(stats.unpacks + 6 >= stats.removed);
  CHECK(stage.rubbish() == 0);
}

TEST_CASE("kill -9 in the midst of it leaves rubbish that the next start sweeps", "[code][store]") {
  Stage stage;
  const CodeId first = stage.admitted(package(1));
  stage.store.reset();
  for (int round = 0; round < 12; ++round) {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      // The only thread: it may allocate.
      auto store = make_code_store(stage.options);
      if (!store.ok()) ::_exit(1);
      const fs::path upload = stage.folder / "doomed.tar";
      for (int i = 0;; ++i) {
        std::ofstream(upload, std::ios::binary) << package(100 + i, 60);
        const auto id = (*store)->admit({CodeSource::Kind::archive, upload.string()});
        if (!id.ok() || !(*store)->forget(*id).ok()) ::_exit(2);
      }
    }
    // Killed at the first sight of something half made, at another moment each time.
    for (int seen = 0, spun = 0; seen <= round && spun < 2'000'000; ++spun) {
      int status = 0;
      REQUIRE(::waitpid(child, &status, WNOHANG) == 0);
      std::error_code none;
      const fs::directory_iterator incoming(fs::path(stage.options.root) / "incoming", none);
      if (!none && incoming != fs::directory_iterator()) ++seen;
    }
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);

    write_file(fs::path(stage.options.root) / "incoming/rubbish/tree/x", "half");
    write_file(fs::path(stage.options.root) / "unpacked" / std::string(64, 'a') / "x", "no blob");
    stage.restart();
    CHECK(stage.rubbish() == 0);
    CHECK_FALSE(fs::exists(fs::path(stage.options.root) / "unpacked" / std::string(64, 'a')));
    CHECK(whole(stage.opened(first)->path(), 1));
    // What is there is whole: each blob opens.
    for (const auto& blob : fs::directory_iterator(fs::path(stage.options.root) / "blobs"))
      CHECK(stage.store->open({CodeKind::copied, "sha256:" + blob.path().stem().string()}).ok());
    stage.store.reset();
  }
  // The registry knows only the first: the rest is nobody's.
  stage.options.known = {first};
  stage.restart();
  const fs::directory_iterator blobs(fs::path(stage.options.root) / "blobs");
  CHECK(std::distance(fs::begin(blobs), fs::end(blobs)) == 1);
  CHECK(whole(stage.opened(first)->path(), 1));
}

TEST_CASE("a root that is alive, foreign or open to others is refused", "[code][store]") {
  Stage stage;
  CHECK(make_code_store(stage.options).status().code() == absl::StatusCode::kAlreadyExists);
  CodeStoreOptions options;
  CHECK_THAT(text(make_code_store(options).status()), ContainsSubstring("root '' must be absolute"));
  options.root = (stage.folder / "home").string();
  write_file(stage.folder / "home/incoming/thesis", "mine");
  CHECK_THAT(text(make_code_store(options).status()), ContainsSubstring("not a code store"));
  CHECK(read_file(stage.folder / "home/incoming/thesis") == "mine");
  options.root = (stage.folder / "open").string();
  fs::create_directory(options.root);
  fs::permissions(options.root, fs::perms(0777));
  CHECK(make_code_store(options).status().code() == absl::StatusCode::kFailedPrecondition);
  options.root = (stage.folder / "no/such").string();
  CHECK(make_code_store(options).status().code() == absl::StatusCode::kNotFound);
}

TEST_CASE("a folder is copied, and is the same code as its archive", "[code][store]") {
  Stage stage;
  const fs::path code = fs::path(stage.options.folders) / "wordstats";
  write_file(code / "main.py", "print(1)\n", 0600);
  write_file(code / "bin/run", "#!", 0700);
  const auto id = stage.store->admit({CodeSource::Kind::folder, "wordstats"});
  REQUIRE(id.ok());
  CHECK(*id == stage.admitted(Tar().file("main.py", "print(1)\n").file("bin/run", "#!", 0755).bytes()));
  write_file(code / "main.py", "print(2)\n");
  CHECK(read_file(fs::path(stage.opened(*id)->path()) / "main.py") == "print(1)\n");

  const auto refusal = [&](const std::string& path) {
    return stage.store->admit({CodeSource::Kind::folder, path}).status();
  };
  fs::create_symlink("/etc/passwd", code / "link");
  CHECK_THAT(text(refusal("wordstats")), ContainsSubstring("'link': a symbolic link"));
  fs::remove(code / "link");
  REQUIRE(::mkfifo((code / "pipe").c_str(), 0666) == 0);
  CHECK_THAT(text(refusal("wordstats")), ContainsSubstring("'pipe': neither a file nor a folder"));
  fs::create_directory_symlink("wordstats", fs::path(stage.options.folders) / "alias");
  for (const char* path :
       {"../store", "/etc", "alias", "nothing", ".", "", "wordstats/../../store", "wordstats/main.py"}) {
    INFO(path);
    CHECK(refusal(path).code() == absl::StatusCode::kNotFound);
  }
  CHECK(stage.rubbish() == 0);
}

TEST_CASE("a mounted folder is used in place", "[code][store]") {
  Stage stage;
  const fs::path code = fs::path(stage.options.folders) / "team/wordstats";
  write_file(code / "main.py", "print(1)\n");
  const auto id = stage.store->admit({CodeSource::Kind::mounted, "./team/wordstats/"});
  REQUIRE(id.ok());
  CHECK(*id == CodeId{CodeKind::mounted, "team/wordstats"});
  const auto lease = stage.opened(*id);
  CHECK(fs::equivalent(lease->path(), code));
  CHECK(stage.store->stats().bytes == 0);
  CHECK(stage.store->forget(*id).ok());
  CHECK(fs::exists(code / "main.py"));

  fs::permissions(code, fs::perms(0700));
  CHECK_THAT(text(stage.store->open(*id).status()), ContainsSubstring("must be readable by others"));
  fs::remove_all(code);
  fs::create_directory_symlink("/etc", code);
  CHECK(stage.store->open(*id).status().code() == absl::StatusCode::kNotFound);
  CHECK(stage.store->open({CodeKind::mounted, "../store"}).status().code() == absl::StatusCode::kNotFound);
}

TEST_CASE("the store unpacks as nobody, and what it made is its own", "[code][store]") {
  if (::geteuid() != 0) FAASKIT_SKIP("needs root: an ordinary user unpacks as itself");
  Stage stage;
  std::atomic<bool> done = false;
  absl::StatusOr<CodeId> id = absl::UnknownError("");
  Tar tar;
  for (int i = 0; i < 3000; ++i) tar.file("f" + std::to_string(i), "");
  const std::string bytes = tar.bytes();
  std::thread thread([&] {
    id = stage.admit(bytes);
    done = true;
  });
  bool seen = false;
  while (!done) {
    std::error_code none;
    const fs::directory_iterator end;
    for (fs::directory_iterator aside(fs::path(stage.options.root) / "incoming", none); !none && aside != end;
         aside.increment(none)) {
      struct stat info = {};
      seen = seen || (::stat((aside->path() / "tree/f0").c_str(), &info) == 0 && info.st_uid == 65534);
    }
  }
  thread.join();
  REQUIRE(id.ok());
  CHECK(seen);
  struct stat info = {};
  REQUIRE(::stat((stage.unpacked(*id) / "f0").c_str(), &info) == 0);
  CHECK(info.st_uid == 0);
  CHECK(info.st_gid == 0);
}

}  // namespace faaskit::code
