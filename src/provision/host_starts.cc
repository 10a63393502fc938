// The starts of a Host: which is made next, who claims it, who makes room for it, and how it ended.
#include <algorithm>

#include <absl/strings/str_format.h>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/post.hpp>

#include "provision/host.h"

namespace faaskit {
namespace {

// Starts that were reported as unknown.
constexpr std::size_t kRemembered = 256;

}  // namespace

void Host::end_starting(const std::string& function, Version up_to, const char* why) {
  for (const SandboxPtr& sandbox : all()) {
    if (sandbox->function().spec.name != function || sandbox->sandbox().version > up_to) continue;
    asio::post(sandbox->shard().executor, [sandbox, why] {
      if (sandbox->starting()) sandbox->dismiss(absl::CancelledError(why));
    });
  }
}

void Host::arrived(std::vector<StartRequest> starts) {
  if (stopping_) return;
  const TimePoint now = this->now();
  for (StartRequest& start : starts) {
    const std::shared_ptr<const HostedVersion> function = find_function(start.function);
    starts_.arrived(std::move(start), now, function ? function->spec.limits.memory_bytes : 0);
  }
  pump();
}

void Host::pump() {
  while (!stopping_) {
    StartMachine::Next next = starts_.next(now());
    give_back(starts_.given_up());
    switch (next.kind) {
      case StartMachine::Next::Kind::nothing:
        parts.starts->report_load(id_, starts_.queued() + starts_.starting());
        if (const bool wanted = starts_.wants_eviction(); !eviction_wanted.exchange(wanted) && wanted) {
          starts_.may_evict();  // who became idle before this was said has told nobody: look once more
          break;
        }
        return arm_room_timer();
      case StartMachine::Next::Kind::begin: begin_start(std::move(next)); break;
      case StartMachine::Next::Kind::evict: make_room(next); break;
    }
  }
}

void Host::arm_room_timer() {
  const TimePoint due = starts_.next_event();
  if (due == room_timer_at_) return;
  room_timer_at_ = due;
  if (due == TimePoint::max()) return room_timer_->cancel();
  room_timer_->arm(due, [weak = weak_from_this()] {
    if (auto self = weak.lock()) {
      self->room_timer_at_ = TimePoint::max();
      self->pump();
    }
  });
}

void Host::give_back(const std::vector<StartRequest>& starts) {
  for (const StartRequest& start : starts) {
    auto known = claimed_.extract(start.id);
    if (!known) continue;
    report_gone(
        {.function = known.mapped().function->handle, .sandbox = known.mapped().id, .start = start.id});
  }
}

std::shared_ptr<const HostedVersion> Host::to_make(const StartRequest& start, std::uint64_t bytes) {
  std::shared_ptr<const HostedVersion> function = find_function(start.function);
  // An older version is not wanted any more once the queue has heard of the redeploy; what this host was
  // never told of, somebody must be told of.
  if ((!function && !was_removed(start)) || (function && function->spec.version < start.version))
    report_unknown(start, function.get());
  if (!function || function->spec.version != start.version) return nullptr;
  // Deployed since it came, or once more: it was counted with another size.
  if (counted_size(*function) != bytes) return nullptr;
  return function;
}

std::uint64_t Host::counted_size(const HostedFunction& function) const {
  return options.limits.max_memory_bytes == kNoMemoryBudget ? 0 : function.spec.limits.memory_bytes;
}

void Host::begin_start(StartMachine::Next next) {
  if (next.claimed) {
    Claimed claimed = std::move(claimed_.extract(next.start.id).mapped());
    return create(std::move(next.start), std::move(claimed.function), claimed.id, next.arrived);
  }
  std::shared_ptr<const HostedVersion> function = to_make(next.start, next.bytes);
  if (!function) return starts_.dropped(next.start.id);
  const SandboxId id{.host = id_, .number = ++last_number_};
  claim({.start = std::move(next.start),
         .function = std::move(function),
         .id = id,
         .arrived = next.arrived,
         .needs_room = false});
}

void Host::report_unknown(const StartRequest& start, const HostedFunction* function) {
  if (std::find(unknown_.begin(), unknown_.end(), start.id) != unknown_.end()) return;
  unknown_.push_back(start.id);
  if (unknown_.size() > kRemembered) unknown_.pop_front();
  emit(Severity::warning, "start.unknown_version", start.function,
       function != nullptr
           ? absl::StrFormat(
                 "start %s: version %d is asked for, and this host knows version %d: deploy it here",
                 to_string(start.id), start.version, function->spec.version)
           : absl::StrFormat(
                 "start %s: version %d is asked for, and this host does not know the function: deploy it "
                 "here",
                 to_string(start.id), start.version));
}

void Host::claim(Claim what) {
  ++claims_;
  ask_for(std::move(what));
}

void Host::ask_for(Claim what) {
  ClaimParams params{.function = what.function->handle,
                     .start = what.start.id,
                     .sandbox = what.id,
                     .needs_room = what.needs_room};
  parts.idle->async_claim(
      params, asio::bind_executor(control(), [self = shared_from_this(),
                                              what = std::move(what)](absl::Status status) mutable {
        if (self->stopping_ || !self->is_current(*what.function)) {
          // Claimed, or perhaps (the answer is lost): nothing will come of it here.
          if (status.ok() || absl::IsUnavailable(status)) {
            self->report_gone(
                {.function = what.function->handle, .sandbox = what.id, .start = what.start.id});
          }
          self->not_claimed(what);
        } else if (status.ok()) {
          self->claimed(std::move(what));
        } else if (absl::IsUnavailable(status)) {
          return self->later([self, what = std::move(what)]() mutable { self->ask_for(std::move(what)); });
        } else {
          self->not_claimed(what);
        }
        --self->claims_;
        self->pump();
        self->stopped_if_empty();
      }));
}

void Host::claimed(Claim what) {
  if (!what.needs_room) return create(std::move(what.start), std::move(what.function), what.id, what.arrived);
  if (starts_.claimed(what.start, now())) {
    claimed_.emplace(what.start.id, Claimed{.function = std::move(what.function), .id = what.id});
  } else {
    report_gone({.function = what.function->handle, .sandbox = what.id, .start = what.start.id});
  }
}

void Host::not_claimed(const Claim& what) {
  if (what.needs_room) {
    starts_.not_claimed(what.start);
  } else {
    starts_.dropped(what.start.id);
  }
}

void Host::create(StartRequest start, std::shared_ptr<const HostedVersion> function, SandboxId id,
                  TimePoint arrived) {
  HostShard& shard = *shards_[next_shard_++ % shards_.size()];
  const Sandbox descriptor{.id = id, .version = start.version, .home_shard = shard.index};
  auto sandbox = std::make_shared<HostedSandbox>(shared_from_this(), shard, std::move(function), descriptor,
                                                 start.id, std::uniform_real_distribution<double>()(random_));
  {
    MutexLock lock(mutex_);
    registry_.emplace(id.number, sandbox);
  }
  asio::post(executors.blocking,
             [self = shared_from_this(), &shard, sandbox = std::move(sandbox), arrived]() mutable {
               absl::StatusOr<NewSandbox> made = self->make(*sandbox, arrived);
               if (!made.ok()) {
                 self->parts.factory->released(sandbox->sandbox().id);
                 asio::post(shard.executor, [sandbox = std::move(sandbox), why = made.status()]() mutable {
                   sandbox->not_born(std::move(why));
                 });
                 return;
               }
               asio::post(shard.executor,
                          [self, &shard, sandbox = std::move(sandbox), made = *std::move(made)]() mutable {
                            shard.sandboxes.emplace(sandbox->sandbox().id.number, sandbox);
                            if (self->stopping_)
                              sandbox->dismiss(absl::CancelledError("this host is stopping"));
                            sandbox->born(std::move(made));
                          });
             });
}

absl::StatusOr<NewSandbox> Host::make(const HostedSandbox& sandbox, TimePoint arrived) {
  const HostedFunction& function = sandbox.function();
  NewSandbox made;
  TimePoint begun = now();
  made.phases.set(Phase::start_queue, begun - arrived);
  if (function.code) {
    absl::StatusOr<std::shared_ptr<CodeLease>> code = parts.codes->open(*function.code);
    if (!code.ok()) return code.status();
    made.code = *std::move(code);
    const TimePoint fetched = now();
    made.phases.set(Phase::fetch, fetched - begun);
    begun = fetched;
  }
  absl::StatusOr<std::unique_ptr<Seat>> seat = seats->take(function.spec.limits);
  if (!seat.ok()) return seat.status();
  absl::StatusOr<SandboxHandles> handles =
      parts.factory->create({.spec = &function.spec,
                             .origin = Origin::fresh,
                             .purpose = Purpose::serve,
                             .id = sandbox.sandbox().id,
                             .seat = seat->get(),
                             .code_path = made.code ? made.code->path() : std::string()});
  if (!handles.ok()) {
    SeatPool::discard(*std::move(seat));
    return handles.status();
  }
  made.running_since = now();
  made.phases.set(Phase::create, made.running_since - begun);
  made.phases.set(Phase::exec, handles->exec_time);
  made.seat = *std::move(seat);
  made.handles = *std::move(handles);
  return made;
}

void Host::make_room(const StartMachine::Next& next) {
  const SandboxPtr victim = least_recently_used(next);
  if (!victim) return starts_.nothing_to_evict(next.start.function);
  if (next.claimed) return evict(victim, next.start);
  std::shared_ptr<const HostedVersion> function = to_make(next.start, next.bytes);
  if (!function) return starts_.not_claimed(next.start);
  starts_.claiming(next.start);
  const SandboxId id{.host = id_, .number = ++last_number_};
  claim({.start = next.start,
         .function = std::move(function),
         .id = id,
         .arrived = next.arrived,
         .needs_room = true});
}

SandboxPtr Host::least_recently_used(const StartMachine::Next& next) const {
  SandboxPtr found;
  for (const SandboxPtr& sandbox : all()) {
    const SandboxMachine::Published now = sandbox->published();
    if (now.state != HostState::idle && now.state != HostState::freezing && now.state != HostState::frozen)
      continue;
    if (sandbox->evicted || sandbox->kept_at == now.generation) continue;
    if (sandbox->function().spec.name == next.start.function &&
        sandbox->sandbox().version == next.start.version)
      continue;
    if (next.of_memory && sandbox->function().spec.limits.memory_bytes == 0) continue;
    if (!found || sandbox->idle_since() < found->idle_since()) found = sandbox;
  }
  return found;
}

void Host::evict(const SandboxPtr& victim, const StartRequest& start) {
  victim->evicted = true;
  victim->kept_at = victim->published().generation;
  starts_.evicting(start.function, victim->start(), now());
  WithdrawParams params{.function = victim->function().handle,
                        .sandbox = victim->sandbox().id,
                        .reason = WithdrawReason::eviction};
  parts.idle->async_withdraw(
      params, asio::bind_executor(control(), [self = shared_from_this(), victim,
                                              function = start.function](absl::Status status) {
        // It died meanwhile, and was counted as evicted then.
        if (!self->find(victim->sandbox().id)) return;
        if (status.ok() || absl::IsNotFound(status)) {
          asio::post(victim->shard().executor,
                     [victim] { victim->destroy(absl::CancelledError("evicted: this host is at a cap")); });
          return;
        }
        // Leased, and its call is on its way; it is not asked for again before it has moved.
        victim->evicted = false;
        self->starts_.eviction_failed(function, victim->start());
        self->pump();
      }));
}

void Host::account(SandboxPtr sandbox, absl::Status error) {
  starts_.reaped(sandbox->start(), sandbox->was_ready, sandbox->evicted, now());
  {
    MutexLock lock(mutex_);
    registry_.erase(sandbox->sandbox().id.number);
  }
  if (!error.ok() && !sandbox->was_ready) {
    emit(Severity::warning, "start.failed", sandbox->function().spec.name, error.ToString());
    report_failed(sandbox->function().handle, sandbox->start(), sandbox->sandbox().id, std::move(error));
  } else {
    report_gone({.function = sandbox->function().handle, .sandbox = sandbox->sandbox().id, .start = {}});
  }
  pump();
  stopped_if_empty();
}

void Host::report_failed(FunctionHandle function, StartId start, SandboxId id, absl::Status why) {
  StartFailedParams params{.function = function, .start = start, .sandbox = id, .why = why};
  parts.idle->async_start_failed(
      std::move(params), asio::bind_executor(control(), [self = shared_from_this(), function, start, id,
                                                         why](absl::Status status) {
        if (absl::IsUnavailable(status)) {
          self->later([self, function, start, id, why] { self->report_failed(function, start, id, why); });
        }
      }));
}

void Host::report_gone(GoneParams params) {
  parts.idle->async_gone(
      params, asio::bind_executor(control(), [self = shared_from_this(), params](absl::Status status) {
        if (absl::IsUnavailable(status)) self->later([self, params] { self->report_gone(params); });
      }));
}

}  // namespace faaskit
