// If these failed: a function would be lost, another's could be replaced, or a revoked key would still open.
#include <sqlite3.h>

#include <atomic>
#include <set>
#include <thread>
#include <vector>

#include "stage.h"

namespace faaskit::registry {
namespace {

using namespace std::chrono_literals;
using absl::StatusCode;

// The file as somebody else sees it.
class Other {
 public:
  explicit Other(const std::string& file) { REQUIRE(sqlite3_open(file.c_str(), &handle_) == SQLITE_OK); }
  ~Other() { sqlite3_close(handle_); }
  void run(const char* sql) { REQUIRE(sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr) == SQLITE_OK); }
  int number(const char* sql) {
    sqlite3_stmt* statement = nullptr;
    REQUIRE(sqlite3_prepare_v2(handle_, sql, -1, &statement, nullptr) == SQLITE_OK);
    REQUIRE(sqlite3_step(statement) == SQLITE_ROW);
    const int value = sqlite3_column_int(statement, 0);
    sqlite3_finalize(statement);
    return value;
  }

 private:
  sqlite3* handle_ = nullptr;
};

TEST_CASE("a function put is there, and there after the registry is opened again", "[registry]") {
  Folder folder;
  RegisteredFunction stored;
  {
    auto registry = open(folder);
    RegisteredFunction want = function("hello");
    want.version = 77;  // not for the caller to say
    want.manifest = std::string("{\"a\":\"\0\xff\"}", 10);
    const auto before = std::chrono::system_clock::now() - 1s;
    stored = put(*registry, want);
    CHECK(stored.version == 1);
    CHECK(stored.deployed_at > before);
    CHECK(stored.manifest == want.manifest);
  }
  auto registry = open(folder);
  const absl::StatusOr<RegisteredFunction> found = registry->get("hello");
  REQUIRE(found.ok());
  CHECK(found->name == "hello");
  CHECK(found->version == 1);
  CHECK(found->owner == "alice");
  CHECK(found->manifest == stored.manifest);
  CHECK(found->code == code('a'));
  CHECK_FALSE(found->requires_key);
  CHECK(found->deployed_at == stored.deployed_at);
  CHECK(registry->get("hallo").status().code() == StatusCode::kNotFound);
}

TEST_CASE("versions grow with every put, also over a remove and a restart", "[registry]") {
  Folder folder;
  auto registry = open(folder);
  CHECK(put(*registry, function("f")).version == 1);
  CHECK(put(*registry, function("f")).version == 2);
  CHECK(put(*registry, function("g")).version == 1);
  REQUIRE(registry->remove("f").ok());
  CHECK(registry->remove("f").code() == StatusCode::kNotFound);
  CHECK(registry->get("f").status().code() == StatusCode::kNotFound);
  CHECK(registry->versions("f").status().code() == StatusCode::kNotFound);
  registry.reset();
  registry = open(folder);
  // Removed, it is nobody's.
  CHECK(put(*registry, function("f", "bob")).version == 3);
  CHECK(registry->versions("f")->size() == 1);
}

TEST_CASE("the memory of removed names is bounded, and versions still grow", "[registry]") {
  Folder folder;
  auto registry = open({.path = folder.file(), .max_functions = 2});
  for (int i = 0; i < 5; ++i) put(*registry, function("old"));
  REQUIRE(registry->remove("old").ok());
  for (const char* name : {"a", "b", "c"}) {
    put(*registry, function(name));
    REQUIRE(registry->remove(name).ok());
  }
  CHECK(Other(folder.file()).number("SELECT count(*) FROM removed") == 2);
  CHECK(put(*registry, function("old")).version > 5);
}

TEST_CASE("the newest versions are kept, and their codes", "[registry]") {
  Folder folder;
  auto registry = open({.path = folder.file(), .keep_versions = 2});
  for (const char digit : {'1', '2', '3'}) put(*registry, function("f", "alice", digit));
  put(*registry, function("g", "alice", '3'));
  put(*registry, [] {
    RegisteredFunction mounted = function("h");
    mounted.code = {CodeKind::mounted, "wordstats"};
    return mounted;
  }());
  const auto versions = registry->versions("f");
  REQUIRE(versions.ok());
  REQUIRE(versions->size() == 2);
  CHECK((*versions)[0].version == 3);
  CHECK((*versions)[0].code == code('3'));
  CHECK((*versions)[1].version == 2);
  const auto codes = registry->codes();
  REQUIRE(codes.ok());
  CHECK(*codes == std::vector<CodeId>{code('2'), code('3'), {CodeKind::mounted, "wordstats"}});
  const auto list = registry->list();
  REQUIRE(list.ok());
  REQUIRE(list->size() == 3);
  CHECK((*list)[0].name == "f");
  CHECK((*list)[0].version == 3);
  CHECK((*list)[2].name == "h");
}

TEST_CASE("a function belongs to who put it first; admin may put, and it stays its owner's", "[registry]") {
  Folder folder;
  auto registry = open(folder);
  put(*registry, function("f", "alice"));
  const auto refused = registry->put(function("f", "bob"));
  CHECK(refused.status().code() == StatusCode::kPermissionDenied);
  CHECK_THAT(std::string(refused.status().message()), ContainsSubstring("'f'"));
  CHECK(put(*registry, function("f", "admin")).owner == "alice");
  CHECK(put(*registry, function("f", "alice")).version == 3);
  put(*registry, function("g", "admin"));
  CHECK(registry->put(function("g", "alice")).status().code() == StatusCode::kPermissionDenied);
}

TEST_CASE("what is refused stores nothing", "[registry]") {
  Folder folder;
  auto registry = open({.path = folder.file(), .max_functions = 1, .max_manifest_bytes = 100});
  RegisteredFunction wrong = function("../f");
  CHECK(registry->put(wrong).status().code() == StatusCode::kInvalidArgument);
  wrong = function("f", "");
  CHECK(registry->put(wrong).status().code() == StatusCode::kInvalidArgument);
  wrong = function("f");
  wrong.manifest = std::string(101, 'x');
  CHECK_THAT(std::string(registry->put(wrong).status().message()), ContainsSubstring("101 bytes; 100 are"));
  wrong = function("f");
  wrong.code.name = "sha256:short";
  CHECK(registry->put(wrong).status().code() == StatusCode::kInvalidArgument);
  put(*registry, function("f"));
  const auto full = registry->put(function("g"));
  CHECK(full.status().code() == StatusCode::kResourceExhausted);
  CHECK_THAT(std::string(full.status().message()), ContainsSubstring("1 are allowed"));
  CHECK(registry->list()->size() == 1);
  CHECK(put(*registry, function("f")).version == 2);
}

TEST_CASE("two keys at once, so that one can be replaced without a gap", "[registry]") {
  Folder folder;
  auto registry = open(folder);
  CHECK(registry->add_key(key("f", "k-1")).code() == StatusCode::kNotFound);
  CHECK(registry->keys("f").status().code() == StatusCode::kNotFound);
  put(*registry, function("f"));
  REQUIRE(registry->add_key(key("f", "k-1")).ok());
  CHECK(registry->add_key(key("f", "k-1")).code() == StatusCode::kAlreadyExists);
  REQUIRE(registry->add_key(key("f", "k-2")).ok());
  CHECK(registry->add_key(key("f", "k-3")).code() == StatusCode::kResourceExhausted);
  REQUIRE(registry->revoke_key("f", "k-1").ok());
  CHECK(registry->revoke_key("f", "k-1").code() == StatusCode::kNotFound);
  REQUIRE(registry->add_key(key("f", "k-3")).ok());
  registry.reset();
  registry = open(folder);
  const auto keys = registry->keys("f");
  REQUIRE(keys.ok());
  REQUIRE(keys->size() == 2);
  CHECK((*keys)[0].id == "k-2");
  CHECK((*keys)[0].hash == "v1:sha256:k-2");
  CHECK((*keys)[1].function == "f");
  // A function of the same name is another function: old keys do not open it.
  REQUIRE(registry->remove("f").ok());
  put(*registry, function("f"));
  CHECK(registry->keys("f")->empty());
}

TEST_CASE("a redeploy never opens what was closed", "[registry]") {
  Folder folder;
  auto registry = open(folder);
  CHECK(registry->require_key("f", true).code() == StatusCode::kNotFound);
  put(*registry, function("f"));
  REQUIRE(registry->require_key("f", true).ok());
  CHECK(registry->get("f")->requires_key);
  CHECK(put(*registry, function("f")).requires_key);
  REQUIRE(registry->require_key("f", false).ok());
  CHECK_FALSE(registry->get("f")->requires_key);
  RegisteredFunction closed = function("f");
  closed.requires_key = true;
  CHECK(put(*registry, closed).requires_key);
  CHECK(registry->get("f")->requires_key);
}

TEST_CASE("many threads put at once and get versions without gaps or doubles", "[registry]") {
  Folder folder;
  auto registry = open(folder);
  constexpr int kEach = 25;
  std::vector<std::set<Version>> seen(4);
  std::atomic<int> failed{0};
  {
    std::vector<std::jthread> threads;
    for (auto& mine : seen) {
      threads.emplace_back([&] {
        for (int i = 0; i < kEach; ++i) {
          const auto stored = registry->put(function("f"));
          if (!stored.ok() || !mine.insert(stored->version).second || !registry->get("f").ok()) ++failed;
        }
      });
    }
  }
  CHECK(failed == 0);
  std::set<Version> all;
  for (auto& mine : seen) all.merge(mine);
  CHECK(all.size() == 4 * kEach);
  CHECK(*all.rbegin() == 4 * kEach);
}

TEST_CASE("a newer form, another program's file and a damaged one are refused by name", "[registry]") {
  Folder folder;
  put(*open(folder), function("f"));
  SECTION("newer") {
    Other(folder.file()).run("PRAGMA user_version = 2");
    const auto refused = make_sqlite_registry({.path = folder.file()});
    CHECK(refused.status().code() == StatusCode::kFailedPrecondition);
    CHECK_THAT(std::string(refused.status().message()),
               ContainsSubstring("form 2") && ContainsSubstring("up to 1"));
  }
  SECTION("another program's") {
    Other(folder.path() + "/other.db").run("CREATE TABLE t(x)");
    const auto refused = make_sqlite_registry({.path = folder.path() + "/other.db"});
    CHECK(refused.status().code() == StatusCode::kFailedPrecondition);
    CHECK_THAT(std::string(refused.status().message()), ContainsSubstring("another program's"));
  }
  SECTION("not a database") {
    std::ofstream(folder.file(), std::ios::trunc) << std::string(5000, 'x');
    const auto refused = make_sqlite_registry({.path = folder.file()});
    CHECK(refused.status().code() == StatusCode::kDataLoss);
    CHECK_THAT(std::string(refused.status().message()), ContainsSubstring("not a database"));
  }
  SECTION("damaged in the middle") {
    {
      auto registry = open(folder);
      for (int i = 0; i < 50; ++i) put(*registry, function("f" + std::to_string(i)));
    }
    std::fstream file(folder.file(), std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(4096 * 2);
    file << std::string(4096, '\x55');
    file.close();
    CHECK(make_sqlite_registry({.path = folder.file()}).status().code() == StatusCode::kDataLoss);
  }
}

TEST_CASE("a registry that another process has locked says so", "[registry]") {
  Folder folder;
  auto registry = open({.path = folder.file(), .busy_timeout = 10ms});
  put(*registry, function("f"));
  Other other(folder.file());
  other.run("BEGIN IMMEDIATE");
  const auto refused = registry->put(function("f"));
  CHECK(refused.status().code() == StatusCode::kUnavailable);
  CHECK_THAT(std::string(refused.status().message()), ContainsSubstring("locked by another process"));
  // Readers are not kept out.
  CHECK(registry->get("f").ok());
  other.run("COMMIT");
  CHECK(put(*registry, function("f")).version == 2);
}

TEST_CASE("two registries on one file see each other's puts", "[registry]") {
  Folder folder;
  auto one = open(folder);
  auto two = open(folder);
  CHECK(put(*one, function("f")).version == 1);
  CHECK(put(*two, function("f")).version == 2);
  CHECK(one->get("f")->version == 2);
}

TEST_CASE("the file and what lies beside it are ours alone", "[registry]") {
  Folder folder;
  const std::string file = folder.path() + "/state/registry.db";
  auto registry = open({.path = file});
  put(*registry, function("f"));
  const auto mode = [](const std::string& path) {
    struct stat info{};
    REQUIRE(::stat(path.c_str(), &info) == 0);
    return info.st_mode & 07777;
  };
  CHECK(mode(folder.path() + "/state") == 0700);
  CHECK(mode(file) == 0600);
  CHECK(mode(file + "-wal") == 0600);
  CHECK(mode(file + "-shm") == 0600);
  registry.reset();
  SECTION("a file that others may read is closed to them") {
    REQUIRE(::chmod(file.c_str(), 0644) == 0);
    registry = open({.path = file});
    CHECK(mode(file) == 0600);
  }
  SECTION("a folder that others may write is refused") {
    REQUIRE(::chmod((folder.path() + "/state").c_str(), 0777) == 0);
    const auto refused = make_sqlite_registry({.path = file});
    CHECK(refused.status().code() == StatusCode::kFailedPrecondition);
    CHECK_THAT(std::string(refused.status().message()), ContainsSubstring("0777"));
  }
  SECTION("a link in its place is refused") {
    const std::string link = folder.path() + "/state/link.db";
    std::filesystem::create_symlink(file, link);
    CHECK(make_sqlite_registry({.path = link}).status().code() == StatusCode::kFailedPrecondition);
  }
}

TEST_CASE("wrong options are refused by name", "[registry]") {
  const auto refused = [](SqliteRegistryOptions options) {
    const absl::Status status = make_sqlite_registry(std::move(options)).status();
    CHECK(status.code() == StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  CHECK_THAT(refused({}), ContainsSubstring("path"));
  CHECK_THAT(refused({.path = "/x", .keep_versions = 0}), ContainsSubstring("keep_versions"));
  CHECK_THAT(refused({.path = "/x", .max_functions = 0}), ContainsSubstring("max_functions"));
  CHECK_THAT(refused({.path = "/x", .busy_timeout = -1ms}), ContainsSubstring("busy_timeout"));
  CHECK(make_sqlite_registry({.path = "/nonexistent/folder/registry.db"}).status().code() ==
        StatusCode::kNotFound);
}

}  // namespace
}  // namespace faaskit::registry
