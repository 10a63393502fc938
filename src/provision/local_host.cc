#include "faaskit/provision/local_host.h"

#include <algorithm>
#include <deque>
#include <future>
#include <map>
#include <random>
#include <set>
#include <utility>

#include <absl/container/flat_hash_map.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/dispatch.hpp>

#include "provision/hosted_sandbox.h"
#include "support/random.h"
#include "support/time.h"

namespace faaskit {
namespace {

using SandboxPtr = std::shared_ptr<HostedSandbox>;

constexpr std::chrono::milliseconds kRepeat{100};
// For the processes of a host that goes without a stop.
constexpr std::chrono::milliseconds kGiveUpWait{2000};
// Starts that were reported as unknown, and functions that were removed.
constexpr std::size_t kRemembered = 256;

// The control thread is shard 0's: starts, evictions, announcements and counts are decided there. A call
// never goes through it.
class Host final : public HostContext, public std::enable_shared_from_this<Host> {
 public:
  Host(HostExecutors host_executors, LocalHostParts host_parts, LocalHostOptions host_options)
      : id_(random_id()), starts_(host_options.limits) {
    executors = std::move(host_executors);
    parts = std::move(host_parts);
    options = host_options;
    if (parts.freezer->kind() == FreezerKind::none) options.freeze = FreezePolicy::never;
    seats = std::make_shared<SeatPool>(executors.blocking, parts.freezer, parts.factory, parts.events, id_,
                                       options.parked_seats);
    for (std::size_t i = 0; i < executors.shards.size(); ++i) {
      auto shard = std::make_unique<HostShard>();
      shard->index = static_cast<ShardIndex>(i);
      shard->executor = executors.shards[i];
      shard->timers = std::make_unique<ShardTimers>(
          parts.clock, shard->executor, [](HostedSandbox& sandbox, Alarm alarm) { sandbox.alarm(alarm); });
      shards_.push_back(std::move(shard));
    }
    announce_timer_ = parts.clock->make_timer(control());
    room_timer_ = parts.clock->make_timer(control());
  }

  void begin() {
    seats->refill();
    start_watch_ =
        parts.starts->serve(id_, control(), [weak = weak_from_this()](std::vector<StartRequest> starts) {
          if (auto self = weak.lock()) self->arrived(std::move(starts));
        });
    notice_watch_ =
        parts.idle->watch_host(id_, control(), [weak = weak_from_this()](std::vector<HostNotice> notices) {
          if (auto self = weak.lock()) self->noticed(notices);
        });
    asio::post(control(), [self = shared_from_this()] { self->arm_announce(); });
  }

  HostId id() const { return id_; }
  const asio::any_io_executor& control() const { return executors.shards[0]; }

