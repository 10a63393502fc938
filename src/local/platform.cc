// The convenience composition: nothing here that a host application could not write itself.
#include "faaskit/local/platform.h"

#include <cstring>
#include <future>
#include <map>
#include <optional>
#include <shared_mutex>
#include <thread>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_future.hpp>

#include "faaskit/cgroup/freezer.h"
#include "faaskit/memory/idle_queue.h"
#include "faaskit/memory/placement.h"
#include "faaskit/process/sandbox_factory.h"
#include "faaskit/uds/channel_factory.h"
#include "support/random.h"
#include "support/time.h"

namespace faaskit::local {
namespace {

// The threads: one loop per shard, and a pool for what blocks.
class Threads {
 public:
  // kResourceExhausted: descriptors or threads have run out.
  static absl::StatusOr<std::unique_ptr<Threads>> make(std::uint32_t shards, std::uint32_t blocking) {
    auto threads = std::unique_ptr<Threads>(new Threads);
    try {
      for (std::uint32_t i = 0; i < shards; ++i) {
        threads->loops_.push_back(std::make_unique<asio::io_context>(1));
        asio::io_context& loop = *threads->loops_.back();
        // Opens its descriptors now, where running out of them can be told.
        (void)asio::steady_timer(loop);
        threads->guards_.push_back(asio::make_work_guard(loop));
        threads->threads_.emplace_back([&loop] { loop.run(); });
      }
      threads->blocking_.emplace(blocking);
    } catch (const std::exception& error) {
      return absl::ResourceExhaustedError(absl::StrFormat(
          "make_platform: %d shards and %d blocking threads: %s", shards, blocking, error.what()));
    }
    return threads;
  }
  ~Threads() { join(); }

  HostExecutors executors() {
    HostExecutors executors{.shards = {}, .blocking = blocking_->get_executor()};
    for (auto& loop : loops_) executors.shards.push_back(loop->get_executor());
    return executors;
  }

  // Runs what has been posted by now, completions above all, and ends. Timers that are still armed do not
  // hold it up.
  void join() {
    if (blocking_) blocking_->join();
    for (int round = 0; round < 2; ++round) {  // a completion may post one more
      // Where make() came to its end half-way, the last loop has no thread that would run anything.
      for (std::size_t i = 0; i < threads_.size(); ++i) {
        if (!loops_[i]->stopped()) asio::post(*loops_[i], asio::use_future).wait_for(std::chrono::seconds(5));
      }
    }
    guards_.clear();
    for (auto& loop : loops_) loop->stop();
    for (std::thread& thread : threads_) thread.join();
    threads_.clear();
  }

 private:
  Threads() = default;

  std::vector<std::unique_ptr<asio::io_context>> loops_;
  std::vector<asio::executor_work_guard<asio::io_context::executor_type>> guards_;
  std::vector<std::thread> threads_;
  std::optional<asio::thread_pool>
      blocking_;  // what it never ran may refer to the loops, and goes before them
};

cgroup::Choice to_choice(FreezerChoice choice) {
  switch (choice) {
    case FreezerChoice::automatic: return cgroup::Choice::automatic;
    case FreezerChoice::cgroup_v2: return cgroup::Choice::cgroup_v2;
    case FreezerChoice::cgroup_v1: return cgroup::Choice::cgroup_v1;
    case FreezerChoice::stop_signals: return cgroup::Choice::stop_signals;
    case FreezerChoice::none: return cgroup::Choice::none;
  }
  return cgroup::Choice::automatic;
}

class PlatformImpl final : public Platform {
 public:
  static absl::StatusOr<std::unique_ptr<Platform>> make(PlatformOptions options) {
    if (options.shards == 0 || options.blocking_threads == 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("make_platform: shards %d, blocking_threads %d: at least 1 each", options.shards,
                          options.blocking_threads));
    }
    if (options.instance.empty()) options.instance = absl::StrFormat("local-%x", random_id());

    // Before anything of ours exists: what a killed predecessor left behind goes.
    absl::StatusOr<cgroup::SweepReport> swept = cgroup::sweep(options.runtime_dir, options.events.get());
    if (!swept.ok()) return swept.status();

    absl::StatusOr<std::unique_ptr<Threads>> threads =
        Threads::make(options.shards, options.blocking_threads);
    if (!threads.ok()) return threads.status();
    auto platform = std::unique_ptr<PlatformImpl>(new PlatformImpl(*std::move(threads)));
    PlatformImpl& p = *platform;
    cgroup::FreezerOptions freezer_options;
    freezer_options.instance = options.instance;
    freezer_options.choice = to_choice(options.freezer);
    freezer_options.events = options.events;
    freezer_options.runtime_dir = options.runtime_dir;
    absl::StatusOr<std::unique_ptr<Freezer>> freezer = cgroup::make_freezer(std::move(freezer_options));
    if (!freezer.ok()) return freezer.status();
    p.freezer_ = *std::move(freezer);

