#include "faaskit/memory/idle_queue.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <mutex>
#include <random>
#include <shared_mutex>
#include <utility>

#include <absl/container/btree_map.h>
#include <absl/container/flat_hash_map.h>
#include <absl/container/flat_hash_set.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <boost/asio/associated_cancellation_slot.hpp>

#include "faaskit/core/function_queue.h"
#include "memory/timetable.h"
#include "memory/watches.h"
#include "support/mutex.h"

namespace faaskit::memory {
namespace {

class Core;

struct Waiter final : FunctionQueue::Waiter {
  Waiter(Handler<absl::StatusOr<Lease>> handler, asio::any_io_executor executor)
      : done(std::move(handler)), home(std::move(executor)) {}
  Handler<absl::StatusOr<Lease>> done;
  asio::any_io_executor home;
  TimePoint deadline;
};

}  // namespace

// One function: its mutex guards all of it. Lives until its core is gone and its last lease is settled.
struct alignas(64) Function final : LeaseOwner {
  Function(Core& owner, std::string name, std::uint64_t nonce, std::uint32_t shards,
           asio::any_io_executor executor)
      : core(&owner), queue(std::move(name), nonce, shards), fallback(std::move(executor)) {}

  void settle(const LeaseGrant& grant, Outcome outcome) noexcept override;
  void settle_and_tell(const LeaseGrant& grant, Outcome outcome, asio::any_io_executor home,
                       Handler<absl::Status> done) override;
  asio::any_io_executor get_executor() const override { return fallback; }

  // What a warm call touches is together: a cache line missed costs as much as the lock.
  Mutex mutex;
  Core* core FAASKIT_GUARDED_BY(mutex);                     // null once the queue is destroyed
  bool kept FAASKIT_GUARDED_BY(mutex) = true;               // false once the core is gone, too
  std::uint64_t outstanding FAASKIT_GUARDED_BY(mutex) = 0;  // leases not yet settled
  FunctionQueue queue FAASKIT_GUARDED_BY(mutex);
  FunctionQueue::Effects effects FAASKIT_GUARDED_BY(mutex);  // of the step that runs; empty between steps
  TimePoint event_armed FAASKIT_GUARDED_BY(mutex) = kNever;
  bool listed FAASKIT_GUARDED_BY(mutex) = false;  // among the repairable ones of its core
  bool vacant FAASKIT_GUARDED_BY(mutex) = false;  // and so counted by its core
  const asio::any_io_executor fallback;
};

namespace {

Lease make_lease(Function& function, FunctionQueue::Record& record) FAASKIT_REQUIRES(function.mutex) {
  function.queue.pin(record);
  ++function.outstanding;
  return Lease(function, {.sandbox = record.sandbox,
                          .token = record.token,
                          .id = record.lease,
                          .ticket = record.ticket,
                          .start = record.start_kind,
                          .cross_shard = record.cross_shard,
                          .record = &record});
}

// What a step decided, taken out of the lock to be done.
struct Deferred {
  struct Completion {
    std::unique_ptr<Waiter> waiter;
    absl::StatusOr<Lease> result;
  };
  std::vector<Completion> completions;
  std::vector<StartRequest> starts;
  InvokerId starts_for = 0;
  std::vector<HostNotice> notices;
  TimePoint event = kNever;
};

class Core final : public std::enable_shared_from_this<Core> {
 public:
  Core(asio::any_io_executor executor, IdleQueueOptions options)
      : executor_(std::move(executor)), options_(std::move(options)), random_(options_.seed) {}

  // Once, before anything else.
  void open() {
    timetable_ = std::make_shared<Timetable>(executor_, options_.clock,
                                             [weak = weak_from_this()](const Timetable::Entry& entry) {
                                               if (auto self = weak.lock()) self->due(entry);
                                             });
  }

  const asio::any_io_executor& executor() const { return executor_; }

  // A timer or a settled lease may be at work on a function while its queue is destroyed; they hold us.
  ~Core() {
    for (auto& [name, function] : functions_) {
      bool last = false;
      {
        MutexLock lock(function->mutex);
        function->kept = false;
        last = function->outstanding == 0;
      }
      if (last) delete function;
    }
  }

