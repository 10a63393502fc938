#include "simulation/host.h"

#include <algorithm>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace faaskit::simulation {
namespace {

constexpr Duration kHelloTimeout = 2s;

}  // namespace

Host::Host(World& world, Engine& engine, HostId id, StartLimits limits, Forward forward)
    : world_(world),
      engine_(engine),
      id_(id),
      limits_(limits),
      forward_(std::move(forward)),
      starts_(limits) {
  node_.name = absl::StrFormat("host %x", id);
  if (world_.mode().mends) world_.every(kAnnouncePeriod, &node_, "announce", [this] { announce(); });
}

Host::Held* Host::find(std::uint64_t number) {
  auto found = sandboxes_.find(number);
  return found == sandboxes_.end() ? nullptr : found->second.get();
}

// ---- starts

void Host::arrived(const StartRequest& start) {
  if (draining_) return forward_(start);
  if (starts_.arrived(start, world_.now(), world_.memory_of(start.function))) {
    waiting_[start.function].starts.emplace(start.id, start.version);
  }
  pump();
}

void Host::forget(const std::string& function, Version up_to) {
  starts_.forget(function, up_to);
  std::erase_if(waiting_[function].starts, [&](const auto& entry) { return entry.second <= up_to; });
  pump();
}

void Host::pump() {
  while (!draining_) {
    StartMachine::Next next = starts_.next(world_.now());
    for (const StartRequest& start : starts_.given_up()) give_back(start);
    switch (next.kind) {
      case StartMachine::Next::Kind::nothing: return arm_room_timer();
      case StartMachine::Next::Kind::begin: begin(next); break;
      case StartMachine::Next::Kind::evict: make_room(next); break;
    }
  }
}

void Host::arm_room_timer() {
  const TimePoint due = starts_.next_event();
  if (due >= room_timer_) return;
  room_timer_ = due;
  world_.at(std::max(due, world_.now()), &node_, [this] {
    room_timer_ = TimePoint::max();
    pump();
  });
}

// Where there is room for all, nobody's turn comes twice before everybody's has come once.
void Host::check_turn(const StartRequest& start) {
  for (auto& [function, waiting] : waiting_) {
    if (function == start.function) {
      waiting.starts.erase(start.id);
      waiting.passed_over.clear();
    } else if (waiting.starts.empty()) {
      waiting.passed_over.clear();
    } else if (world_.mode().ample_hosts && !waiting.passed_over.insert(start.function).second) {
      throw Violation(absl::StrCat("fairness: ", node_.name, " starts ", start.function, " again, and ",
                                   function, " waits"));
    }
  }
}

// Claimed for room, and not made after all.
void Host::give_back(const StartRequest& start) {
  const auto reserved = reserved_.find(start.id);
  if (reserved == reserved_.end()) return;
  const SandboxId claimed_for = reserved->second.id;
  reserved_.erase(reserved);
  say_gone(start, claimed_for);
}

void Host::say_gone(const StartRequest& start, const SandboxId& claimed_for) {
  world_.ask<bool>(
      node_, about("given back", start.id),
      [this, start, claimed_for] {
        engine_.gone(start, claimed_for);
        return true;
      },
      [](bool) {});
}

void Host::begin(const StartMachine::Next& next) {
  const StartRequest& start = next.start;
  const auto reserved = reserved_.find(start.id);
  if (next.claimed != (reserved != reserved_.end())) {
    throw Violation(
        absl::StrCat("room: ", to_string(start.id), next.claimed ? " is not claimed" : " is claimed"));
  }
  check_turn(start);
  const SandboxId id = next.claimed ? reserved->second.id : SandboxId{.host = id_, .number = ++last_number_};
  if (next.claimed) reserved_.erase(reserved);
  const Sandbox sandbox{
      .id = id, .version = start.version, .home_shard = static_cast<ShardIndex>(id.number % 2)};
  sandboxes_.emplace(id.number,
                     std::make_unique<Held>(sandbox, start, world_.rules_of(id, start), next.bytes));
  if (next.claimed) return make(id.number);
  world_.ask<absl::Status>(
      node_, about("claim", start.id, id), [this, start, id] { return engine_.claim(start, id, false); },
      [this, start, id](const absl::Status& claimed) {
        if (claimed.ok() && !fenced_) return make(id.number);
        sandboxes_.erase(id.number);
        starts_.dropped(start.id);
        if (draining_) forward_(start);
        pump();
      });
}

