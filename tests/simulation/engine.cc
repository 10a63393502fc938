#include "simulation/engine.h"

#include <algorithm>
#include <tuple>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace faaskit::simulation {
namespace {

using Outcome_ = FunctionQueue::AcquireOutcome;

Granted copy(const FunctionQueue& queue, const FunctionQueue::Record& record) {
  return {.function = queue.name(),
          .sandbox = record.sandbox,
          .token = record.token,
          .lease = record.lease,
          .ticket = record.ticket,
          .start = record.start_kind};
}

bool before(const FunctionQueue::Waiter& a, const FunctionQueue::Waiter& b) {
  return std::tie(a.priority, a.ticket) < std::tie(b.priority, b.ticket);
}

}  // namespace

void Engine::add_function(const std::string& name, const FunctionConfig& config, std::uint32_t shards) {
  auto made = std::make_unique<Function>();
  made->shards = shards;
  Function& function = *made;
  functions_.emplace(name, std::move(made));
  begin(function, name, config);
}

void Engine::begin(Function& f, const std::string& name, const FunctionConfig& config) {
  f.nonce = world_.chance("nonce", name, ++f.epoch).next() | 1;
  f.queue = std::make_unique<FunctionQueue>(name, f.nonce, f.shards);
  if (absl::Status status = f.queue->define(config, world_.now(), f.effects); !status.ok()) {
    throw Violation(absl::StrCat("driver: ", status.ToString()));
  }
  finish(f, {.name = "define"});
}

void Engine::forget_everything(const std::map<std::string, FunctionConfig>& config,
                               const std::set<std::string>& removed) {
  world_.trace("the engine forgets everything");
  for (auto& [name, f] : functions_) {
    f->waiting.clear();
    f->known.clear();
    // Tokens are the hosts' word from now on; what was granted in between may be granted again, and refused.
    f->tokens.clear();
    f->starts.clear();
    f->claimed.clear();
    f->counted = 0;
    f->forgive();
    f->ended = 0;
    begin(*f, name, config.at(name));
    if (removed.contains(name)) {
      f->queue->remove({}, f->effects).IgnoreError();
      f->ended = config.at(name).version;
      finish(*f, {.name = "remove", .removes = true});
    }
  }
}

std::vector<std::string> Engine::names() const {
  std::vector<std::string> all;
  for (const auto& [name, function] : functions_) all.push_back(name);
  return all;
}

// Without these the long run of a simulation would grow without end.
void Engine::forget_the_gone(const std::function<bool(HostId)>& known_host) {
  std::erase_if(draining_, [&](HostId host) { return !known_host(host); });
  for (auto& [name, f] : functions_) {
    std::erase_if(f->tokens, [&](const auto& entry) {
      return f->queue->find(entry.first) == nullptr && !world_.processes().contains(entry.first);
    });
  }
}

bool Engine::knows_invoker(InvokerId invoker) const {
  for (const auto& [name, function] : functions_) {
    for (const Waiter* waiter : function->queue->waiters()) {
      if (waiter->request.invoker == invoker) return true;
    }
    for (const auto& [id, known] : function->known) {
      if (known.state == SandboxState::leased && known.lease.request.invoker == invoker) return true;
    }
  }
  return false;
}

bool Engine::knows_host(HostId host) const {
  return std::any_of(functions_.begin(), functions_.end(), [&](const auto& entry) {
    return std::any_of(entry.second->known.begin(), entry.second->known.end(),
                       [&](const auto& known) { return known.first.host == host; });
  });
}

// ---- the operations

