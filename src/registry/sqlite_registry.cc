#include "faaskit/registry/sqlite_registry.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "faaskit/port/unique_fd.h"
#include "registry/database.h"
#include "registry/schema.h"
#include "support/errno_status.h"
#include "support/mutex.h"

namespace faaskit::registry {
namespace {

using Time = std::chrono::system_clock::time_point;

constexpr std::size_t kMaxOwnerBytes = 256;
constexpr std::size_t kMaxHashBytes = 256;
constexpr std::string_view kAdmin = "admin";

std::int64_t to_micros(Time time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time.time_since_epoch()).count();
}
Time from_micros(std::int64_t micros) {
  return Time(std::chrono::duration_cast<Time::duration>(std::chrono::microseconds(micros)));
}

enum Statement : std::size_t {
  kFindFunction,
  kCountFunctions,
  kFloor,
  kAddFunction,
  kSetFunction,
  kAddVersion,
  kTrimVersions,
  kCurrent,
  kList,
  kVersions,
  kForgetRemoved,
  kRemember,
  kRaiseFloor,
  kTrimRemoved,
  kRemoveFunction,
  kCodes,
  kCountKeys,
  kFindKey,
  kAddKey,
  kKeys,
  kRevokeKey,
  kRequireKey,
  kStatementCount
};

#define FUNCTION_COLUMNS "f.name, v.number, f.owner, v.manifest, v.code, f.requires_key, v.deployed_at"
constexpr std::array<const char*, kStatementCount> kSql = {
    "SELECT owner, last_version, requires_key FROM function WHERE name = ?",
    "SELECT count(*) FROM function",
    "SELECT max((SELECT number FROM version_floor), coalesce((SELECT last_version FROM removed WHERE name = "
    "?), 0))",
    "INSERT INTO function(name, owner, last_version, requires_key) VALUES(?, ?, ?, ?)",
    "UPDATE function SET last_version = ?, requires_key = ? WHERE name = ?",
    "INSERT INTO version(function, number, manifest, code, deployed_at) VALUES(?, ?, ?, ?, ?)",
    "DELETE FROM version WHERE function = ?1 AND number NOT IN"
    " (SELECT number FROM version WHERE function = ?1 ORDER BY number DESC LIMIT ?2)",
    "SELECT " FUNCTION_COLUMNS
    " FROM function f JOIN version v ON v.function = f.name AND v.number = f.last_version WHERE f.name = ?",
    "SELECT " FUNCTION_COLUMNS
    " FROM function f JOIN version v ON v.function = f.name AND v.number = f.last_version ORDER BY f.name",
    "SELECT " FUNCTION_COLUMNS
    " FROM function f JOIN version v ON v.function = f.name WHERE f.name = ? ORDER BY v.number DESC",
    "DELETE FROM removed WHERE name = ?",
    "INSERT INTO removed(name, last_version) VALUES(?, ?)",
    "UPDATE version_floor SET number = max(number, coalesce("
    "(SELECT max(last_version) FROM removed WHERE sequence <="
    " (SELECT sequence FROM removed ORDER BY sequence DESC LIMIT 1 OFFSET ?)), 0))",
    "DELETE FROM removed WHERE sequence <="
    " (SELECT sequence FROM removed ORDER BY sequence DESC LIMIT 1 OFFSET ?)",
    "DELETE FROM function WHERE name = ?",
    "SELECT DISTINCT code FROM version ORDER BY code",
    "SELECT count(*) FROM access_key WHERE function = ?",
    "SELECT 1 FROM access_key WHERE function = ? AND id = ?",
    "INSERT INTO access_key(function, id, hash, created_at) VALUES(?, ?, ?, ?)",
    "SELECT id, function, hash, created_at FROM access_key WHERE function = ? ORDER BY created_at, id",
    "DELETE FROM access_key WHERE function = ? AND id = ?",
    "UPDATE function SET requires_key = ? WHERE name = ?",
};
#undef FUNCTION_COLUMNS

absl::StatusOr<RegisteredFunction> read_function(const Query& query) {
  RegisteredFunction function;
  function.name = query.text(0);
  function.version = static_cast<Version>(query.integer(1));
  function.owner = query.text(2);
  function.manifest = query.text(3);
  absl::StatusOr<CodeId> code = parse_code_id(query.text(4));
  if (!code.ok()) return code.status();
  function.code = *std::move(code);
  function.requires_key = query.integer(5) != 0;
  function.deployed_at = from_micros(query.integer(6));
  return function;
}

absl::Status no_such(std::string_view name) {
  return absl::NotFoundError(absl::StrFormat("registry: there is no function '%s'", name));
}

class SqliteRegistry final : public Registry {
 public:
  SqliteRegistry(SqliteRegistryOptions options, std::unique_ptr<Database> database)
      : options_(std::move(options)), database_(std::move(database)) {}