  // Called by the queue's destructor. Waiting operations end as cancelled.
  void close() {
    for (Function* function : all_functions()) {
      std::vector<std::unique_ptr<Waiter>> ended;
      {
        MutexLock lock(function->mutex);
        function->core = nullptr;
        for (const FunctionQueue::Waiter* waiter : function->queue.waiters()) {
          ended.emplace_back(static_cast<Waiter*>(const_cast<FunctionQueue::Waiter*>(waiter)));
        }
        for (auto& waiter : ended)
          function->queue.cancel(waiter->request, waiter->attempt, {}, function->effects);
        function->effects.clear();
      }
      for (auto& waiter : ended) {
        finish(std::move(waiter), absl::CancelledError("the idle queue was destroyed"));
      }
    }
  }

  absl::StatusOr<FunctionHandle> resolve(std::string_view name) {
    {
      std::shared_lock lock(functions_mutex_);
      auto known = functions_.find(name);
      if (known != functions_.end()) return FunctionHandle(known->second);
    }
    if (absl::Status valid = validate_function_name(name); !valid.ok()) return valid;
    std::unique_lock lock(functions_mutex_);
    auto known = functions_.find(name);
    if (known != functions_.end()) return FunctionHandle(known->second);
    if (const std::size_t counted = functions_.size() - vacant_; counted >= options_.max_functions) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "resolve %s: %d functions are known; max_functions is %d", name, counted, options_.max_functions));
    }
    auto* function = new Function(*this, std::string(name), random_number() | 1, options_.shards, executor_);
    for (const HostId host : drained_) {
      MutexLock guard(function->mutex);
      function->queue.drain(host, {}, function->effects);
    }
    functions_.emplace(std::string(name), function);
    return FunctionHandle(function);
  }

  std::optional<Lease> try_acquire(const TryAcquireParams& params) {
    Function& function = *static_cast<Function*>(params.function.get());
    MutexLock lock(function.mutex);
    FunctionQueue::Record* record = function.queue.try_acquire(params.request, params.attempt, params.shard);
    if (record == nullptr) return std::nullopt;
    return make_lease(function, *record);
  }

  void acquire(AcquireParams params, asio::any_io_executor home, Handler<absl::StatusOr<Lease>> done) {
    Function& function = *static_cast<Function*>(params.function.get());
    // A call that finds an idle sandbox does not become a waiter first.
    if (std::optional<Lease> lease = acquire_idle(function, params)) {
      complete(home, std::move(done), absl::StatusOr<Lease>(*std::move(lease)));
      return;
    }
    auto slot = asio::get_associated_cancellation_slot(done);
    if (slot.is_connected()) {
      slot.assign([weak = weak_from_this(), &function, request = params.request,
                   attempt = params.attempt](asio::cancellation_type_t type) {
        if (type == asio::cancellation_type::none) return;
        if (auto self = weak.lock()) {
          self->give_up(function, request, attempt, absl::CancelledError("acquire: cancelled by the caller"));
        }
      });
    }
    auto waiter = std::make_unique<Waiter>(std::move(done), std::move(home));
    waiter->request = params.request;
    waiter->attempt = params.attempt;
    waiter->priority = params.priority;
    waiter->ticket = params.ticket;
    waiter->shard = params.shard;
    waiter->previous = params.previous;
    waiter->previous_sandbox = params.previous_sandbox;
    waiter->previous_token = params.previous_token;
    waiter->deadline = params.deadline;

    Deferred deferred;
    {
      MutexLock lock(function.mutex);
      const TimePoint now = options_.clock->now();
      FunctionQueue::AcquireResult result = function.queue.acquire(*waiter, now, function.effects);
      // First, so that its deadline is not taken for the new one's.
      if (result.superseded != nullptr) {
        deferred.completions.push_back(
            {take_back(function, result.superseded),
             absl::AbortedError("acquire: a newer attempt took this one's place")});
      }
      switch (result.outcome) {
        case FunctionQueue::AcquireOutcome::leased:
          deferred.completions.push_back({std::move(waiter), make_lease(function, *result.record)});
          break;
        case FunctionQueue::AcquireOutcome::refused:
          deferred.completions.push_back({std::move(waiter), std::move(result.status)});
          break;
        case FunctionQueue::AcquireOutcome::stale:
          deferred.completions.push_back(
              {std::move(waiter), absl::AbortedError("acquire: a newer attempt of this request is known")});
          break;
        case FunctionQueue::AcquireOutcome::queued:
          if (waiter->deadline <= now) {
            (void)function.queue.cancel(waiter->request, waiter->attempt, now, function.effects);
            deferred.completions.push_back({std::move(waiter), deadline_error(function)});
          } else {
            timetable_->add(deadline_entry(function, *waiter));
            (void)waiter.release();  // in line now; comes back through a grant, a failure or a cancel
          }
          break;
      }
      collect(function, deferred);
    }
    perform(function, std::move(deferred));
  }

  std::optional<Lease> acquire_idle(Function& function, const AcquireParams& params) {
    MutexLock lock(function.mutex);
    FunctionQueue::Record* record =
        function.queue.acquire_idle(params.request, params.attempt, params.ticket, params.shard);
    if (record == nullptr) return std::nullopt;
    note_repairable(function);
    return make_lease(function, *record);
  }

  // Ends a waiting acquire with `why`; a lease that was granted to it meanwhile is delivered instead.
  void give_up(Function& function, const RequestId& request, std::uint32_t attempt, absl::Status why) {
    Deferred deferred;
    {
      MutexLock lock(function.mutex);
      const FunctionQueue::Waiter* waiter = function.queue.find_waiter(request);
      if (waiter == nullptr || waiter->attempt > attempt) return;
      FunctionQueue::Waiter* ended =
          function.queue.cancel(request, attempt, options_.clock->now(), function.effects);
      deferred.completions.push_back({take_back(function, ended), std::move(why)});
      collect(function, deferred);
    }
    perform(function, std::move(deferred));
  }

  // Runs one step of a function's machine under its lock, and does what it decided outside of it.
  template <class Step>
  auto run(Function& function, Step step) {
    Deferred deferred;
    decltype(step(function.queue, TimePoint{}, function.effects)) result;
    {
      MutexLock lock(function.mutex);
      result = step(function.queue, options_.clock->now(), function.effects);
      collect(function, deferred);
    }
    perform(function, std::move(deferred));
    return result;
  }

  absl::Status cancel(const CancelParams& params) {
    Function& function = *static_cast<Function*>(params.function.get());
    Deferred deferred;
    {
      MutexLock lock(function.mutex);
      FunctionQueue::Waiter* ended =
          function.queue.cancel(params.request, params.attempt, options_.clock->now(), function.effects);
      if (ended != nullptr) {
        deferred.completions.push_back(
            {take_back(function, ended), absl::CancelledError("acquire: cancelled")});
      }
      collect(function, deferred);
    }
    perform(function, std::move(deferred));
    return absl::OkStatus();
  }

  absl::Status offer(const OfferParams& params) {
    Function& function = *static_cast<Function*>(params.function.get());
    if (params.offer.fresh()) note_host(params.offer.sandbox.id.host, function);
    return run(function, [&](FunctionQueue& queue, TimePoint now, FunctionQueue::Effects& effects) {
      return queue.offer(params.offer, now, effects);
    });
  }

  absl::StatusOr<std::vector<HeldSandbox>> announce(const AnnounceParams& params) {
    std::map<Function*, std::vector<AnnouncedSandbox>> by_function;
    for (Function* function : functions_of(params.host)) by_function[function];
    for (const AnnouncedSandbox& sandbox : params.sandboxes) {
      if (sandbox.sandbox.id.host != params.host) {
        return absl::InvalidArgumentError(absl::StrFormat("announce of host %x: %s is not its own",
                                                          params.host, to_string(sandbox.sandbox.id)));
      }
      absl::StatusOr<FunctionHandle> handle = resolve(sandbox.function);
      if (!handle.ok()) return handle.status();
      auto* function = static_cast<Function*>(handle->get());
      note_host(params.host, *function);
      by_function[function].push_back(sandbox);
    }
    std::vector<HeldSandbox> held;
    for (auto& [function, sandboxes] : by_function) {
      auto part = run(*function, [&](FunctionQueue& queue, TimePoint now, FunctionQueue::Effects& effects) {
        return queue.announce(params.host, sandboxes, now, effects);
      });
      held.insert(held.end(), part.begin(), part.end());
    }
    return held;
  }

  absl::Status purge(InvokerId invoker) {
    for (Function* function : all_functions()) {
      Deferred deferred;
      {
        MutexLock lock(function->mutex);
        const TimePoint now = options_.clock->now();
        for (FunctionQueue::Waiter* waiter : function->queue.purge(invoker, now, function->effects)) {
          deferred.completions.push_back(
              {take_back(*function, waiter),
               absl::CancelledError(absl::StrFormat("acquire: invoker %x was purged", invoker))});
        }
        collect(*function, deferred);
      }
      perform(*function, std::move(deferred));
    }
    return absl::OkStatus();
  }

  absl::Status drain(HostId host) {
    {
      std::unique_lock lock(functions_mutex_);
      if (std::find(drained_.begin(), drained_.end(), host) == drained_.end()) drained_.push_back(host);
    }
    for (Function* function : all_functions()) {
      run(*function, [&](FunctionQueue& queue, TimePoint now, FunctionQueue::Effects& effects) {
        queue.drain(host, now, effects);
        return true;
      });
    }
    return absl::OkStatus();
  }

  absl::Status take_over(HostId dead) {
    {
      std::unique_lock lock(functions_mutex_);
      std::erase(drained_, dead);
    }
    for (Function* function : all_functions()) {
      run(*function, [&](FunctionQueue& queue, TimePoint now, FunctionQueue::Effects& effects) {
        queue.take_over(dead, now, effects);
        return true;
      });
    }
    MutexLock lock(hosts_mutex_);
    hosts_.erase(dead);
    return absl::OkStatus();
  }

  RepairReport repair(InvokerId invoker) {
    RepairReport report;
    for (Function* function : repairable_functions()) {
      run(*function, [&](FunctionQueue& queue, TimePoint now, FunctionQueue::Effects& effects) {
        queue.repair(invoker, now, report, effects);
        return true;
      });
      forget_repairable(*function);
    }
    return report;
  }

  void note_host(HostId host, Function& function) {
    MutexLock lock(hosts_mutex_);
    hosts_[host].insert(&function);
  }

  double jitter() {
    MutexLock lock(random_mutex_);
    return std::uniform_real_distribution<double>(0, 1)(random_);
  }

  const std::shared_ptr<Watches<StartRequest>> start_watches = std::make_shared<Watches<StartRequest>>();
  const std::shared_ptr<Watches<HostNotice>> host_watches = std::make_shared<Watches<HostNotice>>();

  // -- For leases

  void collect(Function& function, Deferred& deferred) FAASKIT_REQUIRES(function.mutex) {
    FunctionQueue::Effects& effects = function.effects;
    for (FunctionQueue::Grant& grant : effects.grants) {
      deferred.completions.push_back(
          {take_back(function, grant.waiter), make_lease(function, *grant.record)});
    }
    for (FunctionQueue::Failure& failure : effects.failures) {
      deferred.completions.push_back({take_back(function, failure.waiter), std::move(failure.status)});
    }
    deferred.starts.insert(deferred.starts.end(), effects.starts.begin(), effects.starts.end());
    if (!effects.starts.empty()) deferred.starts_for = effects.starts_for;
    deferred.notices.insert(deferred.notices.end(), effects.notices.begin(), effects.notices.end());
    effects.clear();
    note_repairable(function);
    if (const bool vacant = function.queue.vacant(); vacant != function.vacant) {
      function.vacant = vacant;
      vacant ? ++vacant_ : --vacant_;
    }
    const TimePoint event = function.queue.next_event();
    if (event < function.event_armed) {
      function.event_armed = event;
      deferred.event = event;
    }
  }

  void perform(Function& function, Deferred deferred) {
    for (Deferred::Completion& completion : deferred.completions) {
      finish(std::move(completion.waiter), std::move(completion.result));
    }
    if (!deferred.starts.empty()) {
      start_watches->tell(deferred.starts_for, true, std::move(deferred.starts));
    }
    while (!deferred.notices.empty()) {
      const HostId host = deferred.notices.front().sandbox.host;
      std::vector<HostNotice> batch;
      std::erase_if(deferred.notices, [&](HostNotice& notice) {
        if (notice.sandbox.host != host) return false;
        batch.push_back(std::move(notice));
        return true;
      });
      host_watches->tell(host, false, std::move(batch));
    }
    if (deferred.event != kNever) {
      timetable_->add({.when = deferred.event, .function = &function, .kind = Timetable::Kind::event});
    }
  }

  TimePoint now() const { return options_.clock->now(); }

 private:
  static Timetable::Entry deadline_entry(Function& function, const Waiter& waiter) {
    return {.when = waiter.deadline,
            .function = &function,
            .kind = Timetable::Kind::deadline,
            .request = waiter.request,
            .attempt = waiter.attempt};
  }

  void due(const Timetable::Entry& entry) {
    Function& function = *entry.function;
    if (entry.kind == Timetable::Kind::deadline) {
      absl::Status why;
      {
        MutexLock lock(function.mutex);
        why = deadline_error(function);
      }
      give_up(function, entry.request, entry.attempt, std::move(why));
      return;
    }
    run(function, [&](FunctionQueue& queue, TimePoint now, FunctionQueue::Effects& effects)
                      FAASKIT_NO_THREAD_SAFETY_ANALYSIS {
                        function.event_armed = kNever;
                        queue.evaluate(now, effects);
                        return true;
                      });
  }

  static absl::Status deadline_error(Function& function) FAASKIT_REQUIRES(function.mutex) {
    const QueueStats stats = function.queue.stats();
    std::string why =
        absl::StrFormat("acquire %s: nothing came by the deadline (%d live, %d starting, %d other waiters)",
                        function.queue.name(), stats.live(), stats.starts_in_flight, stats.waiters);
    if (const std::uint32_t failed = function.queue.failures_in_a_row(); failed > 0) {
      absl::StrAppendFormat(&why, "; starts that failed in a row: %d, the last: %s", failed,
                            function.queue.last_start_error().ToString());
    }
    return absl::DeadlineExceededError(why);
  }

  // The machine let go of a waiter; it is ours to complete.
  std::unique_ptr<Waiter> take_back(Function& function, FunctionQueue::Waiter* waiter)
      FAASKIT_REQUIRES(function.mutex) {
    std::unique_ptr<Waiter> ours(static_cast<Waiter*>(waiter));
    timetable_->remove(deadline_entry(function, *ours));
    return ours;
  }

  static void finish(std::unique_ptr<Waiter> waiter, absl::StatusOr<Lease> result) {
    asio::any_io_executor home = std::move(waiter->home);
    asio::post(home, [done = std::move(waiter->done), result = std::move(result)]() mutable {
      // On the handler's own executor, where its slot may be touched.
      if (auto slot = asio::get_associated_cancellation_slot(done); slot.is_connected()) slot.clear();
      std::move(done)(std::move(result));
    });
  }

  std::vector<Function*> all_functions() const {
    std::vector<Function*> all;
    std::shared_lock lock(functions_mutex_);
    all.reserve(functions_.size());
    for (const auto& [name, function] : functions_) all.push_back(function);
    return all;
  }

  // Put there once, by the first call that needs it; taken out by a repair that finds nothing to do.
  void note_repairable(Function& function) FAASKIT_REQUIRES(function.mutex) {
    if (function.listed || !function.queue.repairable()) return;
    function.listed = true;
    MutexLock lock(repairable_mutex_);
    repairable_.emplace(function.queue.name(), &function);
  }
  void forget_repairable(Function& function) {
    MutexLock guard(function.mutex);
    if (!function.listed || function.queue.repairable()) return;
    function.listed = false;
    MutexLock lock(repairable_mutex_);
    repairable_.erase(function.queue.name());
  }
  std::vector<Function*> repairable_functions() {
    std::vector<Function*> some;
    MutexLock lock(repairable_mutex_);
    some.reserve(repairable_.size());
    for (const auto& [name, function] : repairable_) some.push_back(function);
    return some;
  }

  std::vector<Function*> functions_of(HostId host) {
    MutexLock lock(hosts_mutex_);
    auto known = hosts_.find(host);
    if (known == hosts_.end()) return {};
    return {known->second.begin(), known->second.end()};
  }

  std::uint64_t random_number() {
    MutexLock lock(random_mutex_);
    return random_();
  }

  const asio::any_io_executor executor_;
  const IdleQueueOptions options_;
  mutable std::shared_mutex functions_mutex_;
  std::map<std::string, Function*, std::less<>> functions_;
  std::vector<HostId> drained_;
  std::atomic<std::size_t> vacant_ = 0;  // of functions_
  Mutex hosts_mutex_;
  absl::flat_hash_map<HostId, absl::flat_hash_set<Function*>> hosts_ FAASKIT_GUARDED_BY(hosts_mutex_);
  // Functions in which somebody waits or holds a lease that could be lost. Locked after a function's mutex.
  Mutex repairable_mutex_;
  absl::btree_map<std::string_view, Function*> repairable_ FAASKIT_GUARDED_BY(repairable_mutex_);
  Mutex random_mutex_;
  std::mt19937_64 random_ FAASKIT_GUARDED_BY(random_mutex_);
  std::shared_ptr<Timetable> timetable_;
};

}  // namespace

