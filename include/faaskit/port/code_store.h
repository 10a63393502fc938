// CodeStore: the code of function versions on this host's disk.
//
// Code comes in once (admit), is named by the digest of its content, and is opened by every start that needs
// it. An open code has a lease; what is leased is never removed. What nobody leases may go when the disk
// budget is exceeded, oldest use first, and is unpacked again when it is next opened.
//
// Thread safety: every member from any thread; all may block (disk): call them on the blocking executor.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/core/export.h"

namespace faaskit {

//   copied   the store has its own copy, in its own folder
//   mounted  a prepared folder of the host, used in place and never written: no copy
enum class CodeKind : std::uint8_t { copied, mounted };
FAASKIT_EXPORT std::string_view to_string(CodeKind kind);

// Names code; equal for equal content. Opaque to everybody but the store that made it, and storable as text.
struct CodeId {
  CodeKind kind = CodeKind::copied;
  // copied: "sha256:" and 64 hexadecimal digits. mounted: the path beneath the store's root of folders.
  std::string name{};
  friend bool operator==(const CodeId&, const CodeId&) = default;
};
FAASKIT_EXPORT std::string to_string(const CodeId& id);  // "copied:sha256:..." or "mounted:wordstats"
// The inverse. kInvalidArgument.
FAASKIT_EXPORT absl::StatusOr<CodeId> parse_code_id(std::string_view text);

// While it lives, its folder stays as it is.
class FAASKIT_EXPORT CodeLease {
 public:
  CodeLease(const CodeLease&) = delete;
  CodeLease& operator=(const CodeLease&) = delete;
  virtual ~CodeLease() = default;
  // Absolute; a folder, readable by others, owned by nobody who runs functions.
  virtual const std::string& path() const = 0;

 protected:
  CodeLease() = default;
};

struct CodeSource {
  enum class Kind : std::uint8_t {
    archive,  // `path` is a tar file, plain or gzip, which the caller may delete afterwards
    folder,   // `path` is a folder beneath the store's root of folders; it is copied
    mounted,  // the same, used in place
  };
  Kind kind = Kind::archive;
  std::string path{};
};

struct CodeStats {
  std::uint64_t unpacked = 0;        // folders there now
  std::uint64_t bytes = 0;           // on disk: packed and unpacked
  std::uint64_t opened = 0;          // since start
  std::uint64_t unpacks = 0;         // of those, how many had to unpack
  std::uint64_t removed = 0;         // folders taken away for the budget
  std::uint64_t failed_unpacks = 0;  // never remembered as success
};

class FAASKIT_EXPORT CodeStore {
 public:
  CodeStore(const CodeStore&) = delete;
  CodeStore& operator=(const CodeStore&) = delete;
  virtual ~CodeStore() = default;

  // Takes code in, durably. The same content again is the same id and no work.
  //   kInvalidArgument    what the archive must not hold: which entry, and why
  //   kOutOfRange         too many entries, bytes, or too high a ratio: with the limit
  //   kResourceExhausted  the disk, or its budget, is full
  //   kNotFound           no such file, or a path that leaves the root of folders
  virtual absl::StatusOr<CodeId> admit(const CodeSource& source) = 0;

  // The code's folder, unpacked if it is not. Many at once for one id unpack once, and a failure is told to
  // all who waited and to nobody after them. kNotFound: never admitted, or forgotten. kDataLoss: the stored
  // copy does not match its digest.
  virtual absl::StatusOr<std::shared_ptr<CodeLease>> open(const CodeId& id) = 0;

  // No version uses this code any more: it goes as soon as nobody leases it. OK if it is not known.
  virtual absl::Status forget(const CodeId& id) = 0;

  virtual CodeStats stats() const = 0;

 protected:
  CodeStore() = default;
};

}  // namespace faaskit