// Only for a start that somebody wants, which is therefore claimed first.
void Host::make_room(const StartMachine::Next& next) {
  const StartRequest& start = next.start;
  Held* victim = least_recently_used(next);
  if (victim == nullptr) return starts_.nothing_to_evict(start.function);
  if (next.claimed) return evict(*victim, start);
  starts_.claiming(start);
  const SandboxId id{.host = id_, .number = ++last_number_};
  world_.ask<absl::Status>(
      node_, about("claim", start.id, id), [this, start, id] { return engine_.claim(start, id, true); },
      [this, start, id](const absl::Status& claimed) {
        if (!claimed.ok()) {
          starts_.not_claimed(start);
          if (draining_) forward_(start);
        } else if (!draining_ && starts_.claimed(start, world_.now())) {
          reserved_.emplace(start.id, Reserved{start, id});
        } else {
          say_gone(start, id);
        }
        pump();
      });
}

void Host::make(std::uint64_t number) {
  Held& held = *find(number);
  held.made = true;
  const SandboxId id = held.machine.sandbox().id;
  world_.process_begins(id, held.start, held.machine.rules());
  Random random = world_.chance("start", id);
  const Duration takes = random.between(20ms, 400ms);
  const Duration dies_after = random.between(1ms, 300ms);
  const bool hangs = failing() && world_.fault(0.03, "init hangs", id);
  if (world_.start_fails(held.start, id_) || (failing() && world_.fault(0.12, "init fails", id))) {
    world_.after(dies_after, &node_, [this, number] {
      if (Held* held = find(number)) on_death(*held, absl::UnavailableError("init: exit status 1"));
    });
  } else if (!hangs) {
    world_.after(takes, &node_, [this, number] {
      Held* held = find(number);
      if (held != nullptr && held->machine.starting()) became_ready(*held);
    });
  }
  world_.after(kHelloTimeout, &node_, [this, number] {
    Held* held = find(number);
    if (held != nullptr && held->machine.starting())
      destroy(*held, absl::UnavailableError("init: no hello within 2 s"));
  });
  // Some die some day, whatever they are doing then.
  if (failing() && world_.fault(0.3, "stranger", id)) {
    world_.after(random.exponential(8s), &node_, [this, id] {
      if (!world_.healed()) kill(id);
    });
  }
}

void Host::cancel(const SandboxId& id, const LeaseId& lease) {
  Held* held = find(id.number);
  if (held == nullptr || !held->running || held->running->call.lease != lease) return;
  destroy(*held, absl::CancelledError("by its caller"));
}

// Its host learns it a moment later.
void Host::kill(const SandboxId& id) {
  const Held* held = find(id.number);
  if (held == nullptr || !held->made || !world_.process(id).alive) return;
  world_.trace(absl::StrCat(to_string(id), " is killed by a stranger"));
  world_.died(id);
  world_.after(world_.chance("news", id).between(0ms, 3ms), &node_, [this, number = id.number] {
    if (Held* held = find(number)) on_death(*held, absl::UnavailableError("signal 9"));
  });
}

void Host::became_ready(Held& held) {
  held.ready = true;
  starts_.ready(held.start.id);
  const Offer first = held.machine.ready(world_.now());
  watch_age(held);
  became_idle(held);
  offer(held, first);
  pump();
}

// The least recently used idle sandbox goes that the start could not use itself.
Host::Held* Host::least_recently_used(const StartMachine::Next& next) {
  Held* chosen = nullptr;
  for (auto& [number, held] : sandboxes_) {
    if (!held->machine.idle() || held->withdrawing || held->kept || held->machine.announced({}).offer_pending)
      continue;
    if (held->start.function == next.start.function && held->start.version == next.start.version) continue;
    if (next.of_memory && held->bytes == 0) continue;
    if (chosen == nullptr || held->machine.idle_since() < chosen->machine.idle_since()) chosen = held.get();
  }
  return chosen;
}

