// StartMachine: which start a host makes next, as a pure state machine.
//
// Starts arrive at least once and are kept per function; they are taken round-robin over functions, so
// that one cold function with a thousand waiters does not starve the others. At the host's cap room is
// made first: an idle sandbox of another function is evicted. Where there is none the start waits: to
// destroy a warm sandbox so that a cold copy of it can be made helps nobody.
#pragma once

#include <chrono>
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

inline constexpr std::uint64_t kNoMemoryBudget = ~std::uint64_t{0};

struct StartLimits {
  // Live and starting on this host, until reaped.
  std::uint32_t max_sandboxes = 512;
  // The memory that those may use together, as the sum of their own limits (ResourceLimits::memory_bytes).
  // Unlimited ones count as nothing. A function whose sandboxes could never fit is refused at its deploy.
  std::uint64_t max_memory_bytes = kNoMemoryBudget;
  // Being made at once: process creation is CPU-bound, and more of it only makes each one later.
  std::uint32_t max_concurrent_starts = 8;
  // Known and not begun. Beyond this an arrival is dropped; the engine sends it again.
  std::size_t max_queued = 65536;
};

class FAASKIT_EXPORT StartMachine {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit StartMachine(StartLimits limits) : limits_(limits) {}

  // False: known already, or dropped at the bound.
  bool arrived(StartRequest start, TimePoint now = {});

  struct Next {
    enum class Kind : std::uint8_t {
      nothing,  // no start is queued, or enough are being made
      begin,    // claim and make `start`; it counts from now on
      evict,    // withdraw the least recently used idle sandbox that `start` could not use itself
    };
    Kind kind = Kind::nothing;
    StartRequest start;
    TimePoint arrived{};
  };
  // What to do now; call it again until `nothing`, and after every change below.
  Next next();

  // No idle sandbox could be withdrawn for `function`: do not ask again until something changes.
  void nothing_to_evict(const std::string& function) { evict_blocked_.insert(function); }
  // One is being withdrawn for `function`, which the room is then kept for: a function that may not evict
  // its own must not get them by way of others.
  void evicting(const std::string& function);

  // A sandbox became idle: asking again may help.
  void may_evict() { evict_blocked_.clear(); }
  // One of `function` did, which helps only others.
  void may_evict(const std::string& function);
  // It was leased meanwhile.
  void eviction_failed(const std::string& function);

  // The function was removed: what is queued for it is not wanted any more.
  void forget(const std::string& function);

  // The claim was refused: it was never made.
  void dropped(const StartId& start);
  // It answered: it is live now.
  void ready(const StartId& start);
  // A sandbox that began (ready or not) was reaped; `evicted` if evicting() was called for it.
  void reaped(const StartId& start, bool was_ready, bool evicted);

  // Asking again for an eviction may help, once a sandbox becomes idle.
  bool wants_eviction() const { return !evict_blocked_.empty(); }
  std::uint64_t queued() const { return queued_; }
  std::uint64_t starting() const { return beginning_.size(); }
  std::uint64_t counted() const { return beginning_.size() + live_; }

 private:
  struct Queued {
    StartRequest start;
    TimePoint arrived{};
  };
  using Queues = std::map<std::string, std::deque<Queued>>;
  // Of the functions that have starts queued, the first after the one served last that `may`.
  template <class May>
  Queues::iterator in_turn(May may);
  void take_room(const std::string& function);

  const StartLimits limits_;
  Queues by_function_;
  std::string last_served_;
  std::set<StartId> known_;      // queued
  std::set<StartId> beginning_;  // claimed or being claimed, being made
  std::size_t queued_ = 0;
  std::uint64_t live_ = 0;
  std::uint64_t evicting_ = 0;
  std::set<std::string> evict_blocked_;
  std::multiset<std::string> room_for_;  // evictions were begun for these, and none of their starts since
};

}  // namespace faaskit
