#include "faaskit/provision/start_machine.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include "support/time.h"

namespace faaskit {

std::uint32_t starts_at_once(unsigned cores) { return std::clamp(2 * cores, 2u, 64u); }

void StartMachine::Room::add(const Room& other) {
  sandboxes += other.sandboxes;
  bytes += other.bytes;
}

void StartMachine::Room::take(const Room& other) {
  sandboxes -= std::min(sandboxes, other.sandboxes);
  bytes -= std::min(bytes, other.bytes);
}

// ---- the queue

bool StartMachine::arrived(StartRequest start, TimePoint now, std::uint64_t bytes) {
  if (limits_.max_memory_bytes == kNoMemoryBudget) bytes = 0;
  if (bytes > limits_.max_memory_bytes || queued_ >= limits_.max_queued) return false;
  // A late duplicate of what lives: its claim would be refused, and the living one dropped with it.
  if (beginning_.contains(start.id) || live_.contains(start.id)) return false;
  if (!known_.insert(start.id).second) return false;
  ++queued_;
  std::string function = start.function;
  lines_[std::move(function)].starts.push_back({.start = std::move(start), .arrived = now, .bytes = bytes});
  return true;
}

template <class May>
StartMachine::Lines::iterator StartMachine::in_turn(May may) {
  const auto after_last = lines_.upper_bound(last_served_);
  const auto found = std::find_if(after_last, lines_.end(), may);
  if (found != lines_.end()) return found;
  const auto wrapped = std::find_if(lines_.begin(), after_last, may);
  return wrapped == after_last ? lines_.end() : wrapped;
}

void StartMachine::erase(Lines::iterator line, std::deque<Queued>::iterator start) {
  --queued_;
  known_.erase(start->start.id);
  line->second.starts.erase(start);
  if (!line->second.starts.empty()) return;
  release(line->second);
  evict_blocked_.erase(line->first);  // nobody asks for it any more
  lines_.erase(line);
}

void StartMachine::forget(const std::string& function, Version up_to) {
  const auto line = lines_.find(function);
  if (line == lines_.end()) return;
  std::deque<Queued>& starts = line->second.starts;
  std::erase_if(starts, [&](const Queued& each) {
    if (each.start.version > up_to) return false;
    known_.erase(each.start.id);
    --queued_;
    if (each.claim == Claim::granted) given_up_.push_back(each.start);
    return true;
  });
  if (!starts.empty()) return;
  evict_blocked_.erase(function);
  release(line->second);
  lines_.erase(line);
}

// ---- what comes next

bool StartMachine::sandboxes_fit(const Line& line, std::uint64_t more) const {
  return used_.sandboxes + (kept_.sandboxes - line.kept.sandboxes) + more <=
         limits_.max_sandboxes + evicting_.sandboxes;
}

bool StartMachine::memory_fits(const Line& line, std::uint64_t more) const {
  if (limits_.max_memory_bytes == kNoMemoryBudget) return true;
  const std::uint64_t used = used_.bytes - evicting_.bytes;
  const std::uint64_t others = kept_.bytes - line.kept.bytes;
  // What is none of these, if there is anything.
  const std::uint64_t left = limits_.max_memory_bytes - std::min(limits_.max_memory_bytes, used);
  return more <= left - std::min(left, others);
}

bool StartMachine::fits_now(const Line& line, const Queued& start) const {
  return used_.sandboxes < limits_.max_sandboxes && start.bytes <= limits_.max_memory_bytes - used_.bytes &&
         sandboxes_fit(line, 1) && memory_fits(line, start.bytes);
}

// The first of its starts that neither the room it has nor evictions under way are for.
StartMachine::Wanted StartMachine::wants_room(const Line& line) const {
  Room together;
  for (const Queued& each : line.starts) {
    if (each.claim == Claim::asked) return {};  // one after the other
    if (together.sandboxes == limits_.max_concurrent_starts) return {};
    together.add({.sandboxes = 1, .bytes = each.bytes});
    const bool fits = sandboxes_fit(line, together.sandboxes);
    if (!fits || !memory_fits(line, together.bytes)) return {.start = &each, .of_memory = fits};
  }
  return {};
}

StartMachine::Next StartMachine::next(TimePoint now) {
  give_up_waiting(now);
  if (queued_ == 0 || beginning_.size() >= limits_.max_concurrent_starts) return {};
  const auto ready = in_turn([&](const auto& entry) {
    const Queued& first = entry.second.starts.front();
    return first.claim != Claim::asked && fits_now(entry.second, first);
  });
  if (ready != lines_.end()) {
    Line& line = ready->second;
    const Queued& first = line.starts.front();
    Next next{.kind = Next::Kind::begin,
              .start = first.start,
              .arrived = first.arrived,
              .bytes = first.bytes,
              .claimed = first.claim == Claim::granted};
    last_served_ = ready->first;
    const Room taken{.sandboxes = 1, .bytes = first.bytes};
    beginning_.emplace(first.start.id, first.bytes);
    used_.add(taken);
    spend(line, taken);
    // The time of the next one begins now.
    const bool waits =
        !line.kept.empty() || (line.starts.size() > 1 && line.starts[1].claim == Claim::granted);
    line.since = waits ? now : TimePoint::max();
    erase(ready, line.starts.begin());
    return next;
  }
  if (evicting_.sandboxes >= limits_.max_concurrent_starts) return {};
  const auto waits = in_turn([&](const auto& entry) {
    return !evict_blocked_.contains(entry.first) && wants_room(entry.second).start != nullptr;
  });
  if (waits == lines_.end()) return {};
  const Wanted wanted = wants_room(waits->second);
  return {.kind = Next::Kind::evict,
          .start = wanted.start->start,
          .arrived = wanted.start->arrived,
          .bytes = wanted.start->bytes,
          .claimed = wanted.start->claim == Claim::granted,
          .of_memory = wanted.of_memory};
}

// ---- claims for room

namespace {

template <class Starts>
auto find_start(Starts& starts, const StartId& id) {
  return std::find_if(starts.begin(), starts.end(), [&](const auto& each) { return each.start.id == id; });
}

}  // namespace

void StartMachine::claiming(const StartRequest& start) {
  Line& line = lines_.at(start.function);
  find_start(line.starts, start.id)->claim = Claim::asked;
}

bool StartMachine::claimed(const StartRequest& start, TimePoint now) {
  const auto line = lines_.find(start.function);
  if (line == lines_.end()) return false;
  std::deque<Queued>& starts = line->second.starts;
  const auto found = find_start(starts, start.id);
  if (found == starts.end()) return false;
  found->claim = Claim::granted;
  // Those that are claimed come first: what is kept for them is theirs.
  std::rotate(
      std::find_if(starts.begin(), found, [](const Queued& each) { return each.claim != Claim::granted; }),
      found, found + 1);
  line->second.since = std::min(line->second.since, now);
  return true;
}

void StartMachine::not_claimed(const StartRequest& start) {
  const auto line = lines_.find(start.function);
  if (line == lines_.end()) return;
  const auto found = find_start(line->second.starts, start.id);
  if (found != line->second.starts.end()) erase(line, found);
}

std::vector<StartRequest> StartMachine::given_up() { return std::exchange(given_up_, {}); }

StartMachine::TimePoint StartMachine::next_event() const {
  TimePoint first = TimePoint::max();
  for (const auto& [function, line] : lines_) first = std::min(first, line.since);
  return first == TimePoint::max() ? first : after(first, limits_.room_wait);
}

void StartMachine::give_up_waiting(TimePoint now) {
  for (auto line = lines_.begin(); line != lines_.end();) {
    const auto current = line++;
    if (current->second.since == TimePoint::max() || after(current->second.since, limits_.room_wait) > now)
      continue;
    release(current->second);
    last_served_ = current->first;
    std::deque<Queued>& starts = current->second.starts;
    while (!starts.empty() && starts.front().claim == Claim::granted) {
      known_.erase(starts.front().start.id);
      --queued_;
      given_up_.push_back(std::move(starts.front().start));
      starts.pop_front();
    }
    if (!starts.empty()) continue;
    evict_blocked_.erase(current->first);  // nobody asks for it any more
    lines_.erase(current);
  }
}

// ---- room

void StartMachine::keep(Line& line, const Room& room, TimePoint now) {
  line.kept.add(room);
  kept_.add(room);
  line.since = std::min(line.since, now);
}

void StartMachine::spend(Line& line, const Room& room) {
  kept_.take(line.kept);
  line.kept.take(room);
  kept_.add(line.kept);
}

void StartMachine::release(Line& line) {
  kept_.take(line.kept);
  line.kept = {};
  line.since = TimePoint::max();
}

void StartMachine::may_evict(const std::string& function) {
  std::erase_if(evict_blocked_, [&](const std::string& blocked) { return blocked != function; });
}

StartMachine::Room StartMachine::room_of(const StartId& counted) const {
  Room room{.sandboxes = 1, .bytes = 0};
  for (const auto* each : {&live_, &beginning_}) {
    if (const auto found = each->find(counted); found != each->end()) room.bytes = found->second;
  }
  return room;
}

void StartMachine::evicting(const std::string& function, const StartId& victim, TimePoint now) {
  const Room room = room_of(victim);
  evicting_.add(room);
  if (const auto line = lines_.find(function); line != lines_.end()) keep(line->second, room, now);
}

void StartMachine::eviction_failed(const std::string& function, const StartId& victim) {
  assert(evicting_.sandboxes > 0);
  const Room room = room_of(victim);
  evicting_.take(room);
  if (const auto line = lines_.find(function); line != lines_.end()) spend(line->second, room);
}

// In turn, to those that would fit if this had not been taken by others.
void StartMachine::keep_for_the_large(std::uint64_t bytes, TimePoint now) {
  std::size_t asked = 0;
  for (auto line = lines_.upper_bound(last_served_); bytes > 0 && asked < lines_.size(); ++asked, ++line) {
    if (line == lines_.end()) line = lines_.begin();
    const Queued& first = line->second.starts.front();
    if (first.bytes <= limits_.max_memory_bytes - used_.bytes) continue;
    const std::uint64_t lacks = first.bytes - std::min(first.bytes, line->second.kept.bytes);
    const std::uint64_t taken = std::min(bytes, lacks);
    if (taken > 0) keep(line->second, {.sandboxes = 0, .bytes = taken}, now);
    bytes -= taken;
  }
}

// ---- what became of it

std::uint64_t StartMachine::uncount(const StartId& start) {
  const Room room = room_of(start);
  if (live_.erase(start) + beginning_.erase(start) == 0) return 0;
  used_.take(room);
  return room.bytes;
}

void StartMachine::dropped(const StartId& start) {
  if (beginning_.contains(start)) uncount(start);
}

void StartMachine::ready(const StartId& start) {
  const auto found = beginning_.find(start);
  if (found == beginning_.end()) return;
  live_.emplace(start, found->second);
  beginning_.erase(found);
}

void StartMachine::reaped(const StartId& start, bool was_ready, bool evicted, TimePoint now) {
  assert(!was_ready || live_.contains(start));
  const std::uint64_t bytes = uncount(start);
  if (evicted) {
    assert(evicting_.sandboxes > 0);
    evicting_.take({.sandboxes = 1, .bytes = bytes});
  } else {
    keep_for_the_large(bytes, now);
  }
  evict_blocked_.clear();
}

}  // namespace faaskit
