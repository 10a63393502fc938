// StartMachine: which start a host makes next, as a pure state machine.
//
// Starts arrive at least once and are kept per function; they are taken round-robin over functions, so
// that one cold function with a thousand waiters does not starve the others. At a cap of the host, of
// sandboxes or of memory, room is made first: idle sandboxes of other functions are evicted, as many as it
// takes. Where there is none the start waits: to destroy a warm sandbox so that a cold copy of it can be made
// helps nobody.
//
// Room is kept for whom it was made. Memory that comes free by itself while a start waits that is too large
// for what is left is kept for that start, too: small ones, which always fit, would take it otherwise, and
// for ever. Nobody keeps room longer than `room_wait`: what was claimed is given back then, and the others
// have their turn.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "faaskit/core/export.h"
#include "faaskit/core/queue_types.h"

namespace faaskit {

inline constexpr std::uint64_t kNoMemoryBudget = ~std::uint64_t{0};

// What StartLimits::max_concurrent_starts is for so many cores: two for each, from 2 to 64.
FAASKIT_EXPORT std::uint32_t starts_at_once(unsigned cores);

struct StartLimits {
  // Live and starting on this host, until reaped.
  std::uint32_t max_sandboxes = 512;
  // The memory that those may use together, as the sum of their own limits (ResourceLimits::memory_bytes).
  // Unlimited ones count as nothing. A function whose sandboxes could never fit is refused at its deploy.
  std::uint64_t max_memory_bytes = kNoMemoryBudget;
  // Being made at once. A start is CPU-bound but for short waits: two for each core keep all cores busy, and
  // more of them only make each one later. On 4 cores, of 64 wanted Python sandboxes 27 became ready per
  // second with 8 at once and 31 with 64 at once, but one took 0.26 s then and 1.3 s now; see docs/adr/0016.
  std::uint32_t max_concurrent_starts = starts_at_once(std::thread::hardware_concurrency());
  // Known and not begun. Beyond this an arrival is dropped; the engine sends it again.
  std::size_t max_queued = 65536;
  // How long room is kept for a start that needs more of it.
  std::chrono::milliseconds room_wait = std::chrono::seconds(10);
};

class FAASKIT_EXPORT StartMachine {
 public:
  using TimePoint = std::chrono::steady_clock::time_point;

  explicit StartMachine(StartLimits limits) : limits_(limits) {}

  // `bytes`: the memory limit of what it makes. False: known already, too large for this host, or dropped at
  // the bound.
  bool arrived(StartRequest start, TimePoint now = {}, std::uint64_t bytes = 0);

  struct Next {
    enum class Kind : std::uint8_t {
      nothing,  // no start is queued, or enough are being made
      begin,    // claim and make `start`; it counts from now on
      evict,    // withdraw the least recently used idle sandbox that `start` could not use itself
    };
    Kind kind = Kind::nothing;
    StartRequest start;
    TimePoint arrived{};
    std::uint64_t bytes = 0;
    // begin: it is claimed already.  evict: it is claimed; if not, claim it as one that needs room, and say
    // claiming(): what nobody waits for ends no idle sandbox.
    bool claimed = false;
    // evict: memory is all that lacks.
    bool of_memory = false;
  };
  // What to do now; call it again until `nothing`, and after every change below.
  Next next(TimePoint now = {});

  // A claim for room is under way; then one of the two that follow.
  void claiming(const StartRequest& start);
  // False: it was forgotten meanwhile, and must be given back.
  bool claimed(const StartRequest& start, TimePoint now = {});
  void not_claimed(const StartRequest& start);
  // Starts that were claimed and will not be made: report each as gone. Once.
  std::vector<StartRequest> given_up();
  // When time alone will change something; TimePoint::max() if never.
  TimePoint next_event() const;

  // No idle sandbox could be withdrawn for `function`: do not ask again until something changes.
  void nothing_to_evict(const std::string& function) { evict_blocked_.insert(function); }
  // What `victim` became is being withdrawn for `function`, which the room is then kept for: a function that
  // may not evict its own must not get them by way of others.
  void evicting(const std::string& function, const StartId& victim = {}, TimePoint now = {});

  // A sandbox became idle: asking again may help.
  void may_evict() { evict_blocked_.clear(); }
  // One of `function` did, which helps only others.
  void may_evict(const std::string& function);
  // It was leased meanwhile.
  void eviction_failed(const std::string& function, const StartId& victim = {});

  // Versions up to this one were removed: what is queued of them is not wanted any more.
  void forget(const std::string& function, Version up_to = ~Version{0});

  // The claim was refused: it was never made.
  void dropped(const StartId& start);
  // It answered: it is live now.
  void ready(const StartId& start);
  // A sandbox that began (ready or not) was reaped; `evicted` if evicting() was called for it.
  void reaped(const StartId& start, bool was_ready, bool evicted, TimePoint now = {});

  // Asking again for an eviction may help, once a sandbox becomes idle.
  bool wants_eviction() const { return !evict_blocked_.empty(); }
  std::uint64_t queued() const { return queued_; }
  std::uint64_t starting() const { return beginning_.size(); }
  std::uint64_t counted() const { return beginning_.size() + live_.size(); }
  std::uint64_t counted_bytes() const { return used_.bytes; }

 private:
  enum class Claim : std::uint8_t { no, asked, granted };
  struct Queued {
    StartRequest start;
    TimePoint arrived{};
    std::uint64_t bytes = 0;
    Claim claim = Claim::no;
  };
  struct Room {
    std::uint64_t sandboxes = 0;
    std::uint64_t bytes = 0;
    bool empty() const { return sandboxes == 0 && bytes == 0; }
    void add(const Room& other);
    void take(const Room& other);  // as much of it as there is
  };
  // Of one function: its starts, those claimed for room first, and the room kept for them.
  struct Line {
    std::deque<Queued> starts;
    Room kept;
    TimePoint since = TimePoint::max();  // it waits for more
  };
  using Lines = std::map<std::string, Line>;
  struct Wanted {
    const Queued* start = nullptr;
    bool of_memory = false;
  };

  // Of the functions that have starts queued, the first after the one served last that `may`.
  template <class May>
  Lines::iterator in_turn(May may);
  // Whether `more` could be there besides what is kept for other lines, after all evictions under way.
  bool sandboxes_fit(const Line& line, std::uint64_t more) const;
  bool memory_fits(const Line& line, std::uint64_t more) const;
  bool fits_now(const Line& line, const Queued& start) const;
  Wanted wants_room(const Line& line) const;
  void keep(Line& line, const Room& room, TimePoint now);
  void spend(Line& line, const Room& room);
  void release(Line& line);
  void give_up_waiting(TimePoint now);
  void keep_for_the_large(std::uint64_t bytes, TimePoint now);
  Room room_of(const StartId& counted) const;
  std::uint64_t uncount(const StartId& start);
  void erase(Lines::iterator line, std::deque<Queued>::iterator start);

  const StartLimits limits_;
  Lines lines_;
  std::string last_served_;
  std::set<StartId> known_;  // queued
  // What counts: claimed or being claimed, being made; and live. With the memory of each.
  std::map<StartId, std::uint64_t> beginning_;
  std::map<StartId, std::uint64_t> live_;
  std::size_t queued_ = 0;
  Room used_;      // by both of them
  Room evicting_;  // of those, what goes
  Room kept_;      // for all lines
  std::set<std::string> evict_blocked_;
  std::vector<StartRequest> given_up_;
};

}  // namespace faaskit
