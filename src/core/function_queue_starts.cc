// The starts of a FunctionQueue: what is asked for, by whom it is taken on, and what comes of it.
#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "core/function_queue_tables.h"

namespace faaskit {

// Starts of older versions cover nobody: what they make will be retired.
std::uint64_t FunctionQueue::covering_starts() const {
  return static_cast<std::uint64_t>(
      std::count_if(tables_->starts.begin(), tables_->starts.end(),
                    [&](const auto& entry) { return entry.second.version == config_.version; }));
}

// A busy sandbox that may serve on when it returns.
bool FunctionQueue::busy_cover() const {
  return leased_ > 0 && std::any_of(tables_->records.begin(), tables_->records.end(), [&](const auto& entry) {
           return entry.second->state == SandboxState::leased && grantable(*entry.second);
         });
}

void FunctionQueue::note_ready_surplus(TimePoint now) {
  ++counters_.surplus_starts;
  if (steals_.empty()) return;
  ++counters_.steals_measured;
  counters_.steal_saved_us += static_cast<std::uint64_t>(
      std::chrono::duration_cast<std::chrono::microseconds>(now - steals_.front()).count());
  steals_.erase(steals_.begin());
}

// Each steal is matched with at most one start that is still to come.
void FunctionQueue::trim_steals() {
  const std::size_t surplus = tables_->starts.size();
  if (steals_.size() > surplus)
    steals_.erase(steals_.begin(), steals_.end() - static_cast<std::ptrdiff_t>(surplus));
}

bool FunctionQueue::at_cap() const {
  return tables_->starts.size() >= config_.caps.max_starts ||
         live() + tables_->starts.size() >= config_.caps.max_sandboxes ||
         (breaker_ == Breaker::half_open && covering_starts() > 0);
}

void FunctionQueue::evaluate(TimePoint now, Effects& effects) {
  trim_steals();
  if (life_ != Life::live) return;
  if (now >= provision_after_) provision_after_ = TimePoint::min();
  if (now >= backoff_until_) {
    backoff_until_ = TimePoint::min();
    if (breaker_ == Breaker::open) breaker_ = Breaker::half_open;
    // Who waits comes first.
    cover_waiters(effects);
    if (provision_after_ == TimePoint::min()) cover_provisioned(effects);
  } else if (breaker_ == Breaker::open && waiting_ > 0 && uncovered()) {
    answer_all(crash_loop(now), effects);
  }
  // Those that keep the number are carried again until a host has them: nobody waits who would ask for them.
  constexpr std::chrono::seconds kCarryAgain{1};
  if (!carried_for_nobody()) {
    carry_again_ = TimePoint::max();
  } else {
    if (now >= carry_again_) send_again(effects);
    if (now >= carry_again_ || carry_again_ == TimePoint::max()) carry_again_ = now + kCarryAgain;
  }
}

void FunctionQueue::cover_waiters(Effects& effects) {
  if (tables_->line.empty() || at_cap()) return;
  auto next_unflagged = tables_->line.begin();
  for (std::size_t covering = covering_starts(); covering < tables_->line.size() && !at_cap(); ++covering) {
    // A busy sandbox of this version will return, and a start will come: either covers everybody.
    if (config_.policy == StartPolicy::wait_only && (covering > 0 || busy_cover())) return;
    while (next_unflagged != tables_->line.end() && (*next_unflagged)->start_requested) ++next_unflagged;
    if (effects.starts.empty()) {
      const auto whom = next_unflagged != tables_->line.end() ? next_unflagged : tables_->line.begin();
      effects.starts_for = (*whom)->request.invoker;
    }
    if (next_unflagged != tables_->line.end()) (*next_unflagged)->start_requested = true;
    admit(effects);
  }
}

void FunctionQueue::cover_provisioned(Effects& effects) {
  while (!at_cap() && below_provisioned()) {
    if (effects.starts.empty() && !tables_->line.empty()) {
      effects.starts_for = (*tables_->line.begin())->request.invoker;
    }
    admit(effects);
  }
}

void FunctionQueue::admit(Effects& effects) {
  const StartId id{.nonce = nonce_, .number = ++next_start_};
  tables_->starts.emplace(id.number, Start{.version = config_.version, .claimed_by = {}});
  ++counters_.starts_admitted;
  effects.starts.push_back({.id = id, .function = name_, .version = config_.version});
}

// A disputed one is its host's next word away from serving.
std::uint64_t FunctionQueue::serving() const {
  if (life_ != Life::live) return 0;
  if (leased_ + disputed_ == 0) return idle_;
  return idle_ + static_cast<std::uint64_t>(
                     std::count_if(tables_->records.begin(), tables_->records.end(), [&](const auto& entry) {
                       const SandboxState state = entry.second->state;
                       return (state == SandboxState::leased || state == SandboxState::disputed) &&
                              grantable(*entry.second);
                     }));
}

bool FunctionQueue::below_provisioned() const {
  return config_.provisioned > 0 && covering_starts() + serving() < config_.provisioned;
}

// Unclaimed starts that only `provisioned` wants.
bool FunctionQueue::carried_for_nobody() const {
  if (config_.provisioned == 0 || !tables_->line.empty()) return false;
  std::uint64_t unclaimed = 0;
  for (const auto& [number, start] : tables_->starts) {
    if (start.claimed_by.host == 0 && start.version == config_.version) ++unclaimed;
  }
  return unclaimed > 0 && covering_starts() - unclaimed + serving() < config_.provisioned;
}

// Whoever carried them, or held them unclaimed, may be gone: starts are carried at least once.
void FunctionQueue::send_again(Effects& effects) {
  if (tables_->line.empty() && !carried_for_nobody()) return;
  for (const auto& [number, start] : tables_->starts) {
    if (start.claimed_by.host != 0) continue;
    if (effects.starts.empty() && !tables_->line.empty()) {
      effects.starts_for = (*tables_->line.begin())->request.invoker;
    }
    effects.starts.push_back(
        {.id = {.nonce = nonce_, .number = number}, .function = name_, .version = start.version});
  }
}

FunctionQueue::TimePoint FunctionQueue::next_event() const {
  if (backoff_until_ == TimePoint::min() && provision_after_ == TimePoint::min()) return carry_again_;
  const bool missing = below_provisioned();
  TimePoint next = carry_again_;
  if (backoff_until_ != TimePoint::min() && (missing || !tables_->line.empty()))
    next = std::min(next, backoff_until_);
  if (provision_after_ != TimePoint::min() && missing) next = std::min(next, provision_after_);
  return next;
}

bool FunctionQueue::surplus_starts() const {
  const std::uint64_t covering = covering_starts();
  return covering > tables_->line.size() && covering + serving() > config_.provisioned;
}

absl::Status FunctionQueue::claim(const StartId& start, const SandboxId& sandbox, bool needs_room) {
  auto found = start.nonce == nonce_ ? tables_->starts.find(start.number) : tables_->starts.end();
  if (found == tables_->starts.end()) {
    return absl::NotFoundError(absl::StrCat("claim ", to_string(start), ": no such start of ", name_,
                                            " is wanted; it is done, dropped or of another record"));
  }
  Start& wanted = found->second;
  if (wanted.claimed_by == sandbox) return absl::OkStatus();
  if (wanted.claimed_by.host != 0) {
    return absl::AbortedError(
        absl::StrCat("claim ", to_string(start), ": claimed by ", to_string(wanted.claimed_by)));
  }
  if (draining(sandbox.host)) {
    return absl::AbortedError(
        absl::StrCat("claim ", to_string(start), ": the host of ", to_string(sandbox), " is draining"));
  }
  if ((needs_room || config_.surplus == SurplusStarts::cancel_queued) && surplus_starts()) {
    tables_->starts.erase(found);
    return absl::NotFoundError(absl::StrCat(
        "claim ", to_string(start), ": surplus, nobody waits for it",
        needs_room ? ", and its host is full: no idle sandbox of another function ends for it" : ""));
  }
  wanted.claimed_by = sandbox;
  return absl::OkStatus();
}

absl::Status FunctionQueue::start_failed(const StartId& start, const SandboxId& sandbox,
                                         const absl::Status& why, double jitter, TimePoint now,
                                         Effects& effects) {
  auto found = start.nonce == nonce_ ? tables_->starts.find(start.number) : tables_->starts.end();
  if (found == tables_->starts.end()) {
    // Reported before; or forgotten here, and then what came of it may be known by an announcement alone.
    bury(sandbox);
    evaluate(now, effects);
    return absl::OkStatus();
  }
  if (found->second.claimed_by != sandbox) {
    return absl::AbortedError(absl::StrCat("start_failed ", to_string(start), ": claimed by ",
                                           to_string(found->second.claimed_by), ", not by ",
                                           to_string(sandbox)));
  }
  const bool current = life_ == Life::live && found->second.version == config_.version;
  tables_->starts.erase(found);
  bury(sandbox);
  ++counters_.starts_failed;
  if (current) note_failure(why, jitter, now, effects);
  evaluate(now, effects);
  return absl::OkStatus();
}

void FunctionQueue::note_failure(const absl::Status& why, double jitter, TimePoint now, Effects& effects) {
  using std::chrono::nanoseconds;
  ++consecutive_failures_;
  last_start_error_ = why;
  // What its host is short of (descriptors, memory, disk) says nothing of the function.
  const bool crashed = !absl::IsResourceExhausted(why);
  if (crashed) ++crashes_;
  // From when it was closed: that it fails, too, is no news.
  if (breaker_ == Breaker::open) return;
  if (crashed && (breaker_ == Breaker::half_open || crashes_ >= config_.retry.breaker_failures)) {
    breaker_ = Breaker::open;
    ++counters_.breaker_opened;
    backoff_until_ =
        now + std::chrono::duration_cast<nanoseconds>(config_.retry.breaker_open * (1 + 0.2 * jitter));
    return;
  }
  const std::uint32_t doublings = std::min(consecutive_failures_ - 1, 20u);
  const auto full =
      std::min<nanoseconds>(config_.retry.backoff * (1u << doublings), config_.retry.max_backoff);
  backoff_until_ = now + std::chrono::duration_cast<nanoseconds>(full * (0.5 + 0.5 * jitter));
  // Cover is many-to-one: another start in flight or a busy sandbox covers everybody.
  if (consecutive_failures_ >= config_.retry.budget && waiting_ > 0 && uncovered()) {
    Waiter* oldest = *tables_->line.begin();
    drop_line(*oldest);
    effects.failures.push_back(
        {oldest, absl::UnavailableError(absl::StrFormat("%s: %d starts in a row failed; the last: %s", name_,
                                                        consecutive_failures_, why.ToString()))});
  }
}

// Its start succeeded, so that neither backoff nor breaker holds back a program that ends right after its
// hello, and `provisioned` would have it made again and again as fast as it dies.
void FunctionQueue::note_death(const SandboxId& id, TimePoint now) {
  auto known = tables_->records.find(id);
  if (known == tables_->records.end()) return;
  const Record& record = *known->second;
  if (record.sandbox.version != config_.version || record.state == SandboxState::retiring) return;
  if (record.lease != LeaseId{}) {
    deaths_in_a_row_ = 0;
    provision_after_ = TimePoint::min();
    return;
  }
  // Of many that die at once the first one counts: the others were made before its death.
  if (record.deaths_before != deaths_unused_) return;
  ++deaths_unused_;
  if (++deaths_in_a_row_ < 2) return;
  const std::uint32_t doublings = std::min(deaths_in_a_row_ - 2, 20u);
  provision_after_ = now + std::min<std::chrono::nanoseconds>(config_.retry.backoff * (1u << doublings),
                                                              config_.retry.max_backoff);
}

void FunctionQueue::forgive_failures() {
  consecutive_failures_ = 0;
  crashes_ = 0;
  breaker_ = Breaker::closed;
  last_start_error_ = absl::OkStatus();
  backoff_until_ = TimePoint::min();
}

// What is answered while the breaker is open.
absl::Status FunctionQueue::crash_loop(TimePoint now) const {
  const std::chrono::duration<double> left = backoff_until_ - now;
  return absl::UnavailableError(
      absl::StrFormat("%s: %d starts in a row failed, the next try comes in %.1f s; the last: %s", name_,
                      consecutive_failures_, left.count(), last_start_error_.ToString()));
}

bool FunctionQueue::claimed_start(const SandboxId& id) const {
  return std::any_of(tables_->starts.begin(), tables_->starts.end(),
                     [&](const auto& entry) { return entry.second.claimed_by == id; });
}

void FunctionQueue::gone(const StartId& id, const SandboxId& claimed_for, TimePoint now, Effects& effects) {
  auto found = id.nonce == nonce_ ? tables_->starts.find(id.number) : tables_->starts.end();
  if (found != tables_->starts.end()) {
    // The word of a host that was taken over may come when another has its start.
    const SandboxId& has_it = found->second.claimed_by;
    if (claimed_for.host == 0 || has_it.host == 0 || has_it == claimed_for) tables_->starts.erase(found);
  }
  evaluate(now, effects);
}

bool FunctionQueue::start_in_flight(const StartId& id) const {
  return id.nonce == nonce_ && tables_->starts.contains(id.number);
}

}  // namespace faaskit
