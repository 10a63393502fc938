#include "simulation/invoker.h"

#include <algorithm>
#include <iterator>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace faaskit::simulation {

using Action = InvocationMachine::Action;
using AcquireOutcome = FunctionQueue::AcquireOutcome;

Invoker::Invoker(World& world, Engine& engine, Surroundings& around, InvokerId id)
    : world_(world), engine_(engine), around_(around), id_(id) {
  node_.name = absl::StrFormat("invoker %x", id);
  if (world_.mode().mends) world_.every(kRepairPeriod, &node_, "repair", [this] { repair(); });
}

Invoker::Invocation* Invoker::find(const LeaseId& waiting) {
  auto found = invocations_.find(waiting.request.sequence);
  if (found == invocations_.end() || found->second->machine.attempt() != waiting.attempt) return nullptr;
  return found->second.get();
}

bool Invoker::minds(const LeaseId& lease, Token token) const {
  if (settling_.contains({lease, token})) return true;
  auto found = invocations_.find(lease.request.sequence);
  if (found == invocations_.end() || found->second->machine.attempt() != lease.attempt) return false;
  return !found->second->lease || found->second->lease->token == token;
}

void Invoker::invoke(std::uint64_t sequence, Wanted wanted) {
  const RequestId id{.invoker = id_, .sequence = sequence};
  auto made = std::make_unique<Invocation>(wanted.deadline, id);
  Invocation& invocation = *made;
  invocation.wanted = std::move(wanted);
  invocations_.emplace(id.sequence, std::move(made));
  world_.at(invocation.wanted.deadline, &node_, [this, sequence = id.sequence] {
    auto found = invocations_.find(sequence);
    if (found != invocations_.end() && !found->second->lease) {
      give_up(*found->second, absl::DeadlineExceededError("nothing came"));
    }
  });
  act(invocation, invocation.machine.begin());
}

// As far as it goes: a wait ends; a call that runs ends only if the caller said so, at the price of its
// sandbox. The caller is answered at once, whatever its host has to say later.
void Invoker::cancel(std::uint64_t sequence, bool running_too) {
  auto found = invocations_.find(sequence);
  if (found == invocations_.end()) return;
  Invocation& invocation = *found->second;
  if (!invocation.lease) return give_up(invocation, absl::CancelledError("by its caller"));
  if (!running_too || !invocation.called) return;
  const Granted lease = *invocation.lease;
  world_.after(world_.latency(about("cut", lease.lease)), nullptr, [this, lease] {
    if (Host* host = around_.host(lease.sandbox.id.host)) host->cancel(lease.sandbox.id, lease.lease);
  });
  world_.trace(absl::StrCat(to_string(lease.lease), " is cancelled while it runs"));
  called(lease.lease, lease.token,
         {.status = absl::CancelledError("by its caller"),
          .never_began = world_.chance("had not begun", lease.lease).chance(0.5),
          .clean = false});
}

// It waits: it is taken out of line, and a lease that overtakes this is given back.
void Invoker::give_up(Invocation& invocation, const absl::Status& why) {
  cancel_at_engine(invocation.wanted.function, invocation.id, invocation.machine.attempt());
  act(invocation, invocation.machine.not_acquired(why));
}

void Invoker::act(Invocation& invocation, InvocationMachine::Step step) {
  if (step.settle) {
    if (!invocation.lease) throw Violation("I3: a step settles a lease that is not there");
    settle(*invocation.lease, step.outcome);
    invocation.lease.reset();
    invocation.called = false;
  }
  switch (step.action) {
    case Action::acquire: return acquire(invocation);
    case Action::call: return call(invocation);
    case Action::finish: {
      if (invocation.lease)
        throw Violation(absl::StrCat("I3: ", to_string(invocation.id), " ends with a lease"));
      const RequestId id = invocation.id;
      invocations_.erase(id.sequence);
      around_.completed(id, step.status);
    }
  }
}