void Function::settle(const LeaseGrant& grant, Outcome outcome) noexcept {
  auto& record = *static_cast<FunctionQueue::Record*>(grant.record);
  bool last = false;
  {
    MutexLock lock(mutex);
    // On the warm path nobody waits, and then nothing asks for the time or has effects.
    if (outcome != Outcome::reusable || core == nullptr ||
        !queue.release_idle(record, grant.token, grant.id)) {
      if (core != nullptr) {
        queue.settle(record, grant.token, grant.id, outcome, core->now(), effects);
        if (!effects.empty()) {
          std::shared_ptr<Core> busy = core->shared_from_this();
          Deferred deferred;
          busy->collect(*this, deferred);
          queue.unpin(record);
          --outstanding;
          lock.unlock();
          return busy->perform(*this, std::move(deferred));
        }
      }
    }
    queue.unpin(record);
    last = --outstanding == 0 && !kept;
  }
  if (last) delete this;
}

void Function::settle_and_tell(const LeaseGrant& grant, Outcome outcome, asio::any_io_executor home,
                               Handler<absl::Status> done) {
  settle(grant, outcome);
  complete(home, std::move(done), absl::OkStatus());
}

namespace {

class MemoryIdleQueue final : public IdleQueue {
 public:
  MemoryIdleQueue(asio::any_io_executor executor, IdleQueueOptions options)
      : core_(std::make_shared<Core>(std::move(executor), std::move(options))) {
    core_->open();
  }
  ~MemoryIdleQueue() override { core_->close(); }

