#include "registry/database.h"

#include <cerrno>
#include <cstring>
#include <utility>

#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>

namespace faaskit::registry {
namespace {

absl::StatusCode code_of(int error, int system_error) {
  switch (error & 0xff) {
    case SQLITE_FULL:
    case SQLITE_NOMEM: return absl::StatusCode::kResourceExhausted;
    case SQLITE_NOTADB:
    case SQLITE_CORRUPT: return absl::StatusCode::kDataLoss;
    case SQLITE_PERM:
    case SQLITE_READONLY: return absl::StatusCode::kPermissionDenied;
    case SQLITE_CANTOPEN:
    case SQLITE_IOERR:
      if (system_error == ENOSPC || system_error == EDQUOT) return absl::StatusCode::kResourceExhausted;
      if (system_error == EACCES || system_error == EPERM || system_error == EROFS)
        return absl::StatusCode::kPermissionDenied;
      return absl::StatusCode::kUnavailable;
    case SQLITE_BUSY:
    case SQLITE_LOCKED:
    default: return absl::StatusCode::kUnavailable;
  }
}

}  // namespace

absl::StatusOr<bool> Query::step() {
  if (error_ != SQLITE_OK) return database_.status(error_);
  switch (const int result = sqlite3_step(statement_)) {
    case SQLITE_ROW: return true;
    case SQLITE_DONE: return false;
    default: return database_.status(result);
  }
}

absl::Status Query::run() {
  const absl::StatusOr<bool> row = step();
  return row.status();
}

absl::StatusOr<std::unique_ptr<Database>> Database::open(const std::string& path,
                                                         std::chrono::milliseconds busy_timeout) {
  std::unique_ptr<Database> database(new Database(path));
  const int result = sqlite3_open_v2(
      path.c_str(), &database->handle_,
      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX | SQLITE_OPEN_EXRESCODE, nullptr);
  if (database->handle_ == nullptr) return absl::ResourceExhaustedError("registry: SQLite has no memory");
  if (result != SQLITE_OK) return database->status(result);
  sqlite3* const handle = database->handle_;
  // SQLite is content with reading if it may not write.
  if (sqlite3_db_readonly(handle, "main") == 1) return database->status(SQLITE_READONLY);
  sqlite3_busy_timeout(handle, static_cast<int>(busy_timeout.count()));
  // The file may have been written by somebody else: its schema is not trusted.
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DEFENSIVE, 1, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DQS_DML, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_DQS_DDL, 0, nullptr);
  sqlite3_db_config(handle, SQLITE_DBCONFIG_ENABLE_FKEY, 1, nullptr);
  return database;
}

Database::~Database() {
  while (sqlite3_stmt* statement = sqlite3_next_stmt(handle_, nullptr)) sqlite3_finalize(statement);
  sqlite3_close_v2(handle_);
}

absl::Status Database::run(const char* sql) {
  const int result = sqlite3_exec(handle_, sql, nullptr, nullptr, nullptr);
  return result == SQLITE_OK ? absl::OkStatus() : status(result);
}

absl::StatusOr<sqlite3_stmt*> Database::prepare(const char* sql) {
  sqlite3_stmt* statement = nullptr;
  const int result = sqlite3_prepare_v3(handle_, sql, -1, SQLITE_PREPARE_PERSISTENT, &statement, nullptr);
  if (result != SQLITE_OK) return status(result);
  return statement;
}

absl::StatusOr<std::string> Database::text(const char* sql) {
  const absl::StatusOr<sqlite3_stmt*> statement = prepare(sql);
  if (!statement.ok()) return statement.status();
  absl::StatusOr<std::string> answer{std::string()};
  {
    Query query(*this, *statement);
    const absl::StatusOr<bool> row = query.step();
    if (!row.ok()) {
      answer = row.status();
    } else if (*row) {
      answer = query.text(0);
    }
  }
  sqlite3_finalize(*statement);
  return answer;
}

absl::StatusOr<std::int64_t> Database::integer(const char* sql) {
  const absl::StatusOr<std::string> answer = text(sql);
  if (!answer.ok()) return answer.status();
  std::int64_t value = 0;
  if (!answer->empty() && !absl::SimpleAtoi(*answer, &value))
    return absl::InternalError(absl::StrCat("registry ", path_, ": '", *answer, "' is not a number"));
  return value;
}

absl::Status Database::status(int error) const {
  const int system_error = sqlite3_system_errno(handle_);
  std::string message = absl::StrCat("registry ", path_, ": ");
  // In the operator's words where there is a common cause; SQLite's own follow.
  switch (error & 0xff) {
    case SQLITE_BUSY: message += "locked by another process: "; break;
    case SQLITE_FULL: message += "the disk is full: "; break;
    case SQLITE_NOTADB: message += "not a database: "; break;
    case SQLITE_CORRUPT: message += "damaged: "; break;
    case SQLITE_READONLY: message += "may not be written: "; break;
    default: break;
  }
  absl::StrAppend(&message, sqlite3_errstr(error), " (SQLite ", error, ")");
  const bool from_system = (error & 0xff) == SQLITE_IOERR || (error & 0xff) == SQLITE_CANTOPEN;
  if (from_system && system_error != 0) absl::StrAppend(&message, ": ", std::strerror(system_error));
  absl::StatusCode code = code_of(error, from_system ? system_error : 0);
  if (serving_ && code != absl::StatusCode::kResourceExhausted) code = absl::StatusCode::kUnavailable;
  return absl::Status(code, message);
}

}  // namespace faaskit::registry