void Host::evict(Held& victim, const StartRequest& wanted) {
  victim.withdrawing = true;
  starts_.evicting(wanted.function, victim.start.id, world_.now());
  const SandboxId id = victim.machine.sandbox().id;
  world_.ask<absl::Status>(
      node_, about("withdraw", id, ++asked_),
      [this, id, function = victim.start.function] {
        return engine_.withdraw(function, id, WithdrawReason::eviction);
      },
      [this, id, of = wanted.function](const absl::Status& withdrawn) {
        Held* held = find(id.number);
        if (held == nullptr || !held->withdrawing) return;  // it died meanwhile and has told the machine
        if (withdrawn.ok() && !held->machine.ending()) {
          held->withdrawing = false;
          held->evicted = true;
          return retire(*held);
        }
        if (held->machine.ending()) return;  // reaped() tells the machine
        held->withdrawing = false;
        // Its function may want it for now; that may change without a word to us.
        held->kept = true;
        world_.after(kHeartbeat, &node_, [this, id] {
          if (Held* held = find(id.number)) held->kept = false;
          starts_.may_evict();
          pump();
        });
        starts_.eviction_failed(of, held->start.id);
        pump();
      });
}

// It has lived long enough: it goes when it is idle.
void Host::watch_age(Held& held) {
  const TimePoint ends_at = held.machine.rules().ends_at;
  if (ends_at == TimePoint::max()) return;
  const SandboxId id = held.machine.sandbox().id;
  world_.at(std::max(ends_at, world_.now()), &node_, [this, id] {
    Held* held = find(id.number);
    if (held == nullptr || !held->machine.idle() || held->withdrawing) return;
    world_.ask<absl::Status>(
        node_, about("too old", id, ++asked_),
        [this, id, function = held->start.function] {
          return engine_.withdraw(function, id, WithdrawReason::host);
        },
        [this, id](const absl::Status& withdrawn) {
          Held* held = find(id.number);
          // Leased meanwhile it goes after that call.
          if (held != nullptr && withdrawn.ok() && !held->machine.ending()) retire(*held);
        });
  });
}

// ---- offers

void Host::offer(Held& held, const Offer& offer) {
  const SandboxId id = held.machine.sandbox().id;
  world_.ask<absl::Status>(
      node_, about("offer", id, offer.generation),
      [this, offer, function = held.start.function] { return engine_.offer(function, offer); },
      [this, id, generation = offer.generation](const absl::Status& known) {
        Held* held = find(id.number);
        if (held == nullptr || held->machine.ending()) return;
        if (!known.ok()) return retire(*held);
        held->machine.offer_acknowledged(generation);
        // What is not known to be idle there cannot be withdrawn; now it can.
        starts_.may_evict();
        pump();
      },
      [this, id, generation = offer.generation] {
        Held* held = find(id.number);
        if (held == nullptr || held->machine.ending()) return false;
        const AnnouncedSandbox said = held->machine.announced({});
        return said.offer_pending && said.generation == generation;
      });
}

void Host::became_idle(Held& held) {
  const std::uint64_t number = held.machine.sandbox().id.number;
  starts_.may_evict();
  world_.after(kGrace, &node_, [this, number] {
    Held* held = find(number);
    if (held == nullptr || !held->machine.wants_freeze(kGrace, world_.now())) return;
    held->machine.freeze_written();
    world_.freeze(held->machine.sandbox().id);
    const std::uint64_t freeze = ++held->freezes;
    const Duration takes = world_.chance("freeze", held->machine.sandbox().id, freeze).between(10us, 5ms);
    world_.after(takes, &node_, [this, number, freeze] {
      Held* held = find(number);
      if (held == nullptr || held->freezes != freeze) return;
      held->machine.freeze_confirmed();
      const SandboxId id = held->machine.sandbox().id;
      if (world_.mode().silent_deaths && world_.fault(0.1, "stuck", id, freeze))
        world_.process(id).stuck = true;
    });
  });
}

// ---- calls

