// Private: what time alone will bring to the functions of a queue: deadlines of who waits, ends of backoffs.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <tuple>

#include <absl/container/btree_set.h>

#include "faaskit/core/ids.h"
#include "faaskit/port/clock.h"
#include "faaskit/port/executors.h"
#include "support/mutex.h"

namespace faaskit::memory {

struct Function;

class Timetable : public std::enable_shared_from_this<Timetable> {
 public:
  // deadline  of the waiter that `request` and `attempt` name
  // event     FunctionQueue::next_event()
  enum class Kind : std::uint8_t { deadline, event };
  struct Entry {
    TimePoint when;
    Function* function;
    Kind kind;
    RequestId request{};
    std::uint32_t attempt = 0;
    friend bool operator<(const Entry& a, const Entry& b) {
      return std::tie(a.when, a.function, a.kind, a.request, a.attempt) <
             std::tie(b.when, b.function, b.kind, b.request, b.attempt);
    }
  };

  // `due` runs on `executor`, without a lock, for each entry whose time has come; it is taken out before.
  Timetable(const asio::any_io_executor& executor, std::shared_ptr<Clock> clock,
            std::function<void(const Entry&)> due);

  // Either may be called with the mutex of the function held.
  void add(const Entry& entry);
  void remove(const Entry& entry);

 private:
  // Several, so that waiting calls of different functions seldom meet.
  struct Lane {
    Mutex mutex;
    absl::btree_set<Entry> entries FAASKIT_GUARDED_BY(mutex);
    TimePoint armed FAASKIT_GUARDED_BY(mutex) = kNever;
    asio::any_io_executor strand;
    std::unique_ptr<Timer> timer;  // on the strand only
  };

  Lane& lane_of(const Function* function);
  void set_timer(Lane& lane);
  void fire(Lane& lane);

  const std::shared_ptr<Clock> clock_;
  const std::function<void(const Entry&)> due_;
  std::array<Lane, 8> lanes_;
};

}  // namespace faaskit::memory