void Invoker::acquire(Invocation& invocation) {
  const LeaseId waiting{.request = invocation.id, .attempt = invocation.machine.attempt()};
  if (world_.mode().try_path && invocation.machine.ticket() == 0) {
    std::optional<Granted> warm = engine_.try_acquire(invocation.wanted.function, waiting.request,
                                                      waiting.attempt, ShardIndex(id_ % 2));
    if (warm) return granted(*warm);
  }
  if (invocation.machine.ticket() != 0 && invocation.ticket != 0 &&
      invocation.machine.ticket() != invocation.ticket) {
    throw Violation(absl::StrFormat("I5: %s had ticket %d and comes back with %d", to_string(invocation.id),
                                    invocation.ticket, invocation.machine.ticket()));
  }
  FunctionQueue::Waiter wanted;
  wanted.request = invocation.id;
  wanted.attempt = waiting.attempt;
  wanted.priority = invocation.wanted.priority;
  wanted.ticket = std::max(invocation.machine.ticket(), invocation.ticket);
  wanted.shard = ShardIndex(id_ % 2);
  wanted.previous = invocation.machine.previous();
  wanted.previous_sandbox = invocation.last_sandbox;
  wanted.previous_token = invocation.last_token;
  invocation.asked = false;
  world_.ask<AcquireAnswer>(
      node_, about("acquire", waiting, ++invocation.asked_for),
      [this, wanted, function = invocation.wanted.function] { return engine_.acquire(function, wanted); },
      [this, waiting](const AcquireAnswer& answer) {
        Invocation* invocation = find(waiting);
        switch (answer.outcome) {
          case AcquireOutcome::leased: return granted(answer.granted);
          case AcquireOutcome::queued:
            if (invocation == nullptr || invocation->lease) return;
            invocation->asked = true;
            // Purged and asked for again by a late duplicate it has two places; the first is its own.
            if (invocation->ticket == 0) invocation->ticket = answer.ticket;
            return;
          case AcquireOutcome::refused:
            if (invocation != nullptr && !invocation->lease) {
              act(*invocation, invocation->machine.not_acquired(answer.status));
            }
            return;
          case AcquireOutcome::stale: return;
        }
      },
      [this, waiting] {
        const Invocation* invocation = find(waiting);
        return invocation != nullptr && !invocation->lease;
      });
}

void Invoker::granted(const Granted& lease) {
  if (settling_.contains({lease.lease, lease.token})) return;  // told again of one that has ended here
  Invocation* invocation = find(lease.lease);
  if (invocation != nullptr && invocation->lease && invocation->lease->token == lease.token)
    return;                                                                                 // told twice
  if (invocation == nullptr || invocation->lease) return settle(lease, Outcome::reusable);  // given back
  invocation->lease = lease;
  invocation->last_sandbox = lease.sandbox.id;
  invocation->last_token = lease.token;
  const InvocationMachine::Step step = invocation->machine.acquired(lease.ticket);
  if (lease.ticket != 0) {
    invocation->ticket = lease.ticket;
    if (invocation->machine.ticket() != lease.ticket) {
      throw Violation(absl::StrCat("I5: ", to_string(invocation->id), " forgot its ticket"));
    }
  }
  act(*invocation, step);
}

void Invoker::failed(const LeaseId& waiting, const absl::Status& why) {
  Invocation* invocation = find(waiting);
  if (invocation == nullptr || invocation->lease) return;
  act(*invocation, invocation->machine.not_acquired(why));
}

void Invoker::starts(const std::vector<StartRequest>& starts) {
  for (const StartRequest& start : starts) around_.carry(start);
}

// The call is written once, to one connection.
void Invoker::call(Invocation& invocation) {
  const Granted& lease = *invocation.lease;
  invocation.called = true;
  const Call call{.sandbox = lease.sandbox.id,
                  .token = lease.token,
                  .lease = lease.lease,
                  .deadline = invocation.wanted.deadline,
                  .at_least = invocation.wanted.at_least,
                  .may_end = invocation.wanted.may_end};
  const auto answer = [this, id = lease.lease, token = lease.token](const InvocationMachine::CallEnd& end) {
    const Duration takes = world_.latency(about("reply", id));
    world_.after(takes, &node_, [this, id, token, end] { called(id, token, end); });
  };
  const bool breaks = world_.mode().request_lost > 0 && world_.fault(0.02, "connection breaks", lease.lease);
  Random random = world_.chance("break", lease.lease);
  const bool before = random.chance(0.5);
  if (!breaks || !before) {
    // A broken connection loses the answer; the sandbox may run the call to its end.
    const Host::Reply reply =
        breaks ? Host::Reply([](const InvocationMachine::CallEnd&) {}) : Host::Reply(answer);
    world_.after(world_.latency(about("call", lease.lease)), nullptr, [this, call, reply, answer] {
      Host* host = around_.host(call.sandbox.host);
      if (host == nullptr) {
        return answer(
            {.status = absl::UnavailableError("no such host"), .never_began = true, .clean = false});
      }
      world_.after(0ms, &host->node(), [host, call, reply] { host->call(call, reply); });
    });
  }
  if (breaks) {
    world_.after(random.between(0ms, 50ms), nullptr, [answer] {
      answer(
          {.status = absl::UnavailableError("the connection broke"), .never_began = false, .clean = false});
    });
  }
  world_.at(std::max(invocation.wanted.deadline, world_.now()) + 200ms, &node_,
            [this, id = lease.lease, token = lease.token] {
              called(id, token,
                     {.status = absl::DeadlineExceededError("its host says nothing"),
                      .never_began = false,
                      .clean = false});
            });
}