void Host::call(const Call& call, Reply reply) {
  Held* held = find(call.sandbox.number);
  if (held == nullptr) {
    return reply({.status = absl::NotFoundError(absl::StrCat(to_string(call.sandbox), " is not here")),
                  .never_began = true,
                  .clean = false});
  }
  const bool busy = held->machine.busy();
  const bool ending = held->machine.ending();
  const Token seen = std::exchange(held->seen, std::max(held->seen, call.token));
  const SandboxMachine::Admission admission = held->machine.admit(call.token, call.lease, world_.now());
  if (!admission.status.ok()) {
    world_.trace(absl::StrCat("   refused: ", admission.status.ToString()));
    const Mode& mode = world_.mode();
    if (!held->machine.ending() && !mode.loses() && !mode.suspects()) {
      throw Violation(
          absl::StrFormat("I1: nothing was lost, nobody was fenced, and %s is refused by a %s sandbox",
                          to_string(call.lease), busy ? "busy" : "idle"));
    }
    return reply({.status = admission.status, .never_began = true, .clean = false});
  }
  if (held->running || busy) {
    throw Violation(absl::StrCat("I1: a second call is admitted to ", to_string(call.sandbox)));
  }
  if (ending)
    throw Violation(absl::StrCat("I7: a call is admitted to ", to_string(call.sandbox), ", which ends"));
  if (call.token <= seen) {
    throw Violation(absl::StrFormat("I1: %s admits token %d after it has seen %d", to_string(call.sandbox),
                                    call.token, seen));
  }
  if (admission.thaw) world_.thaw(call.sandbox);
  ++held->freezes;
  held->machine.publish_busy();
  held->running.emplace(
      Running{.serial = ++last_call_, .begun = false, .call = call, .reply = std::move(reply)});
  held->running->idle_for = admission.idle_for;
  if (admission.ping && world_.process(call.sandbox).stuck) {
    world_.after(world_.ping_timeout(), &node_, [this, number = call.sandbox.number, serial = last_call_] {
      Held* held = find(number);
      if (held == nullptr || !held->running || held->running->serial != serial) return;
      destroy(*held, absl::UnavailableError("no answer to a ping"));
    });
  }
  const bool answers = !admission.ping || !world_.process(call.sandbox).stuck;
  const std::uint64_t number = call.sandbox.number;
  const std::uint64_t serial = last_call_;
  const Duration takes = world_.chance("send", call.lease).between(5us, 200us);
  if (answers) {
    world_.after(admission.ping ? 3 * takes : takes, &node_, [this, number, serial] {
      Held* held = find(number);
      if (held != nullptr && held->running && held->running->serial == serial) run_body(*held);
    });
  }
  world_.at(std::max(call.deadline, world_.now()), &node_, [this, number, serial] {
    Held* held = find(number);
    if (held == nullptr || !held->running || held->running->serial != serial) return;
    destroy(*held, absl::DeadlineExceededError("cut at the deadline"));
  });
}

void Host::run_body(Held& held) {
  const SandboxId id = held.machine.sandbox().id;
  if (!world_.process(id).alive) {
    // Reset before anything was read: it never began.
    return on_death(held, absl::UnavailableError("connection reset"));
  }
  Running& running = *held.running;
  running.begun = true;
  const auto& ping_after = held.machine.rules().ping_after;
  if (ping_after && running.idle_for > *ping_after && world_.process(id).stuck) {
    throw Violation(absl::StrCat("ping: ", to_string(running.call.lease), " is sent to ", to_string(id),
                                 ", idle for long, without a sign of life"));
  }
  if (world_.process(id).stuck) return;  // cut at its deadline
  world_.body_begins(id, running.call.lease.request, running.call.at_least);

  const auto still = [this, number = id.number, serial = running.serial]() -> Held* {
    Held* held = find(number);
    return held != nullptr && held->running && held->running->serial == serial ? held : nullptr;
  };
  const auto well = [this, still, id] {
    Held* held = still();
    if (held == nullptr || !world_.process(id).alive) return;
    world_.body_ends(id, true);
    const bool enough = held->machine.worn_out() || held->machine.aged_out(world_.now());
    if (held->unwanted || draining_ || enough) {
      end_call(*held, {.status = absl::OkStatus(), .never_began = false, .clean = false});
      return retire(*held);
    }
    const Offer returned = held->machine.ended_clean(world_.now());
    became_idle(*held);
    end_call(*held, {.status = absl::OkStatus(), .never_began = false, .clean = true});
    offer(*held, returned);
    pump();
  };
  if (running.call.may_end) {
    auto poll = std::make_shared<std::function<void()>>();
    *poll = [this, still, well, weak = std::weak_ptr(poll)] {
      Held* held = still();
      if (held == nullptr) return;
      if (held->running->call.may_end()) return well();
      world_.after(5ms, &node_, [poll = weak.lock()] { (*poll)(); });
    };
    return world_.after(5ms, &node_, [poll] { (*poll)(); });
  }
  const RequestId& request = running.call.lease.request;
  Random random = world_.chance("body", request);
  const Duration shortest = random.between(1ms, 30ms);
  const Duration takes = shortest + random.exponential(40ms);
  if (failing() && world_.fault(0.02, "never ends", request)) return;  // cut at its deadline
  if (failing() && world_.fault(0.03, "bad frame", request)) {
    return world_.after(takes, &node_, [this, still] {
      if (Held* held = still()) destroy(*held, absl::InternalError("bad frame"));
    });
  }
  if (failing() && world_.fault(0.03, "out of memory", request)) {
    return world_.after(takes, &node_, [this, still] {
      if (Held* held = still()) on_death(*held, absl::UnavailableError("signal 9 (out of memory)"));
    });
  }
  world_.after(takes, &node_, well);
}

