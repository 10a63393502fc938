#include "memory/timetable.h"

#include <utility>
#include <vector>

#include <boost/asio/post.hpp>
#include <boost/asio/strand.hpp>

namespace faaskit::memory {

Timetable::Timetable(const asio::any_io_executor& executor, std::shared_ptr<Clock> clock,
                     std::function<void(const Entry&)> due)
    : clock_(std::move(clock)), due_(std::move(due)) {
  for (Lane& lane : lanes_) {
    lane.strand = asio::any_io_executor(asio::make_strand(executor));
    lane.timer = clock_->make_timer(lane.strand);
  }
}

// The top bits of a product: functions lie at regular distances, and those would fill few lanes.
Timetable::Lane& Timetable::lane_of(const Function* function) {
  static_assert(std::tuple_size_v<decltype(lanes_)> == 8);
  return lanes_[(reinterpret_cast<std::uintptr_t>(function) * 0x9e37'79b9'7f4a'7c15u) >> 61];
}

// The timer is left armed when its entry goes: it fires once for nothing instead of being set anew for
// every call that waits.
void Timetable::add(const Entry& entry) {
  Lane& lane = lane_of(entry.function);
  {
    MutexLock lock(lane.mutex);
    lane.entries.insert(entry);
    if (entry.when >= lane.armed) return;
    lane.armed = entry.when;
  }
  asio::post(lane.strand, [weak = weak_from_this(), &lane] {
    if (auto self = weak.lock()) self->set_timer(lane);
  });
}

void Timetable::remove(const Entry& entry) {
  Lane& lane = lane_of(entry.function);
  MutexLock lock(lane.mutex);
  lane.entries.erase(entry);
}

void Timetable::set_timer(Lane& lane) {
  TimePoint when;
  {
    MutexLock lock(lane.mutex);
    when = lane.entries.empty() ? kNever : lane.entries.begin()->when;
    lane.armed = when;
  }
  if (when == kNever) {
    lane.timer->cancel();
    return;
  }
  lane.timer->arm(when, [weak = weak_from_this(), &lane] {
    if (auto self = weak.lock()) self->fire(lane);
  });
}

void Timetable::fire(Lane& lane) {
  std::vector<Entry> due;
  {
    MutexLock lock(lane.mutex);
    const TimePoint now = clock_->now();
    while (!lane.entries.empty() && lane.entries.begin()->when <= now) {
      due.push_back(*lane.entries.begin());
      lane.entries.erase(lane.entries.begin());
    }
  }
  for (const Entry& entry : due) due_(entry);
  set_timer(lane);
}

}  // namespace faaskit::memory
