#include "faaskit/testing/manual_clock.h"

#include <cassert>
#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include <boost/asio/post.hpp>

namespace faaskit::testing {
namespace {

struct Alarm {
  explicit Alarm(asio::any_io_executor where) : executor(std::move(where)) {}
  const asio::any_io_executor executor;
  // Below: guarded by State::mutex.
  std::uint64_t round = 0;  // of the last arm or cancel; a post of an earlier one finds itself outdated
  TimePoint when = kNever;
  bool listed = false;
  absl::AnyInvocable<void()> fire;
};

}  // namespace

struct ManualClock::State {
  mutable std::mutex mutex;
  TimePoint now;
  std::multimap<TimePoint, std::shared_ptr<Alarm>> alarms;

  void unlist(const std::shared_ptr<Alarm>& alarm) {
    if (!std::exchange(alarm->listed, false)) return;
    for (auto [it, end] = alarms.equal_range(alarm->when); it != end; ++it) {
      if (it->second != alarm) continue;
      alarms.erase(it);
      return;
    }
  }
};

class ManualClock::ManualTimer final : public Timer {
 public:
  ManualTimer(std::shared_ptr<State> state, asio::any_io_executor executor)
      : state_(std::move(state)), alarm_(std::make_shared<Alarm>(std::move(executor))) {}
  ~ManualTimer() override { ManualTimer::cancel(); }

  void arm(TimePoint when, absl::AnyInvocable<void()> fire) override {
    std::uint64_t round = 0;
    bool due = false;
    {
      std::lock_guard lock(state_->mutex);
      state_->unlist(alarm_);
      round = ++alarm_->round;
      std::swap(alarm_->fire, fire);  // the replaced callback dies outside the lock
      alarm_->when = when;
      due = when <= state_->now;
      if (!due) {
        alarm_->listed = true;
        state_->alarms.emplace(when, alarm_);
      }
    }
    if (due) post(state_, alarm_, round);
  }

  void cancel() override {
    absl::AnyInvocable<void()> dropped;
    std::lock_guard lock(state_->mutex);
    state_->unlist(alarm_);
    ++alarm_->round;
    std::swap(alarm_->fire, dropped);
  }

  static void post(const std::shared_ptr<State>& state, const std::shared_ptr<Alarm>& alarm,
                   std::uint64_t round) {
    asio::post(alarm->executor, [state, alarm, round] {
      absl::AnyInvocable<void()> fire;
      {
        std::lock_guard lock(state->mutex);
        if (alarm->round != round) return;
        std::swap(fire, alarm->fire);
      }
      if (fire) fire();
    });
  }

 private:
  const std::shared_ptr<State> state_;
  const std::shared_ptr<Alarm> alarm_;
};

ManualClock::ManualClock(TimePoint start) : state_(std::make_shared<State>()) { state_->now = start; }

ManualClock::~ManualClock() = default;

TimePoint ManualClock::now() const {
  std::lock_guard lock(state_->mutex);
  return state_->now;
}

std::unique_ptr<Timer> ManualClock::make_timer(asio::any_io_executor executor) {
  return std::make_unique<ManualTimer>(state_, std::move(executor));
}

void ManualClock::advance(Duration step) {
  assert(step >= Duration::zero());
  std::vector<std::pair<std::shared_ptr<Alarm>, std::uint64_t>> due;
  {
    std::lock_guard lock(state_->mutex);
    state_->now += step;
    auto end = state_->alarms.upper_bound(state_->now);
    for (auto it = state_->alarms.begin(); it != end; ++it) {
      it->second->listed = false;
      due.emplace_back(it->second, it->second->round);
    }
    state_->alarms.erase(state_->alarms.begin(), end);
  }
  for (auto& [alarm, round] : due) ManualTimer::post(state_, alarm, round);
}

bool ManualClock::advance_to_next() {
  const TimePoint when = next();
  if (when == kNever) return false;
  const TimePoint from = now();
  advance(when > from ? when - from : Duration::zero());
  return true;
}

std::size_t ManualClock::armed() const {
  std::lock_guard lock(state_->mutex);
  return state_->alarms.size();
}

TimePoint ManualClock::next() const {
  std::lock_guard lock(state_->mutex);
  return state_->alarms.empty() ? kNever : state_->alarms.begin()->first;
}

}  // namespace faaskit::testing