void Invoker::called(const LeaseId& lease, Token token, const InvocationMachine::CallEnd& end) {
  Invocation* invocation = find(lease);
  if (invocation == nullptr || !invocation->lease || invocation->lease->token != token) return;
  const InvocationMachine::Step step = invocation->machine.called(end, world_.now());
  if (step.settle && step.outcome == Outcome::reusable && !end.clean) {
    throw Violation(absl::StrCat("I7: ", to_string(lease), " is released after: ", end.status.ToString()));
  }
  if (absl::IsAborted(end.status) && step.outcome != Outcome::refused) {
    throw Violation(absl::StrCat("I1: ", to_string(lease), " was refused, and is settled ",
                                 std::string(to_string(step.outcome))));
  }
  if (end.clean && step.outcome != Outcome::reusable) {
    throw Violation(absl::StrCat("I7: ", to_string(lease), " ended clean and is not released"));
  }
  const bool may_try_again = end.never_began && !end.clean && !absl::IsCancelled(end.status) &&
                             world_.now() < invocation->wanted.deadline && lease.attempt < kMaxAttempts;
  if (may_try_again != (step.action == Action::acquire) ||
      (may_try_again && invocation->machine.attempt() != lease.attempt + 1)) {
    throw Violation(absl::StrFormat("I3: %s %s, and goes on with attempt %d", to_string(lease),
                                    may_try_again ? "provably never began" : "is at its end",
                                    invocation->machine.attempt()));
  }
  if (step.action == Action::acquire && !end.never_began) {
    throw Violation(absl::StrCat("I1: ", to_string(lease), " may have begun and is tried again"));
  }
  act(*invocation, step);
}

void Invoker::settle(const Granted& lease, Outcome outcome) {
  const std::pair key(lease.lease, lease.token);
  ++settling_[key];
  world_.ask<bool>(
      node_, about("settle", lease.lease, lease.token, settling_[key]),
      [this, lease, outcome] {
        engine_.settle(lease, outcome);
        return true;
      },
      [this, key](bool) {
        if (--settling_[key] == 0) settling_.erase(key);
      });
}

void Invoker::cancel_at_engine(const std::string& function, const RequestId& request, std::uint32_t attempt) {
  world_.ask<bool>(
      node_, about("cancel", request, attempt, ++asked_),
      [this, function, request, attempt] {
        engine_.cancel(function, request, attempt);
        return true;
      },
      [](bool) {});
}

void Invoker::repair() {
  // Asked once: there is a next time. Only what waited before the question is missing in the answer.
  auto waiting = std::make_shared<std::vector<LeaseId>>();
  for (const auto& [sequence, invocation] : invocations_) {
    if (invocation->asked && !invocation->lease)
      waiting->push_back({invocation->id, invocation->machine.attempt()});
  }
  const Subject subject = about("repair", id_, ++repaired_);
  world_.to_engine(node_, subject, [this, waiting, subject] {
    const RepairReport report = engine_.repair(id_);
    world_.from_engine(node_, subject, [this, waiting, report] {
      for (const HeldSandbox& held : report.leases) {
        const Granted lease{.function = held.function,
                            .sandbox = {.id = held.id},
                            .token = held.token,
                            .lease = held.lease,
                            .ticket = 0,
                            .start = StartKind::warm};
        granted(lease);
      }
      for (const RepairReport::Waiting& there : report.waiters) {
        // What it uses meanwhile is history here; what it neither waits for nor uses is a late duplicate's.
        if (find({there.request, there.attempt}) == nullptr) {
          cancel_at_engine(there.function, there.request, there.attempt);
        }
      }
      for (const LeaseId& id : *waiting) {
        Invocation* invocation = find(id);
        if (invocation == nullptr || invocation->lease) continue;
        const bool known = std::any_of(report.waiters.begin(), report.waiters.end(), [&](const auto& there) {
          return there.request == id.request && there.attempt == id.attempt;
        });
        if (!known) acquire(*invocation);
      }
      starts(report.unclaimed);
    });
  });
}

}  // namespace faaskit::simulation
