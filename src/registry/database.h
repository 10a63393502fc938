// A thin SQLite: one connection, statements that are prepared once, errors as Status.
//
// Thread safety: none; the registry holds a lock around it.
#pragma once

#include <sqlite3.h>

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <type_traits>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace faaskit::registry {

class Database;

// One run of a prepared statement: bind, step, read; resets it at the end.
class Query {
 public:
  Query(Database& database, sqlite3_stmt* statement) : database_(database), statement_(statement) {}
  ~Query() {
    sqlite3_reset(statement_);
    sqlite3_clear_bindings(statement_);
  }
  Query(const Query&) = delete;
  Query& operator=(const Query&) = delete;

  // In the order of the question marks. The text must outlive the run.
  template <typename... Values>
  Query& bind(const Values&... values) {
    int index = 0;
    (bind_one(++index, values), ...);
    return *this;
  }
  // True: there is a row to read. False: there are no more.
  absl::StatusOr<bool> step();
  // For what answers no rows.
  absl::Status run();

  std::int64_t integer(int column) const { return sqlite3_column_int64(statement_, column); }
  std::string text(int column) const {
    const auto* bytes = reinterpret_cast<const char*>(sqlite3_column_text(statement_, column));
    return bytes == nullptr
               ? std::string()
               : std::string(bytes, static_cast<std::size_t>(sqlite3_column_bytes(statement_, column)));
  }

 private:
  template <typename Value>
  void bind_one(int index, const Value& value) {
    if constexpr (std::is_integral_v<Value>) {
      error_ |= sqlite3_bind_int64(statement_, index, static_cast<std::int64_t>(value));
    } else {
      const std::string_view text(value);
      // A null pointer would be bound as NULL.
      error_ |= sqlite3_bind_text64(statement_, index, text.empty() ? "" : text.data(), text.size(),
                                    SQLITE_STATIC, SQLITE_UTF8);
    }
  }

  Database& database_;
  sqlite3_stmt* statement_;
  int error_ = SQLITE_OK;
};

class Database {
 public:
  // Opens or makes the file. `path` is for messages, too.
  static absl::StatusOr<std::unique_ptr<Database>> open(const std::string& path,
                                                        std::chrono::milliseconds busy_timeout);
  ~Database();
  Database(const Database&) = delete;
  Database& operator=(const Database&) = delete;

  // Statements without parameters and rows; several, with ';' between them.
  absl::Status run(const char* sql);
  absl::StatusOr<std::int64_t> integer(const char* sql);
  absl::StatusOr<std::string> text(const char* sql);
  // Kept by the caller; finalized by the database.
  absl::StatusOr<sqlite3_stmt*> prepare(const char* sql);

  // What SQLite says about `error`, for the operation at hand. See the header of the room for the codes.
  absl::Status status(int error) const;
  // From now on a file that cannot be written or is damaged is kUnavailable: the words of the port leave
  // kPermissionDenied to the rules about owners, and a caller can do nothing else about it either.
  void set_serving() { serving_ = true; }
  int changes() const { return sqlite3_changes(handle_); }
  bool in_transaction() const { return sqlite3_get_autocommit(handle_) == 0; }

 private:
  explicit Database(std::string path) : path_(std::move(path)) {}

  std::string path_;
  sqlite3* handle_ = nullptr;
  bool serving_ = false;
};

// Rolls back unless it was committed. It takes the write lock at once: a transaction that began by reading
// may be told at its first write that another process was faster.
class Transaction {
 public:
  explicit Transaction(Database& database) : database_(database), status_(database.run("BEGIN IMMEDIATE")) {}
  ~Transaction() {
    // A full disk may have rolled it back already.
    if (status_.ok() && database_.in_transaction()) (void)database_.run("ROLLBACK");
  }
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  const absl::Status& status() const { return status_; }
  absl::Status commit() { return database_.run("COMMIT"); }

 private:
  Database& database_;
  absl::Status status_;
};

}  // namespace faaskit::registry