absl::Status Engine::define(const std::string& name, const FunctionConfig& config) {
  Function& f = function(name);
  const bool redeploy = config.version > f.queue->config().version;
  const bool was_removed = f.queue->removed();
  absl::Status status = f.queue->define(config, world_.now(), f.effects);
  if (was_removed && status.ok() != (config.version > f.ended)) {
    throw Violation(absl::StrFormat("remove: version %d is defined after version %d was removed: %s",
                                    config.version, f.ended, status.ToString()));
  }
  if (redeploy && status.ok()) {
    f.forgive();
  }
  finish(f,
         {.name = absl::StrFormat("define v%d cap %d provisioned %d%s", config.version,
                                  config.caps.max_sandboxes, config.provisioned, status.ok() ? "" : ": no")});
  return status;
}

absl::Status Engine::remove(const std::string& name, Version up_to) {
  Function& f = function(name);
  absl::Status status = f.queue->remove(up_to, f.effects);
  if (status.ok()) f.ended = std::max(f.ended, up_to);
  if (f.queue->defined() && f.queue->config().version <= f.ended) {
    throw Violation(absl::StrFormat("remove: version %d is live after version %d was removed",
                                    f.queue->config().version, f.ended));
  }
  if (f.queue->removed()) {
    f.forgive();
  }
  finish(f, {.name = absl::StrFormat("remove up to v%d", up_to), .removes = true});
  return status;
}

std::optional<Granted> Engine::try_acquire(const std::string& name, const RequestId& request,
                                           std::uint32_t attempt, ShardIndex shard) {
  Function& f = function(name);
  FunctionQueue::Record* record = f.queue->try_acquire(request, attempt, shard);
  if (record == nullptr) return std::nullopt;
  Granted granted = copy(*f.queue, *record);
  finish(f, {.name = "try_acquire", .of = request, .direct = &granted});
  return granted;
}

AcquireAnswer Engine::acquire(const std::string& name, const Waiter& wanted) {
  Function& f = function(name);
  // What must become of a kept ticket (I5).
  Ticket kept = wanted.ticket;
  std::uint32_t known_attempt = 0;
  if (const Waiter* older = f.queue->find_waiter(wanted.request); older != nullptr) {
    kept = older->ticket;
    known_attempt = older->attempt;
  }

  auto waiter = std::make_unique<Waiter>(wanted);
  const bool full = f.queue->waiter_count() >= f.queue->config().caps.max_waiters;
  const FunctionQueue::AcquireResult result = f.queue->acquire(*waiter, world_.now(), f.effects);
  AcquireAnswer answer{.outcome = result.outcome, .granted = {}, .ticket = 0, .status = result.status};
  Step step{.name = absl::StrFormat("acquire %s", to_string(LeaseId{wanted.request, wanted.attempt})),
            .of = wanted.request};
  switch (result.outcome) {
    case Outcome_::leased: {
      answer.granted = copy(*f.queue, *result.record);
      auto known = f.known.find(result.record->sandbox.id);
      const bool repeated = known != f.known.end() && known->second.state == SandboxState::leased &&
                            known->second.token == result.record->token;
      if (!repeated) step.direct = &answer.granted;
      break;
    }
    case Outcome_::queued: {
      answer.ticket = waiter->ticket;
      if (kept == 0 && full) {
        throw Violation(absl::StrFormat("overload: %s joins a line of %d; max_waiters is %d",
                                        to_string(wanted.request), f.queue->waiter_count(),
                                        f.queue->config().caps.max_waiters));
      }
      if (kept != 0 && waiter->ticket != kept) {
        throw Violation(absl::StrFormat("I5: %s had ticket %d and waits with %d", to_string(wanted.request),
                                        kept, waiter->ticket));
      }
      const Waiter* key = waiter.get();
      f.waiting.emplace(key, std::move(waiter));
      break;
    }
    case Outcome_::refused:
      // While the breaker is open there is nothing to wait for, also for who has waited before.
      if (kept != 0 && f.queue->defined() && f.queue->stats().breaker != Breaker::open) {
        throw Violation(
            absl::StrFormat("I5: %s had ticket %d and was refused", to_string(wanted.request), kept));
      }
      break;
    case Outcome_::stale:
      if (known_attempt < wanted.attempt && known_attempt != 0) {
        throw Violation(
            absl::StrCat("I3: ", to_string(wanted.request), ": the newest attempt is called stale"));
      }
      break;
  }
  if (result.superseded != nullptr) forget(f, result.superseded);
  finish(f, step);
  return answer;
}

