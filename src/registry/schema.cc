#include "registry/schema.h"

#include <iterator>

#include <absl/strings/str_format.h>

namespace faaskit::registry {
namespace {

// Marks the file as ours ("fask"), in SQLite's own header.
constexpr std::int64_t kApplicationId = 0x6661736b;

// One step per form: kSteps[n] makes form n + 1 out of form n, in one transaction with its number.
// A step that has been released is never changed.
constexpr const char* kSteps[] = {
    // `last_version` outlives the versions themselves; `removed` remembers it for names that are gone, and
    // the floor for names that are gone from there. `sequence` orders the removals.
    R"(CREATE TABLE function(
         name TEXT NOT NULL PRIMARY KEY,
         owner TEXT NOT NULL,
         last_version INTEGER NOT NULL,
         requires_key INTEGER NOT NULL) STRICT, WITHOUT ROWID;
       CREATE TABLE version(
         function TEXT NOT NULL REFERENCES function(name) ON DELETE CASCADE,
         number INTEGER NOT NULL,
         manifest TEXT NOT NULL,
         code TEXT NOT NULL,
         deployed_at INTEGER NOT NULL,
         PRIMARY KEY(function, number)) STRICT;
       CREATE INDEX version_code ON version(code);
       CREATE TABLE access_key(
         function TEXT NOT NULL REFERENCES function(name) ON DELETE CASCADE,
         id TEXT NOT NULL,
         hash TEXT NOT NULL,
         created_at INTEGER NOT NULL,
         PRIMARY KEY(function, id)) STRICT, WITHOUT ROWID;
       CREATE TABLE removed(
         sequence INTEGER PRIMARY KEY AUTOINCREMENT,
         name TEXT NOT NULL UNIQUE,
         last_version INTEGER NOT NULL) STRICT;
       CREATE TABLE version_floor(number INTEGER NOT NULL) STRICT;
       INSERT INTO version_floor VALUES(0);)",
};
static_assert(std::size(kSteps) == kSchemaVersion);

}  // namespace

absl::Status migrate(Database& database) {
  Transaction transaction(database);
  if (!transaction.status().ok()) return transaction.status();
  const absl::StatusOr<std::int64_t> application = database.integer("PRAGMA application_id");
  if (!application.ok()) return application.status();
  const absl::StatusOr<std::int64_t> tables = database.integer("SELECT count(*) FROM sqlite_schema");
  if (!tables.ok()) return tables.status();
  const absl::StatusOr<std::int64_t> form = database.integer("PRAGMA user_version");
  if (!form.ok()) return form.status();

  const bool empty = *application == 0 && *tables == 0 && *form == 0;
  if (!empty && *application != kApplicationId)
    return absl::FailedPreconditionError(
        absl::StrFormat("registry: the file is another program's: its application id is %#x, ours is %#x",
                        *application, kApplicationId));
  if (*form > kSchemaVersion)
    return absl::FailedPreconditionError(
        absl::StrFormat("registry: the file has form %d, of a newer faaskit; this one knows forms up to %d",
                        *form, kSchemaVersion));
  if (*form == kSchemaVersion) return absl::OkStatus();

  for (std::int64_t step = *form; step < kSchemaVersion; ++step) {
    if (absl::Status status = database.run(kSteps[step]); !status.ok()) return status;
  }
  const std::string marks =
      absl::StrFormat("PRAGMA application_id = %d; PRAGMA user_version = %d", kApplicationId, kSchemaVersion);
  if (absl::Status status = database.run(marks.c_str()); !status.ok()) return status;
  return transaction.commit();
}

}  // namespace faaskit::registry
