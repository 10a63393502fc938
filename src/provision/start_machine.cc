#include "faaskit/provision/start_machine.h"

#include <cassert>
#include <utility>

namespace faaskit {

bool StartMachine::arrived(StartRequest start) {
  if (queued_ >= limits_.max_queued || beginning_.contains(start.id) || !known_.insert(start.id).second) return false;
  ++queued_;
  std::string function = start.function;
  by_function_[std::move(function)].push_back(std::move(start));
  return true;
}

StartMachine::Next StartMachine::next() {
  if (queued_ == 0 || beginning_.size() >= limits_.max_concurrent_starts) return {};
  auto turn = by_function_.upper_bound(last_served_);
  if (turn == by_function_.end()) turn = by_function_.begin();
  if (counted() >= limits_.max_sandboxes) {
    // One eviction for each start that could begin; those under way count.
    if (evict_blocked_ || evicting_ >= queued_ || evicting_ >= limits_.max_concurrent_starts) return {};
    return {.kind = Next::Kind::evict, .start = turn->second.front()};
  }
  Next next{.kind = Next::Kind::begin, .start = std::move(turn->second.front())};
  turn->second.pop_front();
  last_served_ = turn->first;
  if (turn->second.empty()) by_function_.erase(turn);
  --queued_;
  known_.erase(next.start.id);
  beginning_.insert(next.start.id);
  return next;
}

void StartMachine::eviction_failed() {
  assert(evicting_ > 0);
  --evicting_;
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
  evict_blocked_ = false;
}

}  // namespace faaskit
