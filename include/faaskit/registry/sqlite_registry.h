// The registry in one SQLite file, for one host.
//
// Durability: a write-ahead log that is synced before a member answers OK. The file must be on a local file
// system, since the processes that open it share memory.
// Secrecy: the file is 0600, and its folder is made 0700; a folder that others may write is refused.
// Ownership: who puts a function first owns it. Only its owner and "admin" may put again; it stays its
// owner's. Removing is not checked: a door does that, with get().
// Versions: a removed name remembers its last number. So that names put once and removed do not pile up,
// the `max_functions` newest removals are remembered by name, and the highest number of all older ones as a
// floor: a new name may then begin above 1.
// Other processes may read and write the same file (one of them at a time).
#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include <absl/status/statusor.h>

#include "faaskit/core/export.h"
#include "faaskit/port/registry.h"

namespace faaskit::registry {

struct SqliteRegistryOptions {
  // Made if it is not there, and its folder too (but not the folder's parent).
  std::string path{};
  // Of each function; at least 1. Enough to look back and to go back, and old code can go.
  std::size_t keep_versions = 10;
  std::size_t max_functions = 100'000;
  std::size_t max_manifest_bytes = 256 << 10;
  // How long a member waits for another process that is writing.
  std::chrono::milliseconds busy_timeout = std::chrono::seconds(2);
};

// Opens the file, checks it, and brings an older form of it to the present one.
//   kInvalidArgument    names the option at fault
//   kPermissionDenied   the file or its folder cannot be written, or belongs to somebody else
//   kFailedPrecondition the folder may be written by others; the file is another program's, or of a newer
//                       faaskit: with both numbers
//   kDataLoss           the file is not a database, or damaged
//   kResourceExhausted  the disk is full
//   kUnavailable        locked by another process for longer than `busy_timeout`
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<Registry>> make_sqlite_registry(SqliteRegistryOptions options);

}  // namespace faaskit::registry