  executor_type get_executor() const override { return core_->executor(); }
  absl::StatusOr<FunctionHandle> resolve(std::string_view function) override {
    return core_->resolve(function);
  }
  std::string_view name(FunctionHandle handle) const override {
    Function& function = of(handle);
    MutexLock lock(function.mutex);
    return function.queue.name();
  }
  std::optional<Lease> try_acquire(const TryAcquireParams& params) override {
    return core_->try_acquire(params);
  }
  std::optional<absl::Status> try_offer(const OfferParams& params) override { return core_->offer(params); }

  std::unique_ptr<Watch> watch_starts(InvokerId invoker, asio::any_io_executor executor,
                                      StartsHandler starts) override {
    return core_->start_watches->add(invoker, std::move(executor), std::move(starts));
  }
  std::unique_ptr<Watch> watch_host(HostId host, asio::any_io_executor executor,
                                    NoticeHandler notices) override {
    return core_->host_watches->add(host, std::move(executor), std::move(notices));
  }
  QueueStats stats(FunctionHandle handle) const override {
    Function& function = of(handle);
    MutexLock lock(function.mutex);
    return function.queue.stats();
  }

 private:
  using Effects = FunctionQueue::Effects;

  static Function& of(FunctionHandle handle) { return *static_cast<Function*>(handle.get()); }