    process::FactoryOptions factory_options;
    factory_options.runtime_dir = options.runtime_dir;
    factory_options.allow_host_network = options.allow_host_network;
    absl::StatusOr<std::unique_ptr<SandboxFactory>> factory =
        process::make_sandbox_factory(std::move(factory_options));
    if (!factory.ok()) return factory.status();
    p.factory_ = *std::move(factory);

    absl::StatusOr<std::unique_ptr<ChannelFactory>> channels =
        uds::make_channel_factory(options.channel, p.clock_);
    if (!channels.ok()) return channels.status();

    const HostExecutors executors = p.threads_->executors();
    absl::StatusOr<std::unique_ptr<IdleQueue>> idle = memory::make_idle_queue(
        executors.shards[0],
        {.clock = p.clock_, .shards = static_cast<std::uint32_t>(executors.shards.size())});
    if (!idle.ok()) return idle.status();
    p.idle_ = *std::move(idle);
    p.starts_ = memory::make_start_queue(executors.shards[0]);

    LocalHostParts parts;
    parts.idle = p.idle_.get();
    parts.starts = p.starts_.get();
    parts.freezer = p.freezer_;
    parts.factory = p.factory_;
    parts.channels = std::shared_ptr<ChannelFactory>(*std::move(channels));
    parts.clock = p.clock_;
    parts.events = options.events;
    parts.logs = options.logs;
    parts.codes = options.codes;
    absl::StatusOr<std::unique_ptr<LocalHost>> host =
        make_local_host(executors, std::move(parts), options.host);
    if (!host.ok()) return host.status();
    p.host_ = *std::move(host);

    absl::StatusOr<std::unique_ptr<SlotDirectory>> slots = memory::make_slot_directory({p.host_->id()});
    if (!slots.ok()) return slots.status();
    p.slots_ = *std::move(slots);

    absl::StatusOr<std::unique_ptr<Invoker>> invoker = make_invoker(executors,
                                                                    {.idle = p.idle_.get(),
                                                                     .starts = p.starts_.get(),
                                                                     .slots = p.slots_.get(),
                                                                     .host = p.host_.get(),
                                                                     .clock = p.clock_,
                                                                     .records = options.records},
                                                                    options.invoker);
    if (!invoker.ok()) return invoker.status();
    p.invoker_ = *std::move(invoker);
    p.allow_host_network_ = options.allow_host_network;
    return platform;
  }

  ~PlatformImpl() override {
    if (host_ && invoker_) (void)PlatformImpl::stop(std::chrono::seconds(10));
    threads_->join();
    // From here on no loop runs, and the order is that of dependence.
    invoker_.reset();
    host_.reset();
    starts_.reset();
    idle_.reset();
    factory_.reset();
    freezer_.reset();
  }

  absl::Status deploy(Function function) override {
    if (function.network == Network::host && !allow_host_network_) {
      return absl::FailedPreconditionError(
          absl::StrFormat("deploy %s: network is host, and PlatformOptions.allow_host_network is false; "
                          "network loopback would be accepted",
                          function.name));
    }
    absl::StatusOr<FunctionHandle> handle = idle_->resolve(function.name);
    if (!handle.ok()) return handle.status();
    // One change of a function at a time, so that versions reach host and queue in the same order.
    History& history = history_of(function.name);
    std::lock_guard changing(history.changing);
    Version& last = history.last;
    const Version version = function.version.value_or(last + 1);
    if (version <= last) {
      return absl::AbortedError(
          absl::StrFormat("deploy %s: version %d, but %d was there already; it must be "
                          "larger",
                          function.name, version, last));
    }
    HostedFunction hosted;
    hosted.handle = *handle;
    hosted.code = std::move(function.code);
    hosted.warm_up = std::move(function.warm_up);
    hosted.keep_alive = function.keep_alive;
    hosted.lifetime = function.lifetime;
    hosted.spec = {.name = function.name,
                   .version = version,
                   .runtime = std::move(function.runtime),
                   .code_path = std::move(function.code_path),
                   .handler = std::move(function.handler),
                   .env = std::move(function.env),
                   .limits = function.limits,
                   .network = function.network,
                   .minimum_isolation = function.minimum_isolation};
    DefineParams params{.function = *handle, .config = {}};
    params.config.version = version;
    params.config.caps = function.caps;
    params.config.policy = function.policy;
    params.config.retry = function.retry;
    params.config.provisioned = function.provisioned;
    // Before the host learns of it: what is refused leaves the version that works as it is.
    if (absl::Status valid = validate(function.name, params.config); !valid.ok()) return valid;
    if (absl::Status known = host_->deploy(std::move(hosted)); !known.ok()) return known;
    last = version;
    absl::Status defined = idle_->async_define(std::move(params), asio::use_future).get();
    if (!defined.ok()) return defined;
    std::unique_lock lock(functions_mutex_);
    functions_[function.name] = *handle;
    return absl::OkStatus();
  }

