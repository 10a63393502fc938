// Private: reads tar files that strangers sent.
#pragma once

#include <cstdint>
#include <string>

#include <absl/status/status.h>

#include "code/sha256.h"
#include "code/tree.h"
#include "faaskit/code/code_store.h"

namespace faaskit::code {

// Reads `archive` (ustar, pax or gnu; plain or gzip) from where it stands, and writes it through `out`.
// `hash`, if any, is given every byte of the file, also what comes after the archive's end or an error.
//   kInvalidArgument    no such archive, cut short, damaged; an entry that is refused: says which and why
//   kResourceExhausted  a limit, with its name; the disk
// REQUIRES: called within Unprivileged, unless the archive is our own.
absl::Status unpack(int archive, const ArchiveLimits& limits, TreeWriter& out, Sha256* hash = nullptr);

}  // namespace faaskit::code