  absl::Status prepare() FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    for (std::size_t i = 0; i < kStatementCount; ++i) {
      absl::StatusOr<sqlite3_stmt*> statement = database_->prepare(kSql[i]);
      if (!statement.ok()) return statement.status();
      statements_[i] = *statement;
    }
    database_->set_serving();
    return absl::OkStatus();
  }

  absl::StatusOr<RegisteredFunction> put(RegisteredFunction function) override FAASKIT_EXCLUDES(mutex_) {
    if (absl::Status status = validate_function_name(function.name); !status.ok()) return status;
    if (function.owner.empty() || function.owner.size() > kMaxOwnerBytes)
      return absl::InvalidArgumentError(absl::StrFormat("put %s: an owner of %d bytes; 1 to %d are allowed",
                                                        function.name, function.owner.size(),
                                                        kMaxOwnerBytes));
    if (function.manifest.size() > options_.max_manifest_bytes)
      return absl::InvalidArgumentError(absl::StrFormat("put %s: a manifest of %d bytes; %d are allowed",
                                                        function.name, function.manifest.size(),
                                                        options_.max_manifest_bytes));
    const std::string code = to_string(function.code);
    // What cannot be read back must not be stored.
    const absl::StatusOr<CodeId> again = parse_code_id(code);
    if (!again.ok()) return again.status();
    // What is stored is what a reader gets: microseconds.
    function.deployed_at = from_micros(to_micros(std::chrono::system_clock::now()));
    MutexLock lock(mutex_);
    return put_locked(std::move(function), code);
  }