  absl::Status remove(std::string_view function) override {
    const auto unknown = [&] {
      return absl::NotFoundError(
          absl::StrCat("remove: there is no function of the name '", std::string(function), "'"));
    };
    if (!handle_of(function)) return unknown();
    std::lock_guard changing(history_of(function).changing);
    const FunctionHandle handle = handle_of(function);
    if (!handle) return unknown();  // somebody else removed it
    // The queue first: a start that it hands out no more cannot reach a host that has forgotten the function.
    absl::Status removed = idle_->async_remove({.function = handle}, asio::use_future).get();
    if (!removed.ok()) return removed;
    {
      std::unique_lock lock(functions_mutex_);
      functions_.erase(functions_.find(function));
    }
    return host_->remove(function);
  }

  InvocationResult invoke(std::string_view function, std::string_view payload,
                          InvokeOptions options) override {
    Bytes bytes(payload.size());
    if (!payload.empty()) std::memcpy(bytes.data(), payload.data(), payload.size());
    return invoker_->invoke(make_invocation(function, std::move(bytes), std::move(options)));
  }

  Invocation make_invocation(std::string_view function, Bytes payload, InvokeOptions options) override {
    return {.function = handle_of(function),
            .payload = std::move(payload),
            .content_type = std::move(options.content_type),
            .trace = std::move(options.trace),
            .metadata = std::move(options.metadata),
            .stream = std::move(options.stream),
            .phases = options.phases,
            .timeout = options.timeout,
            .priority = options.priority,
            .tenant = std::move(options.tenant),
            .cancel = options.cancel,
            .shard = options.shard};
  }

  QueueStats stats(std::string_view function) const override {
    const FunctionHandle handle = handle_of(function);
    return handle ? idle_->stats(handle) : QueueStats{};
  }
  std::vector<SandboxView> sandboxes() const override { return host_->sandboxes(); }

  absl::Status stop(std::chrono::milliseconds timeout) override {
    const TimePoint deadline = after(clock_->now(), timeout);
    std::future<absl::Status> answered = invoker_->async_stop(asio::use_future);
    std::future<absl::Status> stopped = host_->async_stop(asio::use_future);
    if (stopped.wait_until(deadline) != std::future_status::ready ||
        answered.wait_until(deadline) != std::future_status::ready) {
      return absl::DeadlineExceededError(absl::StrFormat("stop: %d sandboxes are left after %d ms",
                                                         host_->sandboxes().size(), timeout.count()));
    }
    return stopped.get();
  }

  HostExecutors executors() const override { return threads_->executors(); }
  Invoker& invoker() override { return *invoker_; }
  LocalHost& host() override { return *host_; }
  IdleQueue& idle_queue() override { return *idle_; }
  const Freezer& freezer() const override { return *freezer_; }
  Freezer& freezer() override { return *freezer_; }
  const SandboxFactory& factory() const override { return *factory_; }
  SandboxFactory& factory() override { return *factory_; }

 private:
  explicit PlatformImpl(std::unique_ptr<Threads> threads)
      : clock_(make_steady_clock()), threads_(std::move(threads)) {}

  FunctionHandle handle_of(std::string_view function) const {
    std::shared_lock lock(functions_mutex_);
    auto known = functions_.find(function);
    return known == functions_.end() ? FunctionHandle{} : known->second;
  }

  // Of every name that was ever deployed: the queue remembers those too.
  struct History {
    std::mutex changing;
    Version last = 0;  // under `changing`
  };
  History& history_of(std::string_view function) {
    std::lock_guard lock(histories_mutex_);
    return histories_.try_emplace(std::string(function)).first->second;
  }

  const std::shared_ptr<Clock> clock_;
  std::shared_ptr<Freezer> freezer_;
  std::shared_ptr<SandboxFactory> factory_;
  std::unique_ptr<IdleQueue> idle_;
  std::unique_ptr<StartQueue> starts_;
  std::unique_ptr<SlotDirectory> slots_;
  std::unique_ptr<LocalHost> host_;
  std::unique_ptr<Invoker> invoker_;
  std::mutex histories_mutex_;
  std::map<std::string, History, std::less<>> histories_;  // none is ever erased
  bool allow_host_network_ = false;
  mutable std::shared_mutex functions_mutex_;
  std::map<std::string, FunctionHandle, std::less<>> functions_;
  std::unique_ptr<Threads> threads_;  // last: no thread outlives what it works on
};

}  // namespace

absl::StatusOr<std::unique_ptr<Platform>> make_platform(PlatformOptions options) {
  return PlatformImpl::make(std::move(options));
}

}  // namespace faaskit::local
