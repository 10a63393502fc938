// Private: everything that time alone brings to the sandboxes of one shard, behind one Timer.
//
// The Timer is left armed when its entry goes, so that a call's deadline usually costs a set insertion and
// removal, and no system call. On the shard's thread only.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <tuple>

#include <absl/container/btree_set.h>
#include <absl/functional/any_invocable.h>

#include "faaskit/port/clock.h"

namespace faaskit {

class HostedSandbox;

enum class Alarm : std::uint8_t {
  deadline,  // of the call that runs, or of the ping before it
  cause,     // a dead call's answer waits no longer for how its sandbox died
  freeze,    // the grace time has passed, perhaps
  confirm,   // has the kernel frozen it?
  expire,    // keep-alive
  age,       // maximum age
  kill,      // it should have died by now
};
inline constexpr std::size_t kAlarms = 7;

// What each sandbox keeps of its own alarms.
using ArmedAlarms = std::array<TimePoint, kAlarms>;
inline constexpr ArmedAlarms kNoAlarms = {kNever, kNever, kNever, kNever, kNever, kNever, kNever};

class ShardTimers {
 public:
  using Fire = absl::AnyInvocable<void(HostedSandbox&, Alarm)>;

  ShardTimers(std::shared_ptr<Clock> clock, asio::any_io_executor shard, Fire fire)
      : clock_(std::move(clock)), timer_(clock_->make_timer(std::move(shard))), fire_(std::move(fire)) {}

  // Replaces the alarm of the same kind; kNever only clears it.
  void set(HostedSandbox& sandbox, ArmedAlarms& armed, Alarm alarm, TimePoint when) {
    clear(sandbox, armed, alarm);
    if (when == kNever) return;  // unset
    armed[static_cast<std::size_t>(alarm)] = when;
    entries_.insert({when, &sandbox, alarm});
    if (when < timer_at_) rearm();
  }
  void clear(HostedSandbox& sandbox, ArmedAlarms& armed, Alarm alarm) {
    TimePoint& when = armed[static_cast<std::size_t>(alarm)];
    if (when == kNever) return;
    entries_.erase({when, &sandbox, alarm});
    when = kNever;
  }
  static bool is_set(const ArmedAlarms& armed, Alarm alarm) {
    return armed[static_cast<std::size_t>(alarm)] != kNever;
  }
  // How an alarm's owner marks it as gone off.
  static void went_off(ArmedAlarms& armed, Alarm alarm) { armed[static_cast<std::size_t>(alarm)] = kNever; }

 private:
  struct Entry {
    TimePoint when;
    HostedSandbox* sandbox;
    Alarm alarm;
    friend bool operator<(const Entry& a, const Entry& b) {
      return std::tie(a.when, a.sandbox, a.alarm) < std::tie(b.when, b.sandbox, b.alarm);
    }
  };

  void rearm() {
    if (entries_.empty()) {
      timer_at_ = kNever;
      return;
    }
    timer_at_ = entries_.begin()->when;
    timer_->arm(timer_at_, [this] { run(); });
  }

  void run() {
    const TimePoint now = clock_->now();
    while (!entries_.empty() && entries_.begin()->when <= now) {
      const Entry entry = *entries_.begin();
      entries_.erase(entries_.begin());
      fire_(*entry.sandbox, entry.alarm);
    }
    rearm();
  }

  const std::shared_ptr<Clock> clock_;
  std::unique_ptr<Timer> timer_;
  Fire fire_;
  absl::btree_set<Entry> entries_;
  TimePoint timer_at_ = kNever;
};

}  // namespace faaskit
