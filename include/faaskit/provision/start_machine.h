// StartMachine: which start a host makes next, as a pure state machine.
//
// Starts arrive at least once and are kept per function; they are taken round-robin over functions, so
// that one cold function with a thousand waiters does not starve the others. At the host's cap room is
// made first: an idle sandbox of another function is evicted before anything is refused.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/core/queue_types.h"

namespace faaskit {

struct StartLimits {
  // Live and starting on this host, until reaped.
  std::uint32_t max_sandboxes = 512;
  // Being made at once: process creation is CPU-bound, and more of it only makes each one later.
  std::uint32_t max_concurrent_starts = 8;
  // Known and not begun. Beyond this an arrival is dropped; the engine sends it again.
  std::size_t max_queued = 65536;
};

class FAASKIT_EXPORT StartMachine {
 public:
  explicit StartMachine(StartLimits limits) : limits_(limits) {}

  // False: known already, or dropped at the bound.
  bool arrived(StartRequest start);

  struct Next {
    enum class Kind : std::uint8_t {
      nothing,  // no start is queued, or enough are being made
      begin,    // claim and make `start`; it counts from now on
      evict,    // withdraw the least recently used idle sandbox, preferably not of `start.function`
    };
    Kind kind = Kind::nothing;
    StartRequest start;
  };
  // What to do now; call it again until `nothing`, and after every change below.
  Next next();

  // No idle sandbox could be withdrawn: do not ask again until something ends.
  void nothing_to_evict() { evict_blocked_ = true; }
  void evicting() { ++evicting_; }

  // A sandbox became idle or its eviction failed: asking again may help.
  void may_evict() { evict_blocked_ = false; }
  void eviction_failed();

  // The claim was refused: it was never made.
  void dropped(const StartId& start);
  // It answered: it is live now.
  void ready(const StartId& start);
  // A sandbox that began (ready or not) was reaped; `evicted` if evicting() was called for it.
  void reaped(const StartId& start, bool was_ready, bool evicted);

  std::uint64_t queued() const { return queued_; }
  std::uint64_t starting() const { return beginning_.size(); }
  std::uint64_t counted() const { return beginning_.size() + live_; }

 private:
  const StartLimits limits_;
  std::map<std::string, std::deque<StartRequest>> by_function_;
  std::string last_served_;
  std::set<StartId> known_;      // queued
  std::set<StartId> beginning_;  // claimed or being claimed, being made
  std::size_t queued_ = 0;
  std::uint64_t live_ = 0;
  std::uint64_t evicting_ = 0;
  bool evict_blocked_ = false;
};

}  // namespace faaskit