void Host::end_call(Held& held, InvocationMachine::CallEnd end) {
  Running running = std::move(*held.running);
  held.running.reset();
  world_.trace(absl::StrFormat("%s: call of %s ends: %s%s%s", to_string(held.machine.sandbox().id),
                               to_string(running.call.lease), end.status.ToString(),
                               end.clean ? ", clean" : "", end.never_began ? ", never began" : ""));
  running.reply(end);
}

// ---- ends

void Host::retire(Held& held) {
  if (held.running) {
    held.unwanted = true;
  } else {
    destroy(held, absl::CancelledError("retired"));
  }
}

void Host::destroy(Held& held, const absl::Status& why) { on_death(held, why); }

void Host::on_death(Held& held, const absl::Status& why) {
  if (!held.machine.end()) return;
  const SandboxId id = held.machine.sandbox().id;
  if (!held.made) throw Violation(absl::StrCat("driver: ", to_string(id), " ends before it is made"));
  world_.died(id);
  if (held.running) {
    const bool begun = held.running->begun;
    end_call(held, {.status = why, .never_began = !begun, .clean = false});
  }
  world_.after(world_.chance("reap", id).between(200us, 30ms), &node_,
               [this, number = id.number, why] { reaped(number, why); });
}

void Host::reaped(std::uint64_t number, const absl::Status& why) {
  Held& held = *find(number);
  const SandboxId id = held.machine.sandbox().id;
  held.machine.reaped();
  world_.reaped(id);
  starts_.reaped(held.start.id, held.ready, held.evicted || held.withdrawing, world_.now());
  const StartRequest start = held.start;
  const bool ready = held.ready;
  sandboxes_.erase(number);
  if (ready) {
    report_gone(start.function, id);
  } else {
    world_.ask<absl::Status>(
        node_, about("start_failed", start.id, id),
        [this, start, id, why] { return engine_.start_failed(start, id, why); }, [](const absl::Status&) {});
  }
  pump();
}

void Host::report_gone(const std::string& function, const SandboxId& id) {
  world_.ask<bool>(
      node_, about("gone", id, ++asked_),
      [this, function, id] {
        engine_.gone(function, id);
        return true;
      },
      [](bool) {});
}

void Host::notice(const HostNotice& notice) {
  Held* held = find(notice.sandbox.number);
  if (held == nullptr) return report_gone(notice.function, notice.sandbox);
  if (held->machine.ending()) return;
  if (notice.kind == HostNotice::Kind::retire) return retire(*held);
  answer(*held, notice.token, notice.lease, true);
}

void Host::answer(Held& held, Token token, const LeaseId& lease, bool suspect) {
  const std::optional<Offer> back = held.machine.answer_lease(token, lease, suspect);
  if (!back) return;
  // Returned, it may be granted to another: whoever had it must find the door closed.
  held.seen = std::max(held.seen, token);
  offer(held, *back);
}

void Host::announce() {
  std::vector<AnnouncedSandbox> all;
  for (const auto& [number, held] : sandboxes_) {
    if (held->made) all.push_back(held->machine.announced(held->start.function));
  }
  world_.ask<std::vector<HeldSandbox>>(
      node_, about("announce", id_, ++announced_), [this, all] { return engine_.announce(id_, all); },
      [this](const std::vector<HeldSandbox>& known) {
        for (const HeldSandbox& there : known) {
          Held* held = find(there.id.number);
          if (held == nullptr) {
            report_gone(there.function, there.id);
          } else if (held->machine.ending()) {
            continue;
          } else if (there.state == SandboxState::retiring) {
            retire(*held);
          } else if (there.state == SandboxState::leased) {
            answer(*held, there.token, there.lease, there.suspect);
          }
        }
      });
}

void Host::drain() {
  draining_ = true;
  // What was claimed for room will not be made here.
  while (!reserved_.empty()) give_back(StartRequest(reserved_.begin()->second.start));
  world_.ask<bool>(
      node_, about("drain", id_),
      [this] {
        engine_.drain(id_);
        return true;
      },
      [](bool) {});
}