  absl::StatusOr<RegisteredFunction> get(std::string_view name) const override FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    Query query = use(kCurrent);
    query.bind(name);
    const absl::StatusOr<bool> row = query.step();
    if (!row.ok()) return row.status();
    if (!*row) return no_such(name);
    return read_function(query);
  }

  absl::StatusOr<std::vector<RegisteredFunction>> list() const override FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    Query query = use(kList);
    return read_functions(query);
  }

  absl::StatusOr<std::vector<RegisteredFunction>> versions(std::string_view name) const override
      FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    Query query = use(kVersions);
    query.bind(name);
    absl::StatusOr<std::vector<RegisteredFunction>> found = read_functions(query);
    if (found.ok() && found->empty()) return no_such(name);
    return found;
  }

  absl::Status remove(std::string_view name) override FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return remove_locked(name);
  }

  absl::StatusOr<std::vector<CodeId>> codes() const override FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    Query query = use(kCodes);
    std::vector<CodeId> codes;
    for (;;) {
      const absl::StatusOr<bool> row = query.step();
      if (!row.ok()) return row.status();
      if (!*row) return codes;
      absl::StatusOr<CodeId> code = parse_code_id(query.text(0));
      if (!code.ok()) return code.status();
      codes.push_back(*std::move(code));
    }
  }

  absl::Status add_key(const AccessKey& key) override FAASKIT_EXCLUDES(mutex_) {
    if (key.id.empty() || key.id.size() > 64 || key.hash.empty() || key.hash.size() > kMaxHashBytes)
      return absl::InvalidArgumentError(absl::StrFormat(
          "add a key to %s: an id of %d and a hash of %d bytes; 1 to 64 and 1 to %d are allowed",
          key.function, key.id.size(), key.hash.size(), kMaxHashBytes));
    MutexLock lock(mutex_);
    return add_key_locked(key);
  }

  absl::StatusOr<std::vector<AccessKey>> keys(std::string_view function) const override
      FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (absl::Status status = exists(function); !status.ok()) return status;
    Query query = use(kKeys);
    query.bind(function);
    std::vector<AccessKey> keys;
    for (;;) {
      const absl::StatusOr<bool> row = query.step();
      if (!row.ok()) return row.status();
      if (!*row) return keys;
      keys.push_back({query.text(0), query.text(1), query.text(2), from_micros(query.integer(3))});
    }
  }

  absl::Status revoke_key(std::string_view function, std::string_view id) override FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    Query query = use(kRevokeKey);
    query.bind(function, id);
    if (absl::Status status = query.run(); !status.ok()) return status;
    if (database_->changes() == 0)
      return absl::NotFoundError(absl::StrFormat("registry: function '%s' has no key '%s'", function, id));
    return absl::OkStatus();
  }

  absl::Status require_key(std::string_view function, bool required) override FAASKIT_EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    Query query = use(kRequireKey);
    query.bind(required ? 1 : 0, function);
    if (absl::Status status = query.run(); !status.ok()) return status;
    return database_->changes() == 0 ? no_such(function) : absl::OkStatus();
  }

 private:
  Query use(Statement statement) const FAASKIT_REQUIRES(mutex_) {
    return Query(*database_, statements_[statement]);
  }

  absl::Status exists(std::string_view name) const FAASKIT_REQUIRES(mutex_) {
    Query query = use(kFindFunction);
    query.bind(name);
    const absl::StatusOr<bool> row = query.step();
    if (!row.ok()) return row.status();
    return *row ? absl::OkStatus() : no_such(name);
  }

  absl::StatusOr<std::int64_t> number(Query& query) const FAASKIT_REQUIRES(mutex_) {
    const absl::StatusOr<bool> row = query.step();
    if (!row.ok()) return row.status();
    return *row ? query.integer(0) : 0;
  }

  absl::StatusOr<std::vector<RegisteredFunction>> read_functions(Query& query) const
      FAASKIT_REQUIRES(mutex_) {
    std::vector<RegisteredFunction> functions;
    for (;;) {
      const absl::StatusOr<bool> row = query.step();
      if (!row.ok()) return row.status();
      if (!*row) return functions;
      absl::StatusOr<RegisteredFunction> function = read_function(query);
      if (!function.ok()) return function.status();
      functions.push_back(*std::move(function));
    }
  }

  absl::StatusOr<RegisteredFunction> put_locked(RegisteredFunction function, const std::string& code)
      FAASKIT_REQUIRES(mutex_) {
    Transaction transaction(*database_);
    if (!transaction.status().ok()) return transaction.status();
    if (absl::Status status = place(function); !status.ok()) return status;
    {
      Query query = use(kAddVersion);
      query.bind(function.name, function.version, function.manifest, code, to_micros(function.deployed_at));
      if (absl::Status status = query.run(); !status.ok()) return status;
    }
    {
      Query query = use(kTrimVersions);
      query.bind(function.name, options_.keep_versions);
      if (absl::Status status = query.run(); !status.ok()) return status;
    }
    if (absl::Status status = transaction.commit(); !status.ok()) return status;
    return function;
  }

  // Finds or makes the function's row; gives `function` its version, its owner and its need for a key.
  absl::Status place(RegisteredFunction& function) FAASKIT_REQUIRES(mutex_) {
    {
      Query query = use(kFindFunction);
      query.bind(function.name);
      const absl::StatusOr<bool> row = query.step();
      if (!row.ok()) return row.status();
      if (*row) {
        std::string owner = query.text(0);
        if (function.owner != kAdmin && function.owner != owner)
          return absl::PermissionDeniedError(absl::StrFormat(
              "function '%s' belongs to another owner than '%s'", function.name, function.owner));
        function.owner = std::move(owner);
        function.version = static_cast<Version>(query.integer(1)) + 1;
        function.requires_key = function.requires_key || query.integer(2) != 0;
        Query update = use(kSetFunction);
        update.bind(function.version, function.requires_key ? 1 : 0, function.name);
        return update.run();
      }
    }
    {
      Query query = use(kCountFunctions);
      const absl::StatusOr<std::int64_t> count = number(query);
      if (!count.ok()) return count.status();
      if (static_cast<std::size_t>(*count) >= options_.max_functions)
        return absl::ResourceExhaustedError(
            absl::StrFormat("put %s: there are %d functions, and %d are allowed", function.name, *count,
                            options_.max_functions));
    }
    {
      Query query = use(kFloor);
      query.bind(function.name);
      const absl::StatusOr<std::int64_t> last = number(query);
      if (!last.ok()) return last.status();
      function.version = static_cast<Version>(*last) + 1;
    }
    {
      Query query = use(kForgetRemoved);
      query.bind(function.name);
      if (absl::Status status = query.run(); !status.ok()) return status;
    }
    Query query = use(kAddFunction);
    query.bind(function.name, function.owner, function.version, function.requires_key ? 1 : 0);
    return query.run();
  }

  absl::Status remove_locked(std::string_view name) FAASKIT_REQUIRES(mutex_) {
    Transaction transaction(*database_);
    if (!transaction.status().ok()) return transaction.status();
    std::int64_t last = 0;
    {
      Query query = use(kFindFunction);
      query.bind(name);
      const absl::StatusOr<bool> row = query.step();
      if (!row.ok()) return row.status();
      if (!*row) return no_such(name);
      last = query.integer(1);
    }
    const auto run = [&](Statement statement, const auto&... values) FAASKIT_NO_THREAD_SAFETY_ANALYSIS {
      Query query = use(statement);
      query.bind(values...);
      return query.run();
    };
    if (absl::Status status = run(kRemoveFunction, name); !status.ok()) return status;
    if (absl::Status status = run(kRemember, name, last); !status.ok()) return status;
    if (absl::Status status = run(kRaiseFloor, options_.max_functions); !status.ok()) return status;
    if (absl::Status status = run(kTrimRemoved, options_.max_functions); !status.ok()) return status;
    return transaction.commit();
  }

  absl::Status add_key_locked(const AccessKey& key) FAASKIT_REQUIRES(mutex_) {
    Transaction transaction(*database_);
    if (!transaction.status().ok()) return transaction.status();
    if (absl::Status status = exists(key.function); !status.ok()) return status;
    {
      Query query = use(kFindKey);
      query.bind(key.function, key.id);
      const absl::StatusOr<bool> row = query.step();
      if (!row.ok()) return row.status();
      if (*row)
        return absl::AlreadyExistsError(
            absl::StrFormat("function '%s' has a key '%s' already", key.function, key.id));
    }
    {
      Query query = use(kCountKeys);
      query.bind(key.function);
      const absl::StatusOr<std::int64_t> count = number(query);
      if (!count.ok()) return count.status();
      if (static_cast<std::size_t>(*count) >= kMaxKeysPerFunction)
        return absl::ResourceExhaustedError(
            absl::StrFormat("function '%s' has %d keys, and %d are allowed: revoke one first", key.function,
                            *count, kMaxKeysPerFunction));
    }
    {
      Query query = use(kAddKey);
      query.bind(key.function, key.id, key.hash, to_micros(key.created_at));
      if (absl::Status status = query.run(); !status.ok()) return status;
    }
    return transaction.commit();
  }

  const SqliteRegistryOptions options_;
  mutable Mutex mutex_;
  const std::unique_ptr<Database> database_;  // used only under mutex_
  std::array<sqlite3_stmt*, kStatementCount> statements_ FAASKIT_GUARDED_BY(mutex_){};
};