void Engine::cancel(const std::string& name, const RequestId& request, std::uint32_t attempt) {
  Function& f = function(name);
  if (const Waiter* waiter = f.queue->cancel(request, attempt, world_.now(), f.effects)) forget(f, waiter);
  // Given up is given up: neither in line nor leased any more.
  const Waiter* waits = f.queue->find_waiter(request);
  const auto held = f.queue->records();
  if ((waits != nullptr && waits->attempt <= attempt) ||
      std::any_of(held.begin(), held.end(), [&](const auto* record) {
        return record->indexed && record->lease.request == request && record->lease.attempt <= attempt;
      })) {
    throw Violation(
        absl::StrCat("I3: ", to_string(request), " was cancelled and keeps its place or its lease"));
  }
  finish(f, {.name = absl::StrCat("cancel ", to_string(request)), .of = request});
}

absl::Status Engine::claim(const StartRequest& start, const SandboxId& sandbox, bool needs_room) {
  Function& f = function(start.function);
  const std::uint64_t waiting = f.queue->waiter_count();
  const bool surplus = f.queue->covering_starts() > waiting &&
                       f.queue->covering_starts() + f.queue->serving() > f.queue->config().provisioned;
  const bool known = f.starts.contains(start.id);
  absl::Status status = f.queue->claim(start.id, sandbox, needs_room);
  const auto claimed = f.claimed.find(start.id);
  const bool again = claimed != f.claimed.end() && claimed->second == sandbox;
  if (needs_room && surplus && status.ok() && !again) {
    throw Violation(absl::StrCat("room: ", to_string(start.id), " needs room, and nobody waits for it"));
  }
  if (known && absl::IsNotFound(status) && !surplus) {
    throw Violation(absl::StrCat("I10: ", to_string(start.id), " is wanted, and its claim finds nothing"));
  }
  if (status.ok()) f.claimed.emplace(start.id, sandbox);
  finish(f, {.name = absl::StrCat("claim ", to_string(start.id), " for ", to_string(sandbox),
                                  status.ok() ? "" : ": no")});
  return status;
}

absl::Status Engine::offer(const std::string& name, const Offer& offer) {
  Function& f = function(name);
  const bool fresh = offer.fresh() && f.queue->find(offer.sandbox.id) == nullptr;
  const auto start = f.starts.find(offer.start);
  const bool current = start != f.starts.end() && start->second == f.queue->config().version;
  absl::Status status = f.queue->offer(offer, world_.now(), f.effects);
  if (fresh && current && status.ok()) {
    f.forgive();
  }
  finish(f, {.name = absl::StrFormat("offer %s gen %d%s", to_string(offer.sandbox.id), offer.generation,
                                     status.ok() ? "" : ": destroy it"),
             .ends = std::pair(offer.token, offer.lease),
             .fresh = fresh});
  return status;
}

void Engine::settle(const Granted& lease, Outcome outcome) {
  Function& f = function(lease.function);
  const bool ended =
      f.queue->settle(lease.sandbox.id, lease.token, lease.lease, outcome, world_.now(), f.effects);
  finish(f,
         {.name = absl::StrFormat("settle %s token %d of %s %s%s", to_string(lease.sandbox.id), lease.token,
                                  to_string(lease.lease), to_string(outcome), ended ? "" : " (had ended)"),
          .ends = std::pair(lease.token, lease.lease)});
}