// It could not renew its heartbeat: others may soon take it for dead, and must be right. Nothing is admitted
// or begun any more, and every sandbox is destroyed.
void Host::fence() {
  if (std::exchange(fenced_, true)) return;
  world_.trace(node_.name + " cannot renew its heartbeat: it ends");
  draining_ = true;
  reserved_.clear();
  for (auto& [number, held] : sandboxes_) {
    if (held->made && !held->machine.ending()) {
      destroy(*held, absl::UnavailableError("its host could not renew its heartbeat"));
    }
  }
}

void Host::crash() {
  world_.die(node_);
  for (auto& [number, held] : sandboxes_) {
    if (!held->made) continue;
    const SandboxId id = held->machine.sandbox().id;
    world_.died(id);
    world_.reaped(id);
    if (held->running) {
      // Its connection ends; the invoker is told by whoever watches that.
      Running running = std::move(*held->running);
      held->running.reset();
      running.reply({.status = absl::UnavailableError("the connection to its host ended"),
                     .never_began = false,
                     .clean = false});
    }
  }
  sandboxes_.clear();
}

void Host::invoker_lost(InvokerId invoker) {
  for (auto& [number, held] : sandboxes_) {
    if (!held->running || held->running->call.lease.request.invoker != invoker) continue;
    if (world_.chance("cut off", held->running->call.lease).chance(0.5)) {
      destroy(*held, absl::CancelledError("its invoker is gone"));
    }
  }
}

// ---- checks

void Host::audit() const {
  std::uint64_t starting = 0;
  for (const auto& [number, held] : sandboxes_) {
    if (!held->ready) ++starting;
    const SandboxMachine& machine = held->machine;
    const TimePoint watched = std::max(machine.idle_since(), node_.disturbed);
    if (machine.idle() && watched + kGrace + 50ms < world_.now() && !machine.frozen()) {
      throw Violation(absl::StrCat("I9: ", to_string(machine.sandbox().id),
                                   " is idle beyond the grace time, not frozen"));
    }
    if (machine.busy() != held->running.has_value()) {
      throw Violation(
          absl::StrCat("I2: ", to_string(machine.sandbox().id), ": its machine and its call disagree"));
    }
  }
  if (starts_.starting() != starting || starts_.counted() != sandboxes_.size()) {
    throw Violation(absl::StrFormat("I6: %s counts %d, %d of them starting; it has %d and %d", node_.name,
                                    starts_.counted(), starts_.starting(), sandboxes_.size(), starting));
  }
  std::uint64_t bytes = 0;
  for (const auto& [number, held] : sandboxes_) bytes += held->bytes;
  if (bytes > limits_.max_memory_bytes || starts_.counted_bytes() != bytes) {
    throw Violation(absl::StrFormat("I6: %s counts %d MiB of memory; it has %d, and may have %d", node_.name,
                                    starts_.counted_bytes() >> 20, bytes >> 20,
                                    limits_.max_memory_bytes >> 20));
  }
  if (sandboxes_.size() > limits_.max_sandboxes || starting > limits_.max_concurrent_starts) {
    throw Violation(absl::StrFormat("I6: %s has %d sandboxes, %d starting; its caps are %d and %d",
                                    node_.name, sandboxes_.size(), starting, limits_.max_sandboxes,
                                    limits_.max_concurrent_starts));
  }
}

void Host::check_view(const Engine& engine) const {
  std::map<SandboxId, SandboxState> known;
  for (const std::string& name : engine.names()) {
    for (const auto* record : engine.queue(name).records()) {
      if (record->sandbox.id.host == id_) known.emplace(record->sandbox.id, record->state);
    }
  }
  for (const auto& [number, held] : sandboxes_) {
    const SandboxId id = held->machine.sandbox().id;
    const auto found = known.find(id);
    if (!held->machine.idle() || found == known.end() || found->second != SandboxState::idle) {
      throw Violation(absl::StrFormat("I2: at rest %s is %s here and %s there", to_string(id),
                                      to_string(held->machine.published().state),
                                      found == known.end() ? "unknown" : to_string(found->second)));
    }
    known.erase(found);
  }
  if (!known.empty()) {
    throw Violation(absl::StrFormat("I2: at rest the engine holds %s, %s, which is not here",
                                    to_string(known.begin()->first), to_string(known.begin()->second)));
  }
}

}  // namespace faaskit::simulation
