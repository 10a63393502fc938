#include "faaskit/core/function_queue.h"

#include <algorithm>
#include <cassert>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "core/function_queue_tables.h"

namespace faaskit {

void FunctionQueue::Effects::clear() {
  grants.clear();
  failures.clear();
  starts.clear();
  starts_for = 0;
  notices.clear();
}

FunctionQueue::FunctionQueue(std::string name, std::uint64_t nonce, std::uint32_t shards)
    : tables_(std::make_unique<Tables>()), idle_others_(shards - 1), name_(std::move(name)), nonce_(nonce) {
  assert(nonce != 0 && shards > 0);
}

FunctionQueue::~FunctionQueue() {
  for (auto& [id, record] : tables_->records) delete record;
  for (Record* record : tables_->zombies) delete record;
}

// ---- idle lists: one per shard

// A shard that is out of range is somebody's mistake, not ours; but a division costs as much as a lock.
FunctionQueue::IdleList& FunctionQueue::idle_list(ShardIndex shard) {
  if (shard > idle_others_.size()) shard %= static_cast<ShardIndex>(idle_others_.size() + 1);
  return shard == 0 ? idle_first_ : idle_others_[shard - 1];
}

void FunctionQueue::push_idle(Record& record) {
  IdleList& list = idle_list(record.sandbox.home_shard);
  if (list.head == nullptr) {
    record.next_idle = nullptr;
    list.head = list.tail = &record;
  } else if (fifo_) {
    record.next_idle = nullptr;
    list.tail->next_idle = &record;
    list.tail = &record;
  } else {
    record.next_idle = list.head;
    list.head = &record;
  }
}

// At once for the one that is taken next; a walk for one that is withdrawn.
void FunctionQueue::unlink_idle(Record& record) {
  IdleList& list = idle_list(record.sandbox.home_shard);
  if (list.head == &record) {
    list.head = record.next_idle;
    return;
  }
  Record* before = list.head;
  while (before->next_idle != &record) before = before->next_idle;
  before->next_idle = record.next_idle;
  if (list.tail == &record) list.tail = before;
}

FunctionQueue::Record* FunctionQueue::take_idle(ShardIndex shard) {
  if (idle_ == 0 || life_ != Life::live) return nullptr;
  // Around the ring, so that everybody's second choice is another.
  for (std::size_t i = 0; i <= idle_others_.size(); ++i) {
    const IdleList& list = idle_list(static_cast<ShardIndex>(shard + i));
    if (list.head != nullptr) return list.head;
  }
  return nullptr;
}

// The one place where counts follow states.
void FunctionQueue::set_state(Record& record, SandboxState state) {
  switch (record.state) {
    case SandboxState::idle:
      unlink_idle(record);
      --idle_;
      break;
    case SandboxState::leased: --leased_; break;
    case SandboxState::disputed: --disputed_; break;
    case SandboxState::retiring: --retiring_; break;
    case SandboxState::starting:
    case SandboxState::gone: break;
  }
  record.state = state;
  switch (state) {
    case SandboxState::idle:
      push_idle(record);
      ++idle_;
      break;
    case SandboxState::leased: ++leased_; break;
    case SandboxState::disputed: ++disputed_; break;
    case SandboxState::retiring: ++retiring_; break;
    case SandboxState::starting:
    case SandboxState::gone: break;
  }
}

void FunctionQueue::lease(Record& record, const RequestId& request, std::uint32_t attempt, StartKind kind,
                          Ticket ticket, bool indexed) {
  set_state(record, SandboxState::leased);
  // Taken in the same step as the choice: a token taken later could be smaller than one already handed
  // out, and the host would refuse the rightful holder.
  ++record.token;
  record.lease = LeaseId{.request = request, .attempt = attempt};
  record.start_kind = kind;
  record.ticket = ticket;
  record.suspect = false;
  record.indexed = indexed;
  if (indexed) tables_->leases[request] = &record;
  switch (kind) {
    case StartKind::warm: ++warm_; break;
    case StartKind::cold: ++counters_.cold; break;
    case StartKind::stolen: ++counters_.stolen; break;
    case StartKind::queued: ++counters_.queued; break;
  }
  if (record.cross_shard) ++counters_.cross_shard;
}

void FunctionQueue::end_lease(Record& record) {
  if (!record.indexed) return;
  record.indexed = false;
  auto it = tables_->leases.find(record.lease.request);
  if (it != tables_->leases.end() && it->second == &record) tables_->leases.erase(it);
}

bool FunctionQueue::draining(HostId host) const {
  return std::find(draining_.begin(), draining_.end(), host) != draining_.end();
}

// What is announced before the function is defined is kept until define() says what it is worth.
bool FunctionQueue::grantable(const Record& record) const {
  return (life_ == Life::live ? record.sandbox.version == current_ : life_ == Life::undefined) &&
         !(draining_any_ && draining(record.sandbox.id.host));
}

void FunctionQueue::retire(Record& record, Effects& effects) {
  if (record.state == SandboxState::retiring) return;
  set_state(record, SandboxState::retiring);
  effects.notices.push_back({.kind = HostNotice::Kind::retire,
                             .function = name_,
                             .sandbox = record.sandbox.id,
                             .token = record.token,
                             .lease = {}});
}

void FunctionQueue::drop_line(Waiter& waiter) {
  waiting_ -= static_cast<std::uint32_t>(tables_->line.erase(&waiter));
  tables_->waiters.erase(waiter.request);
}

void FunctionQueue::answer_all(const absl::Status& why, Effects& effects) {
  while (!tables_->line.empty()) {
    Waiter* waiter = *tables_->line.begin();
    drop_line(*waiter);
    effects.failures.push_back({waiter, why});
  }
}

// A sandbox became available: it goes to the head of the line, or becomes idle.
void FunctionQueue::place(Record& record, bool fresh, TimePoint now, Effects& effects) {
  if (!grantable(record)) {
    retire(record, effects);
    evaluate(now, effects);
    return;
  }
  if (tables_->line.empty()) {
    set_state(record, SandboxState::idle);
    if (!fresh) return;
    if (serving() > config_.provisioned) note_ready_surplus(now);
    // It no longer takes a place in max_starts, and ended the backoff: more may be provisioned.
    evaluate(now, effects);
    return;
  }
  Waiter* waiter = *tables_->line.begin();
  drop_line(*waiter);
  StartKind kind = StartKind::cold;
  if (!fresh) {
    kind = waiter->start_requested ? StartKind::stolen : StartKind::queued;
    if (kind == StartKind::stolen) steals_.push_back(now);
  }
  record.cross_shard = record.sandbox.home_shard != waiter->shard;
  lease(record, waiter->request, waiter->attempt, kind, waiter->ticket, true);
  effects.grants.push_back({waiter, &record});
  // A fresh one may have served a waiter other than the one it was requested for, who then needs another.
  evaluate(now, effects);
}

absl::Status FunctionQueue::define(const FunctionConfig& config, TimePoint now, Effects& effects) {
  if (absl::Status valid = validate(name_, config); !valid.ok()) return valid;
  if (config.version <= ended_) {
    return absl::AbortedError(
        absl::StrFormat("define %s version %d: version %d was removed; only a larger one "
                        "makes it live again",
                        name_, config.version, ended_));
  }
  const bool defined = life_ != Life::undefined;
  if (defined && config.version < config_.version) {
    return absl::AbortedError(absl::StrFormat("define %s version %d: version %d is already current", name_,
                                              config.version, config_.version));
  }
  const bool redeploy = !defined || config.version > config_.version;
  const bool fewer = defined && config.caps.max_sandboxes < config_.caps.max_sandboxes;
  config_ = config;
  current_ = config.version;
  const bool was_fifo = std::exchange(fifo_, config.order == IdleOrder::fifo);
  life_ = Life::live;
  if (redeploy) {
    forgive_failures();
    deaths_in_a_row_ = 0;
    provision_after_ = TimePoint::min();
    // Starts that no host has claimed are forgotten: a claim for one now fails. Claimed ones are
    // retired when they are offered.
    absl::erase_if(tables_->starts, [&](const auto& entry) {
      return entry.second.claimed_by.host == 0 && entry.second.version != config_.version;
    });
    for (Record* record :
         tables_->pick([&](const Record& r) { return r.state == SandboxState::idle && !grantable(r); })) {
      retire(*record, effects);
    }
    for (Waiter* waiter : tables_->line) waiter->start_requested = false;
  }
  if (fewer) retire_excess(was_fifo, effects);
  evaluate(now, effects);
  return absl::OkStatus();
}

absl::Status FunctionQueue::remove(std::optional<Version> up_to, Effects& effects) {
  if (life_ == Life::undefined) return nobody_home();
  ended_ = std::max(ended_, up_to.value_or(config_.version));
  if (life_ == Life::removed || config_.version > ended_) return absl::OkStatus();
  life_ = Life::removed;
  forgive_failures();
  deaths_in_a_row_ = 0;
  provision_after_ = TimePoint::min();
  carry_again_ = TimePoint::max();
  steals_.clear();
  answer_all(nobody_home(), effects);
  // What a host has claimed is counted until the host says how that ended.
  absl::erase_if(tables_->starts, [](const auto& entry) { return entry.second.claimed_by.host == 0; });
  for (Record* record : tables_->pick([](const Record& r) { return r.state == SandboxState::idle; })) {
    retire(*record, effects);
  }
  return absl::OkStatus();
}

absl::Status FunctionQueue::nobody_home() const {
  return absl::NotFoundError(life_ == Life::removed ? absl::StrCat("function ", name_, " was removed")
                                                    : absl::StrCat("function ", name_, " is not defined"));
}

bool FunctionQueue::vacant() const {
  return life_ == Life::removed && tables_->records.empty() && tables_->starts.empty();
}

// Those idle longest go first, by turns from each shard: they are at the end that is not taken next.
void FunctionQueue::retire_excess(bool fifo, Effects& effects) {
  const auto excess = [&] {
    return std::uint64_t{idle_} + leased_ + disputed_ + tables_->starts.size() > config_.caps.max_sandboxes;
  };
  for (ShardIndex shard = 0; idle_ > 0 && excess(); ++shard) {
    IdleList& list = idle_list(shard % static_cast<ShardIndex>(idle_others_.size() + 1));
    if (list.head != nullptr) retire(fifo ? *list.head : *list.tail, effects);
  }
}

FunctionQueue::Record* FunctionQueue::try_acquire(const RequestId& request, std::uint32_t attempt,
                                                  ShardIndex shard) {
  if (request == RequestId{}) return nullptr;
  Record* record = take_idle(shard);
  if (record == nullptr) return nullptr;
  record->cross_shard = record->sandbox.home_shard != shard;
  lease(*record, request, attempt, StartKind::warm, 0, false);
  return record;
}

FunctionQueue::Record* FunctionQueue::acquire_idle(const RequestId& request, std::uint32_t attempt,
                                                   Ticket ticket, ShardIndex shard) {
  if (waiting_ > 0 || request == RequestId{}) return nullptr;
  Record* record = take_idle(shard);
  if (record == nullptr || !tables_->leases.try_emplace(request, record).second) return nullptr;
  record->cross_shard = record->sandbox.home_shard != shard;
  lease(*record, request, attempt, StartKind::warm, ticket, false);
  record->indexed = true;
  return record;
}

FunctionQueue::AcquireResult FunctionQueue::acquire(Waiter& waiter, TimePoint now, Effects& effects) {
  AcquireResult result;
  // Calls that do not name themselves would be taken for one call that asks again: one sandbox for all.
  if (waiter.request == RequestId{}) {
    result.status = absl::InvalidArgumentError(
        absl::StrCat("acquire ", name_, ": the request id is 0; every call needs one of its own"));
    return result;
  }
  if (Record* record = acquire_idle(waiter.request, waiter.attempt, waiter.ticket, waiter.shard)) {
    result.outcome = AcquireOutcome::leased;
    result.record = record;
    return result;
  }
  if (auto held = tables_->leases.find(waiter.request); held != tables_->leases.end()) {
    Record& record = *held->second;
    if (record.lease.attempt > waiter.attempt) {
      result.outcome = AcquireOutcome::stale;
      return result;
    }
    if (record.lease.attempt == waiter.attempt) {
      result.outcome = AcquireOutcome::leased;  // asked twice: the same answer
      result.record = &record;
      return result;
    }
    waiter.ticket = std::max(waiter.ticket, record.ticket);
    const bool meant = waiter.previous_token == 0 || (waiter.previous_token == record.token &&
                                                      waiter.previous_sandbox == record.sandbox.id);
    settle(record, record.token, record.lease, meant ? waiter.previous : Outcome::reusable, now, effects);
  }
  if (life_ != Life::live) {
    result.status = nobody_home();
    return result;
  }
  if (auto found = tables_->waiters.find(waiter.request); found != tables_->waiters.end()) {
    Waiter* older = found->second;
    if (older->attempt > waiter.attempt) {
      result.outcome = AcquireOutcome::stale;
      return result;
    }
    waiter.ticket = older->ticket;
    waiter.start_requested = older->start_requested;
    drop_line(*older);
    result.superseded = older;
  }

  if (Record* record = take_idle(waiter.shard); record != nullptr) {
    record->cross_shard = record->sandbox.home_shard != waiter.shard;
    lease(*record, waiter.request, waiter.attempt, StartKind::warm, waiter.ticket, true);
    result.outcome = AcquireOutcome::leased;
    result.record = record;
    return result;
  }
  // Also with a kept ticket: there is nothing to wait for.
  if (breaker_ == Breaker::open && now < backoff_until_ && uncovered()) {
    ++counters_.refused;
    result.status = crash_loop(now);
    return result;
  }
  // A kept ticket has been in line before; it is not refused for those who came after it.
  if (waiter.ticket == 0 && tables_->line.size() >= config_.caps.max_waiters) {
    ++counters_.refused;
    result.outcome = AcquireOutcome::refused;
    result.status =
        absl::ResourceExhaustedError(absl::StrFormat("acquire %s: %d calls are waiting; max_waiters is %d",
                                                     name_, tables_->line.size(), config_.caps.max_waiters));
    return result;
  }
  if (waiter.ticket == 0) {
    waiter.ticket = ++last_ticket_;
  } else {
    last_ticket_ = std::max(last_ticket_, waiter.ticket);
  }
  tables_->line.insert(&waiter);
  ++waiting_;
  tables_->waiters.emplace(waiter.request, &waiter);
  // A surplus start that is still in flight was, from now on, requested for this waiter.
  if (covering_starts() >= tables_->line.size()) waiter.start_requested = true;
  // Starts from before were left without a waiter, and nobody sends those again.
  if (tables_->line.size() == 1) send_again(effects);
  evaluate(now, effects);
  result.outcome = AcquireOutcome::queued;
  return result;
}

FunctionQueue::Waiter* FunctionQueue::cancel(const RequestId& request, std::uint32_t attempt, TimePoint now,
                                             Effects& effects) {
  if (auto found = tables_->waiters.find(request); found != tables_->waiters.end()) {
    Waiter* waiter = found->second;
    if (waiter->attempt > attempt) return nullptr;
    drop_line(*waiter);
    // What was asked for it may be wanted by `provisioned`, which has nobody who asks again.
    evaluate(now, effects);
    return waiter;
  }
  if (auto held = tables_->leases.find(request); held != tables_->leases.end()) {
    Record& record = *held->second;
    if (record.lease.attempt <= attempt) {
      settle(record, record.token, record.lease, Outcome::reusable, now, effects);
    }
  }
  return nullptr;
}

absl::Status FunctionQueue::offer(const Offer& offer, TimePoint now, Effects& effects) {
  auto known = tables_->records.find(offer.sandbox.id);
  if (known == tables_->records.end()) {
    if (!offer.fresh()) {
      return absl::AbortedError(
          absl::StrCat("offer ", to_string(offer.sandbox.id), ": not known here; only announce inserts it"));
    }
    auto start =
        offer.start.nonce == nonce_ ? tables_->starts.find(offer.start.number) : tables_->starts.end();
    if (start == tables_->starts.end() || start->second.claimed_by != offer.sandbox.id) {
      return absl::AbortedError(absl::StrCat("offer ", to_string(offer.sandbox.id), ": ",
                                             to_string(offer.start), " is not claimed by it"));
    }
    // Its start stays in flight, and counted, until it is gone.
    if (life_ == Life::removed) {
      return absl::AbortedError(
          absl::StrCat("offer ", to_string(offer.sandbox.id), ": function ", name_, " was removed"));
    }
    // Trust the start's version, not the offer's.
    auto record = std::make_unique<Record>();
    record->deaths_before = deaths_unused_;
    record->sandbox = offer.sandbox;
    record->sandbox.version = start->second.version;
    record->generation = offer.generation;
    record->token = offer.highest_token;
    record->state = SandboxState::starting;
    Record& placed = *record;
    tables_->records.emplace(offer.sandbox.id, record.release());
    tables_->starts.erase(start);
    // One of an older version says nothing of the current one.
    if (placed.sandbox.version == current_) forgive_failures();
    place(placed, true, now, effects);
    return absl::OkStatus();
  }

  Record& record = *known->second;
  if (record.state == SandboxState::retiring) {
    return absl::AbortedError(absl::StrCat("offer ", to_string(offer.sandbox.id), ": it is retiring"));
  }
  if (offer.generation <= record.generation) return absl::OkStatus();  // repeated late
  if (record.state == SandboxState::leased) {
    if (record.token != offer.token || record.lease != offer.lease) return absl::OkStatus();
    record.generation = offer.generation;
    settle(record, offer.token, offer.lease, Outcome::reusable, now, effects);
  } else if (record.state == SandboxState::disputed && offer.highest_token >= record.token) {
    record.generation = offer.generation;
    record.token = offer.highest_token;
    set_state(record, SandboxState::starting);
    place(record, false, now, effects);
  } else if (record.state == SandboxState::idle) {
    record.generation = offer.generation;  // the invoker's settle came first
  }
  return absl::OkStatus();
}

bool FunctionQueue::settle(Record& record, Token token, const LeaseId& lease, Outcome outcome, TimePoint now,
                           Effects& effects) {
  if (record.state != SandboxState::leased || record.token != token || record.lease != lease) return false;
  end_lease(record);
  switch (outcome) {
    case Outcome::reusable:
      if (!release_idle(record, token, lease)) place(record, false, now, effects);
      break;
    case Outcome::refused:
      set_state(record, SandboxState::disputed);
      evaluate(now, effects);
      break;
    case Outcome::retired:
      retire(record, effects);
      evaluate(now, effects);
      break;
  }
  return true;
}

bool FunctionQueue::release_idle(Record& record, Token token, const LeaseId& lease) {
  if (waiting_ > 0 || record.state != SandboxState::leased || record.token != token ||
      record.lease != lease || !grantable(record)) {
    return false;
  }
  end_lease(record);
  set_state(record, SandboxState::idle);
  return true;
}

bool FunctionQueue::settle(const SandboxId& id, Token token, const LeaseId& lease, Outcome outcome,
                           TimePoint now, Effects& effects) {
  auto known = tables_->records.find(id);
  return known != tables_->records.end() && settle(*known->second, token, lease, outcome, now, effects);
}

absl::Status FunctionQueue::withdraw(const SandboxId& id, WithdrawReason reason, TimePoint now,
                                     Effects& effects) {
  auto known = tables_->records.find(id);
  if (known == tables_->records.end())
    return absl::NotFoundError(absl::StrCat("withdraw ", to_string(id), ": not known"));
  Record& record = *known->second;
  if (record.state == SandboxState::retiring) return absl::OkStatus();
  if (record.state != SandboxState::idle) {
    return absl::FailedPreconditionError(
        absl::StrFormat("withdraw %s: it is %s, not idle", to_string(id), to_string(record.state)));
  }
  if (reason != WithdrawReason::host && life_ == Life::live && config_.provisioned > 0) {
    if (const std::uint64_t kept = serving(); kept <= config_.provisioned) {
      return absl::FailedPreconditionError(
          absl::StrFormat("withdraw %s: %d of %s are live; provisioned is %d", to_string(id), kept, name_,
                          config_.provisioned));
    }
  }
  set_state(record, SandboxState::retiring);
  evaluate(now, effects);
  return absl::OkStatus();
}

void FunctionQueue::erase(Record& record) {
  end_lease(record);
  set_state(record, SandboxState::gone);
  tables_->records.erase(record.sandbox.id);
  if (record.pins == 0) {
    delete &record;
  } else {
    tables_->zombies.push_back(&record);
  }
}

void FunctionQueue::unpin(Record& record) {
  assert(record.pins > 0);
  if (--record.pins > 0 || record.state != SandboxState::gone) return;
  auto& zombies = tables_->zombies;
  zombies.erase(std::find(zombies.begin(), zombies.end(), &record));
  delete &record;
}

void FunctionQueue::bury(const SandboxId& id) {
  if (auto known = tables_->records.find(id); known != tables_->records.end()) erase(*known->second);
  constexpr std::size_t kRemembered = 64;
  if (std::find(gone_.begin(), gone_.end(), id) == gone_.end()) gone_.push_back(id);
  if (gone_.size() > kRemembered) gone_.erase(gone_.begin());
}

void FunctionQueue::gone(const SandboxId& id, TimePoint now, Effects& effects) {
  note_death(id, now);
  bury(id);
  // It may have died between its claim and its offer.
  absl::erase_if(tables_->starts, [&](const auto& entry) { return entry.second.claimed_by == id; });
  evaluate(now, effects);
}

QueueStats FunctionQueue::stats() const {
  QueueStats stats = counters_;
  stats.breaker = breaker_;
  stats.warm = warm_;
  stats.waiters = tables_->line.size();
  stats.idle = idle_;
  stats.leased = leased_;
  stats.disputed = disputed_;
  stats.retiring = retiring_;
  stats.starts_in_flight = tables_->starts.size();
  return stats;
}

std::size_t FunctionQueue::waiter_count() const { return waiting_; }

bool FunctionQueue::repairable() const { return waiting_ > 0 || !tables_->leases.empty(); }

const FunctionQueue::Record* FunctionQueue::find(const SandboxId& id) const {
  auto known = tables_->records.find(id);
  return known == tables_->records.end() ? nullptr : known->second;
}

const FunctionQueue::Waiter* FunctionQueue::find_waiter(const RequestId& request) const {
  auto found = tables_->waiters.find(request);
  return found == tables_->waiters.end() ? nullptr : found->second;
}

std::vector<const FunctionQueue::Record*> FunctionQueue::records() const {
  std::vector<const Record*> all;
  for (const auto& [id, record] : tables_->records) all.push_back(record);
  return all;
}

std::vector<const FunctionQueue::Waiter*> FunctionQueue::waiters() const {
  return {tables_->line.begin(), tables_->line.end()};
}

}  // namespace faaskit