absl::Status Engine::withdraw(const std::string& name, const SandboxId& sandbox, WithdrawReason reason) {
  Function& f = function(name);
  const std::uint64_t kept = f.queue->serving();
  const std::uint64_t provisioned = f.queue->defined() ? f.queue->config().provisioned : 0;
  const auto* record = f.queue->find(sandbox);
  const bool idle = record != nullptr && record->state == SandboxState::idle;
  absl::Status status = f.queue->withdraw(sandbox, reason, world_.now(), f.effects);
  if (idle && reason == WithdrawReason::eviction && provisioned > 0 && status.ok() != (kept > provisioned)) {
    throw Violation(absl::StrFormat("provisioned: one of %d is evicted, %d are to be kept: %s", kept,
                                    provisioned, status.ToString()));
  }
  finish(f, {.name = absl::StrCat("withdraw ", to_string(sandbox), status.ok() ? "" : ": no")});
  return status;
}

absl::Status Engine::start_failed(const StartRequest& start, const SandboxId& sandbox,
                                  const absl::Status& why) {
  Function& f = function(start.function);
  const StartRetry& retry = f.queue->config().retry;
  const bool known = f.queue->start_in_flight(start.id);
  const bool was_open = f.queue->stats().breaker == Breaker::open;
  const double jitter = world_.chance("jitter", start.id, sandbox).unit();
  absl::Status status = f.queue->start_failed(start.id, sandbox, why, jitter, world_.now(), f.effects);
  // Claimed by another sandbox it is in flight as before.
  if (known && !f.queue->start_in_flight(start.id) && f.starts.at(start.id) == f.queue->config().version) {
    ++f.failed_in_a_row;
    f.broken = f.broken || f.failed_in_a_row >= retry.breaker_failures;
    // What is provisioned is carried again every second.
    Duration shortest = std::min(retry.backoff, retry.max_backoff) / 2;
    Duration longest = std::max<Duration>(std::max(retry.backoff, retry.max_backoff),
                                          f.queue->config().provisioned > 0 ? 1s : 0s);
    if (f.broken) {
      shortest = retry.breaker_open;
      longest = std::max<Duration>(longest, shortest * 6 / 5);
    }
    if (!was_open) {
      f.quiet_until = world_.now() + shortest;
      const TimePoint next = f.queue->next_event();
      if (next != TimePoint::max() && next > world_.now() + longest) {
        throw Violation("I10: a backoff is longer than the longest");
      }
    }
    if (f.broken != (f.queue->stats().breaker == Breaker::open)) {
      throw Violation(absl::StrFormat("breaker: %d starts have failed in a row, %d open it: it is %s",
                                      f.failed_in_a_row, retry.breaker_failures,
                                      f.broken ? "not open" : "open"));
    }
  }
  finish(f, {.name = absl::StrCat("start_failed ", to_string(start.id))});
  return status;
}

void Engine::gone(const std::string& name, const SandboxId& sandbox) {
  Function& f = function(name);
  f.queue->gone(sandbox, world_.now(), f.effects);
  finish(f, {.name = absl::StrCat("gone ", to_string(sandbox))});
}

void Engine::gone(const StartRequest& start, const SandboxId& claimed_for) {
  Function& f = function(start.function);
  f.queue->gone(start.id, claimed_for, world_.now(), f.effects);
  finish(f, {.name = absl::StrCat("gone ", to_string(start.id))});
}

std::vector<HeldSandbox> Engine::announce(HostId host, const std::vector<AnnouncedSandbox>& sandboxes) {
  std::vector<HeldSandbox> held;
  for (auto& [name, f] : functions_) {
    std::vector<AnnouncedSandbox> own;
    for (const AnnouncedSandbox& said : sandboxes) {
      if (said.function == name) own.push_back(said);
    }
    const std::vector<HeldSandbox> part = f->queue->announce(host, own, world_.now(), f->effects);
    held.insert(held.end(), part.begin(), part.end());
    finish(*f, {.name = absl::StrFormat("announce of %x", host), .inserts = true, .quiet = true});
  }
  return held;
}

