#include "faaskit/provision/start_machine.h"

#include <algorithm>
#include <cassert>
#include <utility>

namespace faaskit {

bool StartMachine::arrived(StartRequest start, TimePoint now) {
  if (queued_ >= limits_.max_queued || beginning_.contains(start.id) || !known_.insert(start.id).second)
    return false;
  ++queued_;
  std::string function = start.function;
  by_function_[std::move(function)].push_back({.start = std::move(start), .arrived = now});
  return true;
}

template <class May>
StartMachine::Queues::iterator StartMachine::in_turn(May may) {
  const auto after_last = by_function_.upper_bound(last_served_);
  const auto found = std::find_if(after_last, by_function_.end(), may);
  if (found != by_function_.end()) return found;
  const auto wrapped = std::find_if(by_function_.begin(), after_last, may);
  return wrapped == after_last ? by_function_.end() : wrapped;
}

StartMachine::Next StartMachine::next() {
  if (queued_ == 0 || beginning_.size() >= limits_.max_concurrent_starts) return {};
  if (counted() >= limits_.max_sandboxes) {
    // One eviction for each start that could begin; those under way count.
    if (evicting_ >= queued_ || evicting_ >= limits_.max_concurrent_starts) return {};
    const auto turn = in_turn([&](const auto& entry) {
      return !evict_blocked_.contains(entry.first) && room_for_.count(entry.first) < entry.second.size();
    });
    if (turn == by_function_.end()) return {};
    const Queued& first = turn->second.front();
    return {.kind = Next::Kind::evict, .start = first.start, .arrived = first.arrived};
  }
  auto turn = in_turn([&](const auto& entry) { return room_for_.contains(entry.first); });
  if (turn == by_function_.end()) turn = in_turn([](const auto&) { return true; });
  Queued first = std::move(turn->second.front());
  Next next{.kind = Next::Kind::begin, .start = std::move(first.start), .arrived = first.arrived};
  turn->second.pop_front();
  last_served_ = turn->first;
  take_room(turn->first);
  if (turn->second.empty()) by_function_.erase(turn);
  --queued_;
  known_.erase(next.start.id);
  beginning_.insert(next.start.id);
  return next;
}

void StartMachine::take_room(const std::string& function) {
  if (auto room = room_for_.find(function); room != room_for_.end()) room_for_.erase(room);
}

void StartMachine::may_evict(const std::string& function) {
  std::erase_if(evict_blocked_, [&](const std::string& blocked) { return blocked != function; });
}

void StartMachine::evicting(const std::string& function) {
  ++evicting_;
  room_for_.insert(function);
}

void StartMachine::eviction_failed(const std::string& function) {
  assert(evicting_ > 0);
  --evicting_;
  take_room(function);
}

void StartMachine::forget(const std::string& function) {
  room_for_.erase(function);
  evict_blocked_.erase(function);
  const auto queued = by_function_.find(function);
  if (queued == by_function_.end()) return;
  for (const Queued& each : queued->second) known_.erase(each.start.id);
  queued_ -= queued->second.size();
  by_function_.erase(queued);
}

void StartMachine::dropped(const StartId& start) { beginning_.erase(start); }

void StartMachine::ready(const StartId& start) {
  if (beginning_.erase(start) > 0) ++live_;
}

void StartMachine::reaped(const StartId& start, bool was_ready, bool evicted) {
  if (was_ready) {
    assert(live_ > 0);
    --live_;
  } else {
    beginning_.erase(start);
  }
  if (evicted) {
    assert(evicting_ > 0);
    --evicting_;
  }
  evict_blocked_.clear();
}

}  // namespace faaskit
