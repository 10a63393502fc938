// A FunctionQueue and those who may be gone: what hosts and invokers have, lose and are told again.
#include <algorithm>
#include <memory>
#include <utility>

#include "core/function_queue_tables.h"

namespace faaskit {

std::vector<HeldSandbox> FunctionQueue::announce(HostId host, const std::vector<AnnouncedSandbox>& sandboxes,
                                                 TimePoint now, Effects& effects) {
  std::vector<HeldSandbox> held;
  for (const Record* record : tables_->pick([&](const Record& r) { return r.sandbox.id.host == host; })) {
    held.push_back({.id = record->sandbox.id,
                    .function = name_,
                    .state = record->state,
                    .token = record->token,
                    .lease = record->lease,
                    .suspect = record->suspect});
  }
  for (const AnnouncedSandbox& said : sandboxes) {
    auto known = tables_->records.find(said.sandbox.id);
    if (known != tables_->records.end()) {
      Record& record = *known->second;
      // The host is the truth about what its sandboxes have seen.
      if (record.state == SandboxState::disputed && said.highest_token >= record.token &&
          said.state == SandboxState::idle && !said.offer_pending) {
        record.token = said.highest_token;
        record.generation = std::max(record.generation, said.generation);
        set_state(record, SandboxState::starting);
        place(record, false, now, effects);
      }
      continue;
    }
    // A start is known with its claim, or it was forgotten and the host's offer will be refused.
    if (said.state == SandboxState::starting || said.state == SandboxState::gone) continue;
    // Counted as its start until the host reports how that ended.
    if (claimed_start(said.sandbox.id)) continue;
    if (said.state == SandboxState::idle && said.offer_pending) continue;
    // Said before it was reaped, heard after: inserted, it would be granted though it is no more.
    if (std::find(gone_.begin(), gone_.end(), said.sandbox.id) != gone_.end()) continue;
    auto record = std::make_unique<Record>();
    record->deaths_before = deaths_unused_;
    record->sandbox = said.sandbox;
    record->generation = said.generation;
    record->token = said.highest_token;
    record->state = SandboxState::starting;
    Record& inserted = *record;
    tables_->records.emplace(said.sandbox.id, record.release());
    if (said.state == SandboxState::leased) {
      inserted.token = std::max(said.highest_token, said.token);
      inserted.lease = said.lease;
      set_state(inserted, SandboxState::leased);
      inserted.indexed = true;
      tables_->leases[said.lease.request] = &inserted;
    } else if (said.state == SandboxState::retiring) {
      set_state(inserted, SandboxState::retiring);
    } else {
      place(inserted, false, now, effects);
    }
  }
  return held;
}

void FunctionQueue::take_over(HostId dead, TimePoint now, Effects& effects) {
  for (Record* record : tables_->pick([&](const Record& r) { return r.sandbox.id.host == dead; }))
    erase(*record);
  for (auto& [number, start] : tables_->starts) {
    if (start.claimed_by.host == dead) start.claimed_by = {};
  }
  absl::erase_if(tables_->starts, [&](const auto& entry) {
    return entry.second.claimed_by.host == 0 &&
           (entry.second.version != config_.version || life_ != Life::live);
  });
  std::erase(draining_, dead);
  draining_any_ = !draining_.empty();
  send_again(effects);
  evaluate(now, effects);
}

void FunctionQueue::drain(HostId host, TimePoint now, Effects& effects) {
  if (!draining(host)) draining_.push_back(host);
  draining_any_ = true;
  for (Record* record : tables_->pick(
           [&](const Record& r) { return r.sandbox.id.host == host && r.state == SandboxState::idle; })) {
    retire(*record, effects);
  }
  send_again(effects);
  evaluate(now, effects);
}

std::vector<FunctionQueue::Waiter*> FunctionQueue::purge(InvokerId invoker, TimePoint now, Effects& effects) {
  std::vector<Waiter*> purged;
  for (Waiter* waiter : tables_->line) {
    if (waiter->request.invoker == invoker) purged.push_back(waiter);
  }
  for (Waiter* waiter : purged) drop_line(*waiter);
  send_again(effects);
  evaluate(now, effects);
  if (leased_ == 0) return purged;
  for (Record* record : tables_->pick([&](const Record& r) {
         return r.state == SandboxState::leased && r.lease.request.invoker == invoker;
       })) {
    record->suspect = true;
    effects.notices.push_back({.kind = HostNotice::Kind::reclaim,
                               .function = name_,
                               .sandbox = record->sandbox.id,
                               .token = record->token,
                               .lease = record->lease});
  }
  return purged;
}

void FunctionQueue::repair(InvokerId invoker, TimePoint now, RepairReport& report, Effects& effects) {
  evaluate(now, effects);
  const std::size_t before = report.leases.size();
  for (const auto& [request, record] : tables_->leases) {
    if (request.invoker != invoker) continue;
    report.leases.push_back({.id = record->sandbox.id,
                             .function = name_,
                             .state = record->state,
                             .token = record->token,
                             .lease = record->lease,
                             .suspect = record->suspect});
  }
  std::sort(report.leases.begin() + static_cast<std::ptrdiff_t>(before), report.leases.end(),
            [](const HeldSandbox& a, const HeldSandbox& b) { return a.id < b.id; });
  bool waits = false;
  for (const Waiter* waiter : tables_->line) {
    if (waiter->request.invoker != invoker) continue;
    waits = true;
    report.waiters.push_back({.function = name_,
                              .request = waiter->request,
                              .attempt = waiter->attempt,
                              .ticket = waiter->ticket});
  }
  if (!waits) return;
  for (const auto& [number, start] : tables_->starts) {
    if (start.claimed_by.host == 0) {
      report.unclaimed.push_back(
          {.id = {.nonce = nonce_, .number = number}, .function = name_, .version = start.version});
    }
  }
}

}  // namespace faaskit