void Engine::purge(InvokerId invoker) {
  for (auto& [name, f] : functions_) {
    for (const Waiter* waiter : f->queue->purge(invoker, world_.now(), f->effects)) {
      listeners_.failed({waiter->request, waiter->attempt}, absl::CancelledError("purged"));
      forget(*f, waiter);
    }
    finish(*f, {.name = absl::StrFormat("purge %x", invoker), .quiet = true});
  }
}

void Engine::drain(HostId host) {
  draining_.insert(host);
  for (auto& [name, f] : functions_) {
    f->queue->drain(host, world_.now(), f->effects);
    finish(*f, {.name = absl::StrFormat("drain %x", host)});
  }
}

void Engine::take_over(HostId host) {
  for (auto& [name, f] : functions_) {
    f->queue->take_over(host, world_.now(), f->effects);
    // A late word of the dead may bring its sandboxes back for a while; nobody is behind them.
    std::erase_if(f->tokens, [&](const auto& entry) { return entry.first.host == host; });
    finish(*f, {.name = absl::StrFormat("take_over %x", host), .quiet = true});
  }
}

RepairReport Engine::repair(InvokerId invoker) {
  RepairReport report;
  for (auto& [name, f] : functions_) {
    f->queue->repair(invoker, world_.now(), report, f->effects);
    finish(*f, {.name = absl::StrFormat("repair %x", invoker), .quiet = true});
  }
  return report;
}

// ---- after a step

void Engine::forget(Function& f, const Waiter* waiter) {
  if (f.waiting.erase(waiter) == 0) throw Violation("I3: a waiter is let go twice");
}

void Engine::finish(Function& f, const Step& step) {
  world_.subject = f.queue->name();
  // What is done again and again is told where it changed something.
  if (!step.quiet || !f.effects.empty() || f.queue->records().size() != f.known.size()) {
    world_.trace(absl::StrCat(
        f.queue->name(), " ", step.name,
        step.direct != nullptr
            ? absl::StrFormat(" -> %s token %d", to_string(step.direct->sandbox.id), step.direct->token)
            : ""));
  }
  FunctionQueue::Effects effects = std::move(f.effects);
  f.effects = {};
  bool admitted = false;
  if (!effects.starts.empty()) f.carried_at = world_.now();
  for (const StartRequest& start : effects.starts) {
    if (!f.starts.emplace(start.id, start.version).second) continue;
    admitted = true;
    if (world_.now() < f.quiet_until) {
      throw Violation(absl::StrCat("I10: ", to_string(start.id), " is admitted ",
                                   f.broken ? "while the breaker is open" : "during the backoff"));
    }
  }
  std::erase_if(f.starts, [&](const auto& entry) { return !f.queue->start_in_flight(entry.first); });
  std::erase_if(f.claimed, [&](const auto& entry) { return !f.starts.contains(entry.first); });
  if (admitted && f.broken && f.queue->covering_starts() > 1) {
    throw Violation(absl::StrFormat("I10: the breaker is half open, and %d starts are in flight",
                                    f.queue->covering_starts()));
  }
  const StartRetry& retry = f.queue->config().retry;
  if (!effects.failures.empty() && !step.removes && !f.broken && f.failed_in_a_row < retry.budget) {
    throw Violation(
        absl::StrFormat("I10: a call is answered after %d failed starts in a row; the budget is %d",
                        f.failed_in_a_row, retry.budget));
  }
  // Grants are checked while their waiters still stand; then everybody is told.
  f.effects.grants = effects.grants;
  for (const auto& grant : effects.grants) {
    world_.trace(absl::StrFormat("%s   hands %s token %d to %s (%s)", f.queue->name(),
                                 to_string(grant.record->sandbox.id), grant.record->token,
                                 to_string(grant.record->lease), to_string(grant.record->start_kind)));
  }
  check(f, step);
  f.effects.clear();

  for (const auto& grant : effects.grants) {
    listeners_.granted(grant.waiter->request.invoker, copy(*f.queue, *grant.record));
    forget(f, grant.waiter);
  }
  for (const auto& failure : effects.failures) {
    world_.trace(absl::StrCat(f.queue->name(), "   answers ", to_string(failure.waiter->request), ": ",
                              failure.status.ToString()));
    listeners_.failed({failure.waiter->request, failure.waiter->attempt}, failure.status);
    forget(f, failure.waiter);
  }
  for (const StartRequest& start : effects.starts) {
    world_.trace(absl::StrCat(f.queue->name(), "   wants ", to_string(start.id)));
  }
  if (!effects.starts.empty()) listeners_.starts(effects.starts_for, effects.starts);
  for (const HostNotice& notice : effects.notices) {
    world_.trace(absl::StrCat(f.queue->name(),
                              "   notice: ", notice.kind == HostNotice::Kind::retire ? "retire " : "reclaim ",
                              to_string(notice.sandbox)));
    listeners_.notice(notice.sandbox.host, notice);
  }
  if (f.queue->waiters().size() != f.waiting.size()) {
    throw Violation(absl::StrFormat("I3: %d waiters are owed an answer, %d are in line", f.waiting.size(),
                                    f.queue->waiters().size()));
  }
  arm(f);
}