std::string folder_of(const std::string& path) {
  const std::size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

absl::Status sync_folder(const std::string& folder) {
  const UniqueFd fd(::open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!fd || ::fsync(fd.get()) != 0) return errno_status(errno, absl::StrCat("sync ", folder));
  return absl::OkStatus();
}

// Folder and file as they must be before SQLite sees them: it gives its other files the mode of this one.
absl::Status prepare_file(const std::string& path) {
  const std::string folder = folder_of(path);
  if (::mkdir(folder.c_str(), 0700) == 0) {
    if (absl::Status status = sync_folder(folder_of(folder)); !status.ok()) return status;
  } else if (errno != EEXIST) {
    return errno_status(errno, absl::StrCat("make the registry's folder ", folder));
  }
  struct stat info{};
  if (::stat(folder.c_str(), &info) != 0) return errno_status(errno, absl::StrCat("stat ", folder));
  if ((info.st_mode & 022) != 0)
    return absl::FailedPreconditionError(
        absl::StrFormat("the registry's folder %s has mode %04o: others may replace what is in it", folder,
                        info.st_mode & 07777));

  // Only what we made ourselves is opened: to close any descriptor of a file drops every lock that this
  // process has on it, those of another registry's connection too.
  const UniqueFd made(::open(path.c_str(), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600));
  if (made) return sync_folder(folder);
  if (errno != EEXIST) return errno_status(errno, absl::StrCat("make the registry's file ", path));
  if (::lstat(path.c_str(), &info) != 0) return errno_status(errno, absl::StrCat("stat ", path));
  if (!S_ISREG(info.st_mode))
    return absl::FailedPreconditionError(
        absl::StrCat("the registry's file ", path, " is not a regular file"));
  if (info.st_uid != ::geteuid())
    return absl::PermissionDeniedError(absl::StrFormat(
        "the registry's file %s belongs to uid %d, not to us (%d)", path, info.st_uid, ::geteuid()));
  if ((info.st_mode & 077) != 0 && ::chmod(path.c_str(), 0600) != 0)
    return errno_status(errno, absl::StrCat("make the registry's file ", path, " 0600"));
  return absl::OkStatus();
}

absl::Status set_up(Database& database) {
  // FULL: the log is synced at every commit, not only when it is folded into the file.
  // And no temporary files: SQLite would ask the environment where they go.
  for (const char* pragma :
       {"PRAGMA synchronous = FULL", "PRAGMA journal_size_limit = 16777216", "PRAGMA temp_store = MEMORY"}) {
    if (absl::Status status = database.run(pragma); !status.ok()) return status;
  }
  const absl::StatusOr<std::string> mode = database.text("PRAGMA journal_mode = WAL");
  if (!mode.ok()) return mode.status();
  if (*mode != "wal")
    return absl::FailedPreconditionError(absl::StrFormat(
        "registry: this file system cannot keep a write-ahead log (journal_mode is '%s')", *mode));
  // Damage is better found here than by a deploy months later.
  const absl::StatusOr<std::string> check = database.text("PRAGMA quick_check(1)");
  if (!check.ok()) return check.status();
  if (*check != "ok")
    return absl::DataLossError(absl::StrFormat("registry: the file is damaged: %s", *check));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Registry>> make_sqlite_registry(SqliteRegistryOptions options) {
  if (options.path.empty() || options.path.find('\0') != std::string::npos)
    return absl::InvalidArgumentError("path: empty, or not a file's name");
  if (options.keep_versions == 0 || options.keep_versions > 1'000'000)
    return absl::InvalidArgumentError(
        absl::StrFormat("keep_versions: %d; 1 to 1000000 are allowed", options.keep_versions));
  if (options.max_functions == 0 || options.max_functions > 100'000'000)
    return absl::InvalidArgumentError(
        absl::StrFormat("max_functions: %d; 1 to 100000000 are allowed", options.max_functions));
  if (options.busy_timeout < std::chrono::milliseconds(0) || options.busy_timeout > std::chrono::minutes(10))
    return absl::InvalidArgumentError(
        absl::StrFormat("busy_timeout: %d ms; 0 to 600000 are allowed", options.busy_timeout.count()));
  if (options.max_manifest_bytes > (100u << 20))
    return absl::InvalidArgumentError(
        absl::StrFormat("max_manifest_bytes: %d; %d are allowed", options.max_manifest_bytes, 100 << 20));
  if (absl::Status status = prepare_file(options.path); !status.ok()) return status;
  absl::StatusOr<std::unique_ptr<Database>> database = Database::open(options.path, options.busy_timeout);
  if (!database.ok()) return database.status();
  if (absl::Status status = set_up(**database); !status.ok()) return status;
  if (absl::Status status = migrate(**database); !status.ok()) return status;
  auto registry = std::make_unique<SqliteRegistry>(std::move(options), *std::move(database));
  if (absl::Status status = registry->prepare(); !status.ok()) return status;
  return registry;
}

}  // namespace faaskit::registry
