#include "provision/host.h"

#include <algorithm>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/cancellation_type.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>

namespace faaskit {
namespace {

constexpr std::chrono::milliseconds kRepeat{100};
// For the processes of a host that goes without a stop.
constexpr std::chrono::milliseconds kGiveUpWait{2000};
// Functions that were removed.
constexpr std::size_t kRemembered = 256;

}  // namespace

Host::Host(HostExecutors host_executors, LocalHostParts host_parts, LocalHostOptions host_options)
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

void Host::begin() {
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

absl::Status Host::deploy(HostedFunction function) {
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
      return absl::AbortedError(absl::StrFormat("deploy %s version %d: version %d is current", name, version,
                                                current->spec.version));
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

absl::Status Host::remove(std::string_view function) {
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

std::vector<SandboxPtr> Host::all() const {
  std::vector<SandboxPtr> sandboxes;
  MutexLock lock(mutex_);
  sandboxes.reserve(registry_.size());
  for (const auto& [number, sandbox] : registry_) sandboxes.push_back(sandbox);
  return sandboxes;
}

SandboxPtr Host::find(const SandboxId& id) const {
  if (id.host != id_) return nullptr;
  MutexLock lock(mutex_);
  auto known = registry_.find(id.number);
  return known == registry_.end() ? nullptr : known->second;
}

void Host::call(HostCall call, asio::any_io_executor home, Handler<HostReply> done) {
  HostShard& shard = *shards_[call.home_shard % shards_.size()];
  std::shared_ptr<std::atomic<bool>> cancelled = watch_for_cancel(shard, call, done);
  // On the home shard already: no hop, and the first send is made before this returns.
  asio::dispatch(
      shard.executor, [self = shared_from_this(), &shard, cancelled = std::move(cancelled),
                       call = std::move(call), home = std::move(home), done = std::move(done)]() mutable {
        if (cancelled && cancelled->load(std::memory_order_relaxed)) {
          HostReply reply;
          reply.status = absl::CancelledError(
              absl::StrCat("call on ", to_string(call.sandbox), ": cancelled by the caller before it began"));
          reply.never_began = reply.clean = true;
          reply.payload = std::move(call.payload);
          return complete(home, std::move(done), std::move(reply));
        }
        self->call_here(shard, std::move(call), std::move(home), std::move(done));
      });
}

void Host::stop(asio::any_io_executor home, Handler<absl::Status> done) {
  stopping_.store(true, std::memory_order_relaxed);
  asio::post(control(),
             [self = shared_from_this(), home = std::move(home), done = std::move(done)]() mutable {
               self->stoppers_.emplace_back(std::move(home), std::move(done));
               if (!self->draining_) self->drain();
               self->stopped_if_empty();
             });
}

void Host::give_up() {
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

void Host::became_ready(HostedSandbox& sandbox) {
  asio::post(control(), [self = shared_from_this(), sandbox = sandbox.shared_from_this()] {
    if (sandbox->was_ready) return;
    sandbox->was_ready = true;
    self->starts_.ready(sandbox->start());
    self->starts_.may_evict();
    self->pump();
  });
}

void Host::became_idle(HostedSandbox& sandbox) {
  asio::post(control(), [self = shared_from_this(), sandbox = sandbox.shared_from_this()] {
    self->starts_.may_evict(sandbox->function().spec.name);
    self->pump();
  });
}

void Host::was_reaped(SandboxPtr sandbox, absl::Status error) {
  HostShard& shard = *shards_[sandbox->sandbox().home_shard % shards_.size()];
  asio::post(
      shard.executor, [self = shared_from_this(), &shard, sandbox = std::move(sandbox), error]() mutable {
        shard.sandboxes.erase(sandbox->sandbox().id.number);
        asio::post(self->control(), [self, sandbox = std::move(sandbox), error = std::move(error)]() mutable {
          self->account(std::move(sandbox), std::move(error));
        });
      });
}

void Host::call_here(HostShard& shard, HostCall call, asio::any_io_executor home, Handler<HostReply> done) {
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

std::shared_ptr<std::atomic<bool>> Host::watch_for_cancel(HostShard& shard, const HostCall& call,
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

absl::Status Host::check(const HostedFunction& function) {
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

std::shared_ptr<const HostedVersion> Host::find_function(std::string_view name) const {
  MutexLock lock(mutex_);
  auto known = functions_.find(name);
  return known == functions_.end() ? nullptr : known->second;
}

bool Host::is_current(const HostedFunction& function) const {
  MutexLock lock(mutex_);
  auto known = functions_.find(function.spec.name);
  return known != functions_.end() && known->second->spec.version == function.spec.version;
}

bool Host::was_removed(const StartRequest& start) const {
  MutexLock lock(mutex_);
  return std::any_of(removed_.begin(), removed_.end(), [&](const auto& removed) {
    return removed.first == start.function && removed.second >= start.version;
  });
}

// ---- the end

void Host::drain() {
  draining_ = true;
  announce_timer_->cancel();
  room_timer_->cancel();
  for (auto& [start, claimed] : std::exchange(claimed_, {}))
    report_gone({.function = claimed.function->handle, .sandbox = claimed.id, .start = start});
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

void Host::stopped_if_empty() {
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

void Host::later(absl::AnyInvocable<void()> what) {
  if (stopped_) return;
  const std::uint64_t key = ++last_repeat_;
  Timer& timer = *(repeats_[key] = parts.clock->make_timer(control()));
  timer.arm(parts.clock->now() + kRepeat, [this, key, what = std::move(what)]() mutable {
    absl::AnyInvocable<void()> now = std::move(what);
    repeats_.erase(key);
    now();
  });
}

}  // namespace faaskit