  void do_acquire(AcquireParams params, asio::any_io_executor home,
                  Handler<absl::StatusOr<Lease>> done) override {
    core_->acquire(std::move(params), std::move(home), std::move(done));
  }
  void do_cancel(CancelParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    complete(home, std::move(done), core_->cancel(params));
  }
  void do_define(DefineParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    complete(home, std::move(done),
             core_->run(of(params.function), [&](FunctionQueue& q, TimePoint now, Effects& e) {
               return q.define(params.config, now, e);
             }));
  }
  void do_remove(RemoveParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    complete(home, std::move(done),
             core_->run(of(params.function),
                        [&](FunctionQueue& q, TimePoint, Effects& e) { return q.remove(params.up_to, e); }));
  }
  void do_claim(ClaimParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    core_->note_host(params.sandbox.host, of(params.function));
    complete(home, std::move(done),
             core_->run(of(params.function), [&](FunctionQueue& q, TimePoint, Effects&) {
               return q.claim(params.start, params.sandbox, params.needs_room);
             }));
  }
  void do_offer(OfferParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    complete(home, std::move(done), core_->offer(params));
  }
  void do_settle(SettleParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    core_->run(of(params.function), [&](FunctionQueue& q, TimePoint now, Effects& e) {
      return q.settle(params.sandbox, params.token, params.lease, params.outcome, now, e);
    });
    complete(home, std::move(done), absl::OkStatus());
  }
  void do_withdraw(WithdrawParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    complete(home, std::move(done),
             core_->run(of(params.function), [&](FunctionQueue& q, TimePoint now, Effects& e) {
               return q.withdraw(params.sandbox, params.reason, now, e);
             }));
  }
  void do_start_failed(StartFailedParams params, asio::any_io_executor home,
                       Handler<absl::Status> done) override {
    const double jitter = core_->jitter();
    complete(home, std::move(done),
             core_->run(of(params.function), [&](FunctionQueue& q, TimePoint now, Effects& e) {
               return q.start_failed(params.start, params.sandbox, params.why, jitter, now, e);
             }));
  }
  void do_gone(GoneParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    core_->run(of(params.function), [&](FunctionQueue& q, TimePoint now, Effects& e) {
      if (params.start.nonce != 0) {
        q.gone(params.start, params.sandbox, now, e);
      } else {
        q.gone(params.sandbox, now, e);
      }
      return true;
    });
    complete(home, std::move(done), absl::OkStatus());
  }
  void do_announce(AnnounceParams params, asio::any_io_executor home,
                   Handler<absl::StatusOr<std::vector<HeldSandbox>>> done) override {
    complete(home, std::move(done), core_->announce(params));
  }
  void do_purge(InvokerParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    complete(home, std::move(done), core_->purge(params.invoker));
  }
  void do_drain(HostParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    complete(home, std::move(done), core_->drain(params.host));
  }
  void do_take_over(HostParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    complete(home, std::move(done), core_->take_over(params.host));
  }
  void do_repair(InvokerParams params, asio::any_io_executor home,
                 Handler<absl::StatusOr<RepairReport>> done) override {
    complete(home, std::move(done), absl::StatusOr<RepairReport>(core_->repair(params.invoker)));
  }

  const std::shared_ptr<Core> core_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<IdleQueue>> make_idle_queue(asio::any_io_executor executor,
                                                           IdleQueueOptions options) {
  if (!executor) return absl::InvalidArgumentError("memory::make_idle_queue: executor is empty");
  if (options.shards == 0)
    return absl::InvalidArgumentError("memory::make_idle_queue: shards is 0; at least 1");
  if (options.max_functions == 0) {
    return absl::InvalidArgumentError("memory::make_idle_queue: max_functions is 0; at least 1");
  }
  if (!options.clock) options.clock = make_steady_clock();
  if (options.seed == 0) {
    std::random_device device;
    options.seed = (std::uint64_t{device()} << 32) | device();
  }
  return std::make_unique<MemoryIdleQueue>(std::move(executor), std::move(options));
}

}  // namespace faaskit::memory
