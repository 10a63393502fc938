// CodeStore in a folder of this machine.
//
// Identity: code is its tree of files: their names, contents and whether they may be executed; empty folders
// too. Owners, times and the order and form of the packing are not part of it. The store keeps the tree as
// one plain tar file in a canonical form (sorted, mode 0644 or 0755, owner 0, time 1980-01-01), and the id is
// that file's SHA-256: `sha256sum blobs/<digits>.tar` says it again. Not compressed: it is what is unpacked
// again after a removal, while a call waits.
//
// What comes in is hostile. Regular files and folders only; names are relative, UTF-8, without "..", empty
// parts or control characters; everything within ArchiveLimits; unpacked by a thread that is nobody meanwhile
// (unpack_id), through openat2(RESOLVE_BENEATH), aside, and renamed into place when all of it is there.
//
//   <root>/code-store.lock   held as long as the store lives
//   <root>/blobs/            one tar file per id, synced: what admit() has answered for
//   <root>/unpacked/         one folder per id, read by others; a cache: it does not survive a reboot
//   <root>/incoming/         half-made things; swept at start
//
// A crash at any point leaves at most rubbish in incoming/ and folders without a blob; the next start on the
// same root sweeps both. Removed code of ended leases is taken off the disk by the next call of any member
// but stats(), so that the end of a lease never blocks.
//
// Timestamps: unpacked files are of 1980-01-01. Vendored .pyc files must therefore be hash-based
// (py_compile --invalidation-mode unchecked-hash), or Python compiles anew at each start.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "faaskit/core/export.h"
#include "faaskit/port/code_store.h"

namespace faaskit::code {

// What a source may hold. Beyond a limit: kResourceExhausted with its name and value.
struct ArchiveLimits {
  std::uint32_t max_entries = 50'000;  // files and folders, named or implied; one named again counts again
  std::uint64_t max_file_bytes = 256ull << 20;
  std::uint64_t max_bytes = 512ull << 20;  // of all files
  // Bytes out for each byte of the archive, once a MiB has come out: code packs 3 to 10 times, a bomb 1000.
  std::uint32_t max_ratio = 100;
  std::uint32_t max_name_bytes = 512;  // of a whole name; one part of it has at most 255
  std::uint32_t max_depth = 32;        // parts of a name
};

struct CodeStoreOptions {
  // Absolute; made if it is not there, its parent must be. Ours alone: owned by this user, written by nobody
  // else, empty or a code store.
  std::string root{};
  // Absolute. CodeSource::folder and ::mounted name folders beneath it; empty: none is taken.
  std::string folders{};
  ArchiveLimits limits{};
  // Packed and unpacked together. Over it, unpacked folders nobody leases are removed, oldest use first; code
  // in use may exceed it. admit() refuses what the packed ones alone would exceed it with.
  std::uint64_t disk_budget_bytes = 10ull << 30;
  // uid and gid of the unpacking thread, where the store is root; nullopt: those of the store.
  std::optional<std::uint32_t> unpack_id = 65534;
  // How long open() waits for another caller's unpacking of the same code.
  std::chrono::milliseconds open_timeout = std::chrono::minutes(2);
  // At start, copied code that is not named here is removed: what a crash left between admit() and a
  // registry's put(). nullopt: all of it stays.
  std::optional<std::vector<CodeId>> known{};
};

// May block. Sweeps what a crash left.
//   kInvalidArgument     names the option at fault
//   kAlreadyExists       another store, of this process or another, has the root
//   kFailedPrecondition  the root is not ours or not a code store; no openat2 (Linux 5.6); the unpacking
//                        thread cannot become unpack_id
//   kNotFound, kPermissionDenied, kResourceExhausted  of the folders, as the kernel says
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<CodeStore>> make_code_store(CodeStoreOptions options);

}  // namespace faaskit::code
