// Private: a scope in which the calling thread is nobody.
//
// Hostile archives are unpacked in it: whatever a mistake in our checks, or in libarchive's, lets through,
// the thread cannot write what nobody may write, nor read what others may not. It reaches its own folder by a
// descriptor only; the folder's parent is closed to others.
//
// Why a thread's credentials and not a process: a child of a multi-threaded host may not even allocate, and
// the library starts no program for this. In the kernel credentials belong to threads; it is the C library
// that spreads changes over a process, hence the raw system calls. What this does not stop is foreign machine
// code in the host's own memory: it could take the capabilities back.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <vector>

#include <absl/status/status.h>

#include "support/mutex.h"

namespace faaskit::code {

struct UnpackUser {
  // nullopt: keep uid and gid (an ordinary user has none other), give up capabilities alone.
  std::optional<std::uint32_t> id{};
  // Changing credentials makes the kernel clear the process's "dumpable" flag; looking, changing and putting
  // it back is one step for all threads of a store.
  mutable Mutex mutex{};
};

class Unprivileged {
 public:
  explicit Unprivileged(const UnpackUser& user);
  Unprivileged(const Unprivileged&) = delete;
  Unprivileged& operator=(const Unprivileged&) = delete;
  ~Unprivileged();

  // Did all of it work? If not, nothing hostile may be touched.
  const absl::Status& status() const { return status_; }
  // Back to what the thread was. Once; the destructor does it otherwise. An error leaves the thread with less
  // than it had, never with more.
  absl::Status restore();

 private:
  struct Capabilities {
    std::uint32_t words[6] = {};
  };
  static bool get(Capabilities& out);
  static bool set(const Capabilities& in);
  absl::Status drop();

  const UnpackUser& user_;
  absl::Status status_;
  bool restored_ = false;
  bool changed_id_ = false;
  Capabilities saved_;
  std::vector<gid_t> groups_;
  int fsuid_ = 0;
  int fsgid_ = 0;
  int death_signal_ = 0;
};

}  // namespace faaskit::code