  absl::Status deploy(HostedFunction function) {
    if (!function.handle) return absl::InvalidArgumentError("deploy: the function handle is empty");
    if (function.keep_alive.count() <= 0)
      return absl::InvalidArgumentError("deploy: keep_alive must be positive");
    if (absl::Status valid = validate_function_name(function.spec.name); !valid.ok()) return valid;
    if (absl::Status valid = validate(function.lifetime); !valid.ok()) {
      return absl::InvalidArgumentError(
          absl::StrCat("deploy ", function.spec.name, ": ", std::string(valid.message())));
    }
    if (function.spec.limits.memory_bytes > options.limits.max_memory_bytes) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "deploy %s: one sandbox may use %d bytes of memory; all of this host together max_memory_bytes %d",
          function.spec.name, function.spec.limits.memory_bytes, options.limits.max_memory_bytes));
    }
    if (absl::Status checked = check(function); !checked.ok()) return checked;
    if (function.spec.minimum_isolation >= Isolation::process) {
      if (const std::string missing = parts.freezer->missing_limits(); !missing.empty()) {
        return absl::FailedPreconditionError(
            absl::StrFormat("deploy %s: minimum_isolation is %s, and the limits of %s are not enforced here; "
                            "minimum_isolation partial would accept it",
                            function.spec.name, to_string(function.spec.minimum_isolation), missing));
      }
    }
    const std::string name = function.spec.name;
    const Version version = function.spec.version;
    {
      MutexLock lock(mutex_);
      auto& current = functions_[name];
      if (current && current->spec.version > version) {
        return absl::AbortedError(absl::StrFormat("deploy %s version %d: version %d is current", name,
                                                  version, current->spec.version));
      }
      current = std::make_shared<const HostedVersion>(std::move(function));
    }
    if (version > 0) {
      asio::post(control(), [self = shared_from_this(), name, version] {
        self->end_starting(name, version - 1, "an older version");
        self->starts_.forget(name, version - 1);
        self->pump();
      });
    }
    return absl::OkStatus();
  }

  absl::Status remove(std::string_view function) {
    Version version = 0;
    {
      MutexLock lock(mutex_);
      auto known = functions_.find(function);
      if (known == functions_.end()) return absl::OkStatus();
      version = known->second->spec.version;
      functions_.erase(known);
      removed_.emplace_back(function, version);
      if (removed_.size() > kRemembered) removed_.pop_front();
    }
    asio::post(control(), [self = shared_from_this(), name = std::string(function), version] {
      self->end_starting(name, version, "its function was removed");
      self->starts_.forget(name, version);  // a newer one may be there already
      self->pump();
    });
    return absl::OkStatus();
  }

  std::vector<SandboxPtr> all() const {
    std::vector<SandboxPtr> sandboxes;
    MutexLock lock(mutex_);
    sandboxes.reserve(registry_.size());
    for (const auto& [number, sandbox] : registry_) sandboxes.push_back(sandbox);
    return sandboxes;
  }

  SandboxPtr find(const SandboxId& id) const {
    if (id.host != id_) return nullptr;
    MutexLock lock(mutex_);
    auto known = registry_.find(id.number);
    return known == registry_.end() ? nullptr : known->second;
  }

  void call(HostCall call, asio::any_io_executor home, Handler<HostReply> done) {
    HostShard& shard = *shards_[call.home_shard % shards_.size()];
    std::shared_ptr<std::atomic<bool>> cancelled = watch_for_cancel(shard, call, done);
    // On the home shard already: no hop, and the first send is made before this returns.
    asio::dispatch(shard.executor,
                   [self = shared_from_this(), &shard, cancelled = std::move(cancelled),
                    call = std::move(call), home = std::move(home), done = std::move(done)]() mutable {
                     if (cancelled && cancelled->load(std::memory_order_relaxed)) {
                       HostReply reply;
                       reply.status = absl::CancelledError(absl::StrCat(
                           "call on ", to_string(call.sandbox), ": cancelled by the caller before it began"));
                       reply.never_began = reply.clean = true;
                       reply.payload = std::move(call.payload);
                       return complete(home, std::move(done), std::move(reply));
                     }
                     self->call_here(shard, std::move(call), std::move(home), std::move(done));
                   });
  }

  void stop(asio::any_io_executor home, Handler<absl::Status> done) {
    stopping_.store(true, std::memory_order_relaxed);
    asio::post(control(),
               [self = shared_from_this(), home = std::move(home), done = std::move(done)]() mutable {
                 self->stoppers_.emplace_back(std::move(home), std::move(done));
                 if (!self->draining_) self->drain();
                 self->stopped_if_empty();
               });
  }

  // REQUIRES: stop() has completed, or no executor runs any more.
  void give_up() {
    if (stopped_.load(std::memory_order_acquire)) return;
    // Sandboxes and what waits for an answer hold this object, and this object holds them.
    start_watch_.reset();
    notice_watch_.reset();
    announce_timer_.reset();
    room_timer_.reset();
    repeats_.clear();
    stoppers_.clear();
    // All at once first: waiting for each in turn is then short.
    const std::vector<SandboxPtr> left = all();
    for (const SandboxPtr& sandbox : left) sandbox->kill_given_up();
    const auto deadline = std::chrono::steady_clock::now() + kGiveUpWait;
    for (const SandboxPtr& sandbox : left) sandbox->reap_given_up(deadline);
    for (const auto& shard : shards_) {
      shard->timers.reset();
      shard->sandboxes.clear();
    }
    {
      MutexLock lock(mutex_);
      registry_.clear();
    }
    // What the loops never ran may refer to this object for as long as they exist; to see the last of the
    // sandboxes, the freezer must not wait for that.
    seats.reset();
    parts = {};
  }

  // -- HostContext

  void became_ready(HostedSandbox& sandbox) override {
    asio::post(control(), [self = shared_from_this(), sandbox = sandbox.shared_from_this()] {
      if (sandbox->was_ready) return;
      sandbox->was_ready = true;
      self->starts_.ready(sandbox->start());
      self->starts_.may_evict();
      self->pump();
    });
  }

  void became_idle(HostedSandbox& sandbox) override {
    asio::post(control(), [self = shared_from_this(), sandbox = sandbox.shared_from_this()] {
      self->starts_.may_evict(sandbox->function().spec.name);
      self->pump();
    });
  }

  void was_reaped(SandboxPtr sandbox, absl::Status error) override {
    HostShard& shard = *shards_[sandbox->sandbox().home_shard % shards_.size()];
    asio::post(shard.executor, [self = shared_from_this(), &shard, sandbox = std::move(sandbox),
                                error]() mutable {
      shard.sandboxes.erase(sandbox->sandbox().id.number);
      asio::post(self->control(), [self, sandbox = std::move(sandbox), error = std::move(error)]() mutable {
        self->account(std::move(sandbox), std::move(error));
      });
    });
  }

 private:
  struct HostShard : Shard {
    absl::flat_hash_map<std::uint64_t, SandboxPtr> sandboxes;  // on the shard's thread
  };

  // On the home shard.
  void call_here(HostShard& shard, HostCall call, asio::any_io_executor home, Handler<HostReply> done) {
    auto known = call.sandbox.host == id_ ? shard.sandboxes.find(call.sandbox.number) : shard.sandboxes.end();
    const bool stopping = stopping_.load(std::memory_order_relaxed);
    if (!stopping && known != shard.sandboxes.end())
      return known->second->call(std::move(call), std::move(home), std::move(done));
    HostReply reply;
    if (stopping) {
      reply.status = absl::CancelledError("call: this host is stopping");
    } else {
      reply.status =
          absl::NotFoundError(absl::StrCat("call: no sandbox ", to_string(call.sandbox), " on this host"));
      reply.never_began = true;
    }
    reply.payload = std::move(call.payload);
    complete(home, std::move(done), std::move(reply));
  }

  // The flag that a cancellation raises at once; null: nobody can cancel this call.
  std::shared_ptr<std::atomic<bool>> watch_for_cancel(HostShard& shard, const HostCall& call,
                                                      const Handler<HostReply>& done) {
    auto slot = asio::get_associated_cancellation_slot(done);
    if (!slot.is_connected()) return nullptr;
    auto cancelled = std::make_shared<std::atomic<bool>>(false);
    slot.assign([weak = weak_from_this(), &shard, executor = shard.executor, cancelled, id = call.sandbox,
                 token = call.token, lease = call.lease](asio::cancellation_type_t type) {
      if (type == asio::cancellation_type::none) return;
      cancelled->store(true, std::memory_order_relaxed);
      asio::post(executor, [weak, &shard, id, token, lease] {
        auto self = weak.lock();  // and with it the shard
        if (!self) return;
        auto known = id.host == self->id_ ? shard.sandboxes.find(id.number) : shard.sandboxes.end();
        if (known != shard.sandboxes.end()) SandboxPtr(known->second)->cancel(token, lease);
      });
    });
    return cancelled;
  }

  // As its sandboxes would find it: with its code there.
  absl::Status check(const HostedFunction& function) {
    if (!function.code) return parts.factory->check(function.spec);
    const std::string& name = function.spec.name;
    if (!function.spec.code_path.empty()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("deploy %s: code is %s and code_path '%s': only one of "
                          "the two",
                          name, to_string(*function.code), function.spec.code_path));
    }
    if (!parts.codes) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "deploy %s: code is %s, and this host has no CodeStore", name, to_string(*function.code)));
    }
    absl::StatusOr<std::shared_ptr<CodeLease>> lease = parts.codes->open(*function.code);
    if (!lease.ok()) return lease.status();
    FunctionSpec spec = function.spec;
    spec.code_path = (*lease)->path();
    return parts.factory->check(spec);
  }

  bool is_current(const HostedFunction& function) const {
    MutexLock lock(mutex_);
    auto known = functions_.find(function.spec.name);
    return known != functions_.end() && known->second->spec.version == function.spec.version;
  }

  bool was_removed(const StartRequest& start) const {
    MutexLock lock(mutex_);
    return std::any_of(removed_.begin(), removed_.end(), [&](const auto& removed) {
      return removed.first == start.function && removed.second >= start.version;
    });
  }

  // ---- starts (all on the control thread from here on)

  // What starts in vain is ended now, so that its place is free for what is wanted.
  void end_starting(const std::string& function, Version up_to, const char* why) {
    for (const SandboxPtr& sandbox : all()) {
      if (sandbox->function().spec.name != function || sandbox->sandbox().version > up_to) continue;
      asio::post(sandbox->shard().executor, [sandbox, why] {
        if (sandbox->starting()) sandbox->dismiss(absl::CancelledError(why));
      });
    }
  }

  void arrived(std::vector<StartRequest> starts) {
    if (stopping_) return;
    const TimePoint now = this->now();
    for (StartRequest& start : starts) {
      const std::shared_ptr<const HostedVersion> function = find_function(start.function);
      starts_.arrived(std::move(start), now, function ? function->spec.limits.memory_bytes : 0);
    }
    pump();
  }

  std::shared_ptr<const HostedVersion> find_function(std::string_view name) const {
    MutexLock lock(mutex_);
    auto known = functions_.find(name);
    return known == functions_.end() ? nullptr : known->second;
  }

  void pump() {
    while (!stopping_) {
      StartMachine::Next next = starts_.next(now());
      give_back(starts_.given_up());
      switch (next.kind) {
        case StartMachine::Next::Kind::nothing:
          parts.starts->report_load(id_, starts_.queued() + starts_.starting());
          eviction_wanted.store(starts_.wants_eviction(), std::memory_order_relaxed);
          return arm_room_timer();
        case StartMachine::Next::Kind::begin: begin_start(std::move(next)); break;
        case StartMachine::Next::Kind::evict: make_room(next); break;
      }
    }
  }

  void arm_room_timer() {
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

  // Claimed for room, and not made after all.
  void give_back(const std::vector<StartRequest>& starts) {
    for (const StartRequest& start : starts) {
      auto known = claimed_.extract(start.id);
      if (known) report_gone({.function = known.mapped().function->handle, .sandbox = {}, .start = start.id});
    }
  }

  // nullptr: it is not made here. Unclaimed, it is sent again if it is wanted.
  std::shared_ptr<const HostedVersion> to_make(const StartRequest& start, std::uint64_t bytes) {
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
  std::uint64_t counted_size(const HostedFunction& function) const {
    return options.limits.max_memory_bytes == kNoMemoryBudget ? 0 : function.spec.limits.memory_bytes;
  }

  void begin_start(StartMachine::Next next) {
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

  void report_unknown(const StartRequest& start, const HostedFunction* function) {
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

  struct Claim {
    StartRequest start;
    std::shared_ptr<const HostedVersion> function;
    SandboxId id;
    TimePoint arrived;
    bool needs_room;
  };
  void claim(Claim what) {
    ++claims_;
    ask_for(std::move(what));
  }

  void ask_for(Claim what) {
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
              self->report_gone({.function = what.function->handle, .sandbox = {}, .start = what.start.id});
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

  void claimed(Claim what) {
    if (!what.needs_room)
      return create(std::move(what.start), std::move(what.function), what.id, what.arrived);
    if (starts_.claimed(what.start, now())) {
      claimed_.emplace(what.start.id, Claimed{.function = std::move(what.function), .id = what.id});
    } else {
      report_gone({.function = what.function->handle, .sandbox = {}, .start = what.start.id});
    }
  }

  void not_claimed(const Claim& what) {
    if (what.needs_room) {
      starts_.not_claimed(what.start);
    } else {
      starts_.dropped(what.start.id);
    }
  }

  void create(StartRequest start, std::shared_ptr<const HostedVersion> function, SandboxId id,
              TimePoint arrived) {
    HostShard& shard = *shards_[next_shard_++ % shards_.size()];
    const Sandbox descriptor{.id = id, .version = start.version, .home_shard = shard.index};
    auto sandbox =
        std::make_shared<HostedSandbox>(shared_from_this(), shard, std::move(function), descriptor, start.id,
                                        std::uniform_real_distribution<double>()(random_));
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

  // On the blocking executor.
  absl::StatusOr<NewSandbox> make(const HostedSandbox& sandbox, TimePoint arrived) {
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

  // The idle sandbox used least recently makes room, but none that the start would only make again; and only
  // for a start that somebody wants.
  void make_room(const StartMachine::Next& next) {
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

  SandboxPtr least_recently_used(const StartMachine::Next& next) const {
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

  void evict(const SandboxPtr& victim, const StartRequest& start) {
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

  void account(SandboxPtr sandbox, absl::Status error) {
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

  void report_failed(FunctionHandle function, StartId start, SandboxId id, absl::Status why) {
    StartFailedParams params{.function = function, .start = start, .sandbox = id, .why = why};
    parts.idle->async_start_failed(
        std::move(params), asio::bind_executor(control(), [self = shared_from_this(), function, start, id,
                                                           why](absl::Status status) {
          if (absl::IsUnavailable(status)) {
            self->later([self, function, start, id, why] { self->report_failed(function, start, id, why); });
          }
        }));
  }

  void report_gone(GoneParams params) {
    parts.idle->async_gone(
        params, asio::bind_executor(control(), [self = shared_from_this(), params](absl::Status status) {
          if (absl::IsUnavailable(status)) self->later([self, params] { self->report_gone(params); });
        }));
  }

  // ---- what the queue asks, and what it is told

  void noticed(const std::vector<HostNotice>& notices) {
    for (const HostNotice& notice : notices) {
      SandboxPtr sandbox = find(notice.sandbox);
      if (!sandbox) continue;
      asio::post(sandbox->shard().executor, [sandbox, notice] {
        if (notice.kind == HostNotice::Kind::retire) {
          sandbox->retire("the queue retired it");
        } else {
          sandbox->answer_lease(notice.token, notice.lease, true);
        }
      });
    }
  }

  void arm_announce() {
    if (stopping_) return;
    announce_timer_->arm(after(parts.clock->now(), options.announce_period), [weak = weak_from_this()] {
      if (auto self = weak.lock()) self->gather();
    });
  }

  struct Gathering {
    std::size_t missing = 0;
    std::vector<AnnouncedSandbox> sandboxes;
  };

  void gather() {
    arm_announce();
    for (const SandboxPtr& sandbox : all()) sandbox->kept_at = 0;
    starts_.may_evict();
    pump();
    auto gathering = std::make_shared<Gathering>();
    gathering->missing = shards_.size();
    for (const auto& shard : shards_) {
      asio::post(shard->executor, [self = shared_from_this(), gathering, shard = shard.get()] {
        std::vector<AnnouncedSandbox> part;
        for (const auto& [number, sandbox] : shard->sandboxes) {
          // Reaped, and its groups are being removed: how it ended is reported, and it must not come back.
          if (!sandbox->gone()) part.push_back(sandbox->announced());
        }
        asio::post(self->control(), [self, gathering, part = std::move(part)] {
          gathering->sandboxes.insert(gathering->sandboxes.end(), part.begin(), part.end());
          if (--gathering->missing == 0) self->announce(std::move(gathering->sandboxes));
        });
      });
    }
  }

  void announce(std::vector<AnnouncedSandbox> sandboxes) {
    AnnounceParams params{.host = id_, .sandboxes = std::move(sandboxes)};
    parts.idle->async_announce(
        std::move(params), asio::bind_executor(control(), [self = shared_from_this()](
                                                              absl::StatusOr<std::vector<HeldSandbox>> held) {
          if (held.ok()) self->reconcile(*held);
        }));
  }

  // The host is the truth about what exists; the queue about what it has promised.
  void reconcile(const std::vector<HeldSandbox>& held) {
    for (const HeldSandbox& record : held) {
      SandboxPtr sandbox = find(record.id);
      if (!sandbox) {
        absl::StatusOr<FunctionHandle> handle = parts.idle->resolve(record.function);
        if (handle.ok()) report_gone({.function = *handle, .sandbox = record.id, .start = {}});
        continue;
      }
      asio::post(sandbox->shard().executor, [sandbox, record] {
        if (record.state == SandboxState::retiring) {
          sandbox->retire("the queue holds it as retiring");
        } else if (record.state == SandboxState::leased) {
          sandbox->answer_lease(record.token, record.lease, record.suspect);
        }
      });
    }
  }

  // ---- the end

  void drain() {
    draining_ = true;
    announce_timer_->cancel();
    room_timer_->cancel();
    for (auto& [start, claimed] : std::exchange(claimed_, {}))
      report_gone({.function = claimed.function->handle, .sandbox = {}, .start = start});
    start_watch_.reset();
    HostParams params{.host = id_};
    parts.idle->async_drain(params, asio::bind_executor(control(), [](absl::Status) {}));
    asio::post(executors.blocking, [self = shared_from_this()] {
      self->seats->dispose([self] {
        asio::post(self->control(), [self] {
          self->seats_disposed_ = true;
          self->stopped_if_empty();
        });
      });
    });
    for (const SandboxPtr& sandbox : all()) {
      asio::post(sandbox->shard().executor,
                 [sandbox] { sandbox->dismiss(absl::CancelledError("this host is stopping")); });
    }
  }

  void stopped_if_empty() {
    // A claim that is under way may still be granted, and is given back then.
    if (!draining_ || !seats_disposed_ || stoppers_.empty() || claims_ > 0 || starts_.starting() > 0) return;
    {
      MutexLock lock(mutex_);
      if (!registry_.empty()) return;
    }
    notice_watch_.reset();
    // From here on the queue need not be there any more.
    stopped_.store(true, std::memory_order_release);
    repeats_.clear();
    for (auto& [home, done] : stoppers_) complete(home, std::move(done), absl::OkStatus());
    stoppers_.clear();
  }

  // Once more, a little later: the queue could not be reached.
  void later(absl::AnyInvocable<void()> what) {
    if (stopped_) return;
    const std::uint64_t key = ++last_repeat_;
    Timer& timer = *(repeats_[key] = parts.clock->make_timer(control()));
    timer.arm(parts.clock->now() + kRepeat, [this, key, what = std::move(what)]() mutable {
      absl::AnyInvocable<void()> now = std::move(what);
      repeats_.erase(key);
      now();
    });
  }

  const HostId id_;
  std::vector<std::unique_ptr<HostShard>> shards_;
  std::atomic<bool> stopping_{false};
  std::atomic<bool> stopped_{false};
  mutable Mutex mutex_;
  std::map<std::string, std::shared_ptr<const HostedVersion>, std::less<>> functions_
      FAASKIT_GUARDED_BY(mutex_);
  std::deque<std::pair<std::string, Version>> removed_ FAASKIT_GUARDED_BY(mutex_);  // the last few
  absl::flat_hash_map<std::uint64_t, SandboxPtr> registry_ FAASKIT_GUARDED_BY(mutex_);

  struct Claimed {
    std::shared_ptr<const HostedVersion> function;
    SandboxId id;
  };

  // On the control thread.
  StartMachine starts_;
  std::mt19937_64 random_{random_id()};
  std::deque<StartId> unknown_;  // reported as such
  std::uint64_t last_number_ = 0;
  std::uint64_t next_shard_ = 0;
  std::uint64_t claims_ = 0;            // under way
  std::map<StartId, Claimed> claimed_;  // for room, which they wait for
  std::unique_ptr<Timer> announce_timer_;
  std::unique_ptr<Timer> room_timer_;
  TimePoint room_timer_at_ = TimePoint::max();
  std::unique_ptr<Watch> start_watch_;
  std::unique_ptr<Watch> notice_watch_;
  std::uint64_t last_repeat_ = 0;
  std::map<std::uint64_t, std::unique_ptr<Timer>> repeats_;
  bool draining_ = false;
  bool seats_disposed_ = false;
  std::vector<std::pair<asio::any_io_executor, Handler<absl::Status>>> stoppers_;
};

class LocalHostImpl final : public LocalHost {
 public:
  explicit LocalHostImpl(std::shared_ptr<Host> host) : host_(std::move(host)) {}
  ~LocalHostImpl() override { host_->give_up(); }

  executor_type get_executor() const override { return host_->control(); }
  HostId id() const override { return host_->id(); }
  absl::Status deploy(HostedFunction function) override { return host_->deploy(std::move(function)); }
  absl::Status remove(std::string_view function) override { return host_->remove(function); }

  std::vector<SandboxView> sandboxes() const override {
    std::vector<SandboxView> views;
    for (const SandboxPtr& sandbox : host_->all()) views.push_back(sandbox->view());
    return views;
  }

  std::optional<KernelCheck> check_kernel(SandboxId id) const override {
    SandboxPtr sandbox = host_->find(id);
    if (!sandbox) return std::nullopt;
    std::promise<std::optional<bool>> promise;
    std::future<std::optional<bool>> answer = promise.get_future();
    KernelCheck check;
    check.before = sandbox->view();
    asio::post(sandbox->shard().executor, [sandbox, promise = std::move(promise)]() mutable {
      promise.set_value(sandbox->kernel_frozen());
    });
    if (answer.wait_for(std::chrono::seconds(2)) != std::future_status::ready) return std::nullopt;
    const std::optional<bool> frozen = answer.get();
    if (!frozen) return std::nullopt;
    check.frozen = *frozen;
    check.after = sandbox->view();
    return check;
  }

  absl::Status destroy(SandboxId id) override {
    SandboxPtr sandbox = host_->find(id);
    if (!sandbox)
      return absl::NotFoundError(absl::StrCat("destroy: no sandbox ", to_string(id), " on this host"));
    asio::post(sandbox->shard().executor,
               [sandbox] { sandbox->dismiss(absl::CancelledError("destroyed by the host application")); });
    return absl::OkStatus();
  }

 private:
  void do_call(HostCall call, asio::any_io_executor home, Handler<HostReply> done) override {
    host_->call(std::move(call), std::move(home), std::move(done));
  }
  void do_stop(StopParams, asio::any_io_executor home, Handler<absl::Status> done) override {
    host_->stop(std::move(home), std::move(done));
  }

  const std::shared_ptr<Host> host_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LocalHost>> make_local_host(HostExecutors executors, LocalHostParts parts,
                                                           LocalHostOptions options) {
  if (executors.shards.empty() || !executors.blocking) {
    return absl::InvalidArgumentError(
        "make_local_host: at least one shard and a blocking executor are needed");
  }
  if (options.limits.max_sandboxes == 0 || options.limits.max_concurrent_starts == 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "make_local_host: max_sandboxes %d, max_concurrent_starts %d: both must be at least 1",
        options.limits.max_sandboxes, options.limits.max_concurrent_starts));
  }
  if (options.limits.max_memory_bytes == 0 || options.limits.room_wait.count() <= 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("make_local_host: max_memory_bytes %d, room_wait %d ms: both must be positive",
                        options.limits.max_memory_bytes, options.limits.room_wait.count()));
  }
  if (options.grace.count() < 0 || options.announce_period.count() <= 0) {
    return absl::InvalidArgumentError(
        "make_local_host: grace must not be negative, announce_period must be positive");
  }
  if (parts.idle == nullptr || parts.starts == nullptr || !parts.freezer || !parts.factory ||
      !parts.channels) {
    return absl::InvalidArgumentError(
        "make_local_host: idle, starts, freezer, factory and channels must be given");
  }
  if (!parts.clock) parts.clock = make_steady_clock();
  auto host = std::make_shared<Host>(std::move(executors), std::move(parts), options);
  host->begin();
  return std::make_unique<LocalHostImpl>(std::move(host));
}

}  // namespace faaskit