void Engine::arm(Function& f) {
  const TimePoint event = f.queue->next_event();
  if (!world_.mode().engine_timers || event >= f.timer) return;
  f.timer = event;
  world_.at(event, nullptr, [this, &f] {
    f.timer = TimePoint::max();
    f.queue->evaluate(world_.now(), f.effects);
    finish(f, {.name = "evaluate", .quiet = true});
  });
}

void Engine::check(Function& f, const Step& step) {
  const FunctionQueue& queue = *f.queue;
  const QueueStats stats = queue.stats();
  const FunctionConfig& config = queue.config();
  const std::vector<const FunctionQueue::Record*> records = queue.records();
  const std::vector<const Waiter*> line = queue.waiters();

  // I2: the counts are those of the records; every record is in exactly one state, by construction.
  std::map<SandboxState, std::uint64_t> count;
  std::map<LeaseId, SandboxId> leases;
  for (const auto* record : records) {
    ++count[record->state];
    if (record->state == SandboxState::leased) {
      const auto [other, first] = leases.emplace(record->lease, record->sandbox.id);
      if (!first && !step.inserts && step.name.rfind("gone", 0) != 0) {
        // An announcement may bring one back that the engine had lost.
        const auto known = f.known.find(record->sandbox.id);
        if (known == f.known.end() || known->second.state != SandboxState::leased) {
          throw Violation(absl::StrFormat("I1: %s holds both %s and %s", to_string(record->lease),
                                          to_string(other->second), to_string(record->sandbox.id)));
        }
      }
    }
  }
  if (count[SandboxState::idle] != stats.idle || count[SandboxState::leased] != stats.leased ||
      count[SandboxState::disputed] != stats.disputed || count[SandboxState::retiring] != stats.retiring ||
      stats.live() != records.size()) {
    throw Violation(absl::StrFormat(
        "I2: counted idle %d leased %d disputed %d retiring %d; there are %d %d %d %d of %d", stats.idle,
        stats.leased, stats.disputed, stats.retiring, count[SandboxState::idle], count[SandboxState::leased],
        count[SandboxState::disputed], count[SandboxState::retiring], records.size()));
  }
  if (stats.waiters != line.size()) throw Violation("I2: the line is not as long as it is counted");

  // I1: what is granted in this step was free, or became so in this step; tokens grow; never old code.
  const auto granted = [&](const SandboxId& id, Token token, Version version) {
    Token& last = f.tokens[id];
    if (token <= last) {
      throw Violation(
          absl::StrFormat("I1: %s is granted with token %d after %d", to_string(id), token, last));
    }
    last = token;
    if (!queue.defined()) {
      throw Violation(absl::StrCat("remove: ", to_string(id), " is granted though its function is no more"));
    }
    if (version != config.version) {
      throw Violation(absl::StrFormat("I8: version %d is granted; %d is current", version, config.version));
    }
    if (draining_.contains(id.host)) {
      throw Violation(absl::StrCat("drain: ", to_string(id), " is granted, and its host drains"));
    }
    if (queue.find(id)->suspect) {
      throw Violation(absl::StrCat("I1: ", to_string(id), " is granted under suspicion of its last holder"));
    }
    const auto known = f.known.find(id);
    if (known == f.known.end() || known->second.state != SandboxState::leased) return;
    const Known& held = known->second;
    const bool ended = (step.ends && *step.ends == std::pair(held.token, held.lease)) ||
                       (step.of && held.lease.request == *step.of);
    if (!ended) {
      throw Violation(
          absl::StrFormat("I1: %s is granted while %s holds it", to_string(id), to_string(held.lease)));
    }
  };
  for (const auto& grant : f.effects.grants) {
    granted(grant.record->sandbox.id, grant.record->token, grant.record->sandbox.version);
    if (grant.record->lease != LeaseId{grant.waiter->request, grant.waiter->attempt} ||
        grant.record->ticket != grant.waiter->ticket) {
      throw Violation(absl::StrCat("I5: a grant to ", to_string(grant.waiter->request), " names ",
                                   to_string(grant.record->lease)));
    }
    if ((grant.record->start_kind == StartKind::cold) != step.fresh ||
        grant.record->start_kind == StartKind::warm) {
      throw Violation(absl::StrFormat("kinds: a %s sandbox is handed over as %s",
                                      step.fresh ? "fresh" : "returned",
                                      to_string(grant.record->start_kind)));
    }
    // I5: nobody who was in line comes before one who was served.
    for (const Waiter* waiter : line) {
      if (waiter->request != step.of && before(*waiter, *grant.waiter)) {
        throw Violation(absl::StrFormat("I5: %s (%d, %d) is served before %s (%d, %d)",
                                        to_string(grant.waiter->request), grant.waiter->priority,
                                        grant.waiter->ticket, to_string(waiter->request), waiter->priority,
                                        waiter->ticket));
      }
    }
  }
  if (step.direct != nullptr)
    granted(step.direct->sandbox.id, step.direct->token, step.direct->sandbox.version);
  for (const auto* record : records) {
    const auto known = f.known.find(record->sandbox.id);
    if (known != f.known.end() && record->token < known->second.token) {
      throw Violation(absl::StrCat("I1: the token of ", to_string(record->sandbox.id), " went back"));
    }
    // I8: what is idle may be granted; old code may not.
    if (queue.removed() && record->state == SandboxState::idle) {
      throw Violation(absl::StrCat("remove: ", to_string(record->sandbox.id), " is idle"));
    }
    if (queue.defined() && record->state == SandboxState::idle && record->sandbox.version != config.version) {
      throw Violation(absl::StrFormat("I8: %s of version %d is idle; %d is current",
                                      to_string(record->sandbox.id), record->sandbox.version,
                                      config.version));
    }
  }

  // Nobody waits for a function that is no more.
  if (!queue.defined() && !line.empty()) {
    throw Violation(absl::StrFormat("I3: %d calls wait for a function that was removed", line.size()));
  }

  // I4
  if (!line.empty() && stats.idle > 0) {
    throw Violation(
        absl::StrFormat("I4: %d sandboxes are idle while %d calls wait", stats.idle, line.size()));
  }

  // I6: beyond its cap a function gets nothing new. A cap may be lowered below what there is, and an
  // announcement inserts what exists.
  for (const auto* record : records) {
    if (step.inserts && !f.known.contains(record->sandbox.id)) ++f.inserted;
  }
  const std::uint64_t counted = stats.live() + stats.starts_in_flight;
  const std::uint64_t bound = std::max<std::uint64_t>(config.caps.max_sandboxes, f.counted + f.inserted);
  f.inserted = 0;
  if (counted > bound) {
    throw Violation(absl::StrFormat("I6: %d live and %d starting; the cap is %d", stats.live(),
                                    stats.starts_in_flight, config.caps.max_sandboxes));
  }
  f.counted = counted;

  // I10: every waiter is covered, by what can serve: of the current version, on a host that stays.
  if (f.starts.size() != stats.starts_in_flight) {
    throw Violation(absl::StrFormat("I10: %d starts are in flight, %d were sent", stats.starts_in_flight,
                                    f.starts.size()));
  }
  // While the breaker is open nobody waits whom nothing covers; half open, one start is all.
  const auto current = static_cast<std::size_t>(std::count_if(
      f.starts.begin(), f.starts.end(), [&](const auto& entry) { return entry.second == config.version; }));
  const bool busy = std::any_of(records.begin(), records.end(), [&](const auto* record) {
    return record->state == SandboxState::leased && record->sandbox.version == config.version &&
           !draining_.contains(record->sandbox.id.host);
  });
  if (stats.breaker == Breaker::open && !line.empty() && current == 0 && !busy) {
    throw Violation(absl::StrFormat("breaker: it is open, and %d calls wait for nothing", line.size()));
  }
  const bool probing = stats.breaker == Breaker::half_open && current > 0;
  if (!line.empty() && queue.next_event() == TimePoint::max()) {
    const bool capped =
        probing || counted >= config.caps.max_sandboxes || stats.starts_in_flight >= config.caps.max_starts;
    const bool covered = config.policy == StartPolicy::race ? current >= line.size() : current > 0 || busy;
    if (!capped && !covered) {
      throw Violation(absl::StrFormat("I10: %d calls wait, %d starts are in flight, %d of %d live",
                                      line.size(), current, stats.live(), config.caps.max_sandboxes));
    }
  }
  // Provisioned: what is missing is asked for, or a cap or a backoff forbids it.
  if (queue.defined() && config.provisioned > 0 && queue.next_event() == TimePoint::max()) {
    const bool capped =
        probing || counted >= config.caps.max_sandboxes || stats.starts_in_flight >= config.caps.max_starts;
    const auto kept = std::count_if(records.begin(), records.end(), [&](const auto* record) {
      return record->state != SandboxState::retiring && record->sandbox.version == config.version &&
             !draining_.contains(record->sandbox.id.host);
    });
    if (!capped && kept + current < config.provisioned) {
      throw Violation(absl::StrFormat("provisioned: %d live, %d starting; %d are to be kept", kept, current,
                                      config.provisioned));
    }
  }
  // What it lacks beyond the starts that hosts have claimed must be carried again: it may be lost, and nobody
  // waits who would miss it.
  const auto claimed = std::count_if(f.claimed.begin(), f.claimed.end(), [&](const auto& entry) {
    return f.starts.at(entry.first) == config.version;
  });
  const auto unclaimed = current - static_cast<std::size_t>(claimed);
  if (!queue.defined() || !line.empty() || unclaimed == 0 ||
      queue.serving() + static_cast<std::uint64_t>(claimed) >= config.provisioned) {
    f.carried_at = world_.now();
  }
  if (f.carried_at + (world_.mode().engine_timers ? 1500ms : 10s) < world_.now()) {
    throw Violation(
        absl::StrFormat("provisioned: %d starts are unclaimed, and were not carried again", unclaimed));
  }
  // Without timers the next repair looks; one of them may be lost.
  const Duration patience = world_.mode().engine_timers ? 1s : 8s;
  if (queue.next_event() != TimePoint::max() && queue.next_event() + patience < world_.now()) {
    throw Violation("I10: a backoff has ended and nobody looked");
  }

  f.known.clear();
  for (const auto* record : records) {
    f.known.emplace(record->sandbox.id, Known{record->state, record->token, record->lease});
  }
}

}  // namespace faaskit::simulation
