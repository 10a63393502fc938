#include "simulation/simulation.h"

#include <algorithm>
#include <optional>
#include <set>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace faaskit::simulation {
namespace {

constexpr std::uint32_t kShards = 2;
constexpr Duration kLongestCall = 4s;

class Simulation final : public Listeners, public Surroundings {
 public:
  Simulation(const Mode& mode, std::uint64_t seed, bool verbose)
      : mode_(mode), world_(seed, mode, verbose), engine_(world_, *this) {
    observer_.name = "observer";
    deployer_.name = "deployer";
    const std::uint64_t functions = 2 + random().below(3);
    for (std::uint64_t i = 0; i < functions; ++i) {
      const std::string name = absl::StrCat("f", i);
      configs_[name] = some_config(1);
      acknowledged_[name] = 1;
      engine_.add_function(name, configs_[name], kShards);
    }
    for (std::uint64_t i = 0, n = 2 + random().below(2); i < n; ++i) add_host();
    for (std::uint64_t i = 0, n = 2 + random().below(2); i < n; ++i) add_invoker();
    world_.every(250ms, nullptr, [this] { audit(); });
    arrivals();
    world_.after(random().exponential(2s), nullptr, [this] { trouble(); });
  }

  void run(std::uint64_t steps) {
    while (world_.steps() < steps) step(TimePoint::max());
    heal();
  }

  World& world() { return world_; }

  void fill(Report& report) const {
    report.steps = world_.steps();
    report.calls = calls_;
    report.ran = world_.executions();
    report.answers = answers_;
    report.fingerprint = world_.fingerprint();
    report.story = world_.story();
    for (const std::string& name : engine_.names()) {
      const QueueStats one = engine_.queue(name).stats();
      report.stats.warm += one.warm;
      report.stats.cold += one.cold;
      report.stats.stolen += one.stolen;
      report.stats.queued += one.queued;
      report.stats.refused += one.refused;
      report.stats.starts_admitted += one.starts_admitted;
      report.stats.starts_failed += one.starts_failed;
      report.stats.surplus_starts += one.surplus_starts;
    }
  }

 private:
  Random& random() { return world_.random; }

  FunctionConfig some_config(Version version) {
    FunctionConfig config;
    config.version = version;
    config.caps = {.max_sandboxes = 1 + std::uint32_t(random().below(4)),
                   .max_starts = 1 + std::uint32_t(random().below(3)),
                   .max_waiters = 3 + std::uint32_t(random().below(20))};
    if (random().chance(0.3)) {
      config.provisioned = 1 + std::uint32_t(random().below(std::min(2u, config.caps.max_sandboxes)));
    }
    config.policy = random().chance(0.7) ? StartPolicy::race : StartPolicy::wait_only;
    config.order = random().chance(0.7) ? IdleOrder::lifo : IdleOrder::fifo;
    config.surplus = random().chance(0.6) ? SurplusStarts::keep : SurplusStarts::cancel_queued;
    config.retry = {.budget = 2 + std::uint32_t(random().below(2)),
                    .backoff = std::chrono::milliseconds(20 + random().below(100)),
                    .max_backoff = std::chrono::milliseconds(500 + random().below(1000))};
    return config;
  }

  void add_host() {
    const HostId id = 0x100 + ++last_host_;
    const StartLimits limits{.max_sandboxes = 3 + std::uint32_t(random().below(4)),
                             .max_concurrent_starts = 1 + std::uint32_t(random().below(3))};
    auto forward = [this](const StartRequest& start) { carry(start); };
    hosts_[id] = std::make_unique<Host>(world_, engine_, id, limits, forward);
    world_.trace(absl::StrFormat("host %x comes with room for %d", id, limits.max_sandboxes));
  }

  void add_invoker() {
    const InvokerId id = 0xa00 + ++last_invoker_;
    invokers_[id] = std::make_unique<Invoker>(world_, engine_, *this, id);
  }

  template <class Map>
  auto* any(Map& map, bool (*fit)(const typename Map::mapped_type::element_type&)) {
    std::vector<typename Map::mapped_type::element_type*> fitting;
    for (auto& [id, item] : map) {
      if (fit(*item)) fitting.push_back(item.get());
    }
    return fitting.empty() ? nullptr : fitting[random().below(fitting.size())];
  }
  Host* any_host() {
    return any(hosts_, +[](const Host& h) { return const_cast<Host&>(h).node().alive && !h.draining(); });
  }
  Invoker* any_invoker() {
    return any(
        invokers_, +[](const Invoker& i) {
          const Node& node = const_cast<Invoker&>(i).node();
          return node.alive && !node.paused;
        });
  }

  // ---- Listeners: from the engine to everybody

  void granted(InvokerId invoker, const Granted& lease) override {
    Invoker& to = *invokers_.at(invoker);
    world_.from_engine(to.node(), [&to, lease] { to.granted(lease); });
  }
  void failed(const LeaseId& waiting, const absl::Status& why) override {
    Invoker& to = *invokers_.at(waiting.request.invoker);
    world_.from_engine(to.node(), [&to, waiting, why] { to.failed(waiting, why); });
  }
  void starts(InvokerId invoker, const std::vector<StartRequest>& starts) override {
    Invoker* to = invoker != 0 ? invokers_.at(invoker).get() : any_invoker();
    if (to != nullptr) world_.from_engine(to->node(), [to, starts] { to->starts(starts); });
  }
  void notice(HostId host, const HostNotice& notice) override {
    Host& to = *hosts_.at(host);
    world_.from_engine(to.node(), [&to, notice] { to.notice(notice); });
  }

  // ---- Surroundings: what invokers reach without the engine

  Host* host(HostId id) override {
    Host* found = hosts_.at(id).get();
    return found->node().alive ? found : nullptr;
  }
  // At least once: where nothing mends, to every host, so that one that dies is not the only one to know.
  void carry(const StartRequest& start) override {
    const auto send = [&](Host& to) {
      const bool lost = mode_.request_lost > 0 && !world_.healed() && random().chance(mode_.request_lost);
      if (lost) return;
      world_.after(world_.latency(), &to.node(), [&to, start] { to.arrived(start); });
    };
    if (!mode_.mends) {
      for (auto& [id, host] : hosts_) {
        if (host->node().alive && !host->draining()) send(*host);
      }
    } else if (Host* host = any_host()) {
      send(*host);
    }
  }
  void completed(const RequestId& request, const absl::Status& status) override {
    auto found = open_.find(request);
    if (found == open_.end()) throw Violation(absl::StrCat("I3: ", to_string(request), " is answered twice"));
    world_.trace(absl::StrCat(to_string(request), " is answered: ", status.ToString()));
    if (world_.healed() && found->second.probe && !status.ok()) {
      throw Violation(absl::StrCat("healed: ", to_string(request), " is answered: ", status.ToString()));
    }
    ++answers_[absl::StatusCodeToString(status.code())];
    open_.erase(found);
  }

  // ---- load

  void arrivals() {
    if (!world_.healed()) {
      // Now and then a burst.
      const std::uint64_t burst = random().chance(0.05) ? 4 + random().below(12) : 1;
      for (std::uint64_t i = 0; i < burst; ++i) {
        if (Invoker* invoker = any_invoker()) invoke(*invoker);
      }
    }
    world_.after(random().exponential(60ms), nullptr, [this] { arrivals(); });
  }

  void invoke(Invoker& invoker) {
    auto turn = std::next(configs_.begin(), static_cast<std::ptrdiff_t>(random().below(configs_.size())));
    Wanted wanted{.function = turn->first,
                  .priority = random().chance(0.2) ? static_cast<std::int32_t>(random().below(3)) - 1 : 0,
                  .deadline = world_.now() + random().between(100ms, kLongestCall),
                  .at_least = acknowledged_[turn->first],
                  .may_end = nullptr};
    start(invoker, std::move(wanted), false);
  }

  void start(Invoker& invoker, Wanted wanted, bool probe) {
    ++calls_;
    const RequestId next{.invoker = invoker.id(), .sequence = ++sequences_[invoker.id()]};
    open_[next] = {.probe = probe};
    world_.trace(absl::StrFormat("%s arrives for %s", to_string(next), wanted.function));
    const TimePoint deadline = wanted.deadline;
    const RequestId id = invoker.invoke(std::move(wanted));
    if (id != next) throw Violation("driver: request ids");
    if (!probe && random().chance(0.05)) {
      world_.after(random().between(0ms, (deadline - world_.now()) / 2), &invoker.node(),
                   [&invoker, sequence = id.sequence] { invoker.cancel(sequence); });
    }
  }

  // ---- trouble

  void trouble() {
    if (world_.healed()) return;
    if (mode_.engine_forgets && random().chance(0.5)) flush();
    switch (random().below(9)) {
      case 0:
      case 1: define(true); break;
      case 2: define(false); break;
      case 3:
        if (mode_.hosts_crash) crash_host();
        break;
      case 4:
        if (mode_.invokers_crash) crash_invoker();
        break;
      case 5:
        if (mode_.invokers_pause) pause_invoker();
        break;
      case 6:
        if (mode_.hosts_crash) drain_host();
        break;
      case 7:
        if (Invoker* invoker = any_invoker()) invoker->cancel_any();
        break;
      case 8: remove(); break;
    }
    world_.after(random().exponential(2s), nullptr, [this] { trouble(); });
  }

  // A redeploy, or other rules for the same version.
  void define(bool redeploy) {
    auto turn = std::next(configs_.begin(), static_cast<std::ptrdiff_t>(random().below(configs_.size())));
    deploy(turn->first, some_config(turn->second.version + (redeploy ? 1 : 0)));
  }

  void deploy(const std::string& name, const FunctionConfig& config) {
    configs_[name] = config;
    world_.ask<absl::Status>(
        deployer_, [this, name, config] { return engine_.define(name, config); },
        [this, name, version = config.version](const absl::Status& status) {
          if (status.ok()) acknowledged_[name] = std::max(acknowledged_[name], version);
        });
  }

  // It ends, and comes back some time later, as something new.
  void remove() {
    auto turn = std::next(configs_.begin(), static_cast<std::ptrdiff_t>(random().below(configs_.size())));
    const std::string name = turn->first;
    const Version up_to = turn->second.version;
    if (removed_.contains(name)) return;
    world_.trace(absl::StrFormat("%s is removed", name));
    removed_.insert(name);
    world_.ask<absl::Status>(
        deployer_, [this, name, up_to] { return engine_.remove(name, up_to); },
        [this, name, up_to](const absl::Status& status) {
          // No call that comes from now on runs what ended.
          if (status.ok()) acknowledged_[name] = std::max(acknowledged_[name], up_to + 1);
        });
    world_.after(random().exponential(1s), nullptr, [this, name] { bring_back(name); });
  }
  void bring_back(const std::string& name) {
    if (removed_.erase(name) > 0) deploy(name, some_config(configs_[name].version + 1));
  }

  // Everybody who is connected learns of it at once.
  void flush() {
    engine_.forget_everything(configs_, removed_);
    for (auto& [id, host] : hosts_) {
      world_.after(world_.latency(), &host->node(), [&to = *host] { to.announce(); });
    }
  }

  void crash_host() {
    Host* host = any_host();
    if (host == nullptr) return;
    world_.trace(host->node().name + " loses power");
    host->crash();
    bury_host(host->id());
    world_.after(random().between(500ms, 4s), nullptr, [this] { add_host(); });
  }
  // The observer says so once it is sure, and again while anything of it is known: a message of the dead
  // may still be on its way.
  void bury_host(HostId id) {
    world_.after(2 * kHeartbeat, &observer_, [this, id] { take_over(id, world_.now() + 15s); });
  }
  void take_over(HostId id, TimePoint until) {
    world_.ask<bool>(
        observer_,
        [this, id] {
          engine_.take_over(id);
          return true;
        },
        [](bool) {});
    if (world_.now() < until || engine_.knows_host(id)) {
      world_.after(kHeartbeat, &observer_, [this, id, until] { take_over(id, until); });
    }
  }

  void drain_host() {
    Host* host = any_host();
    if (host == nullptr) return;
    world_.trace(host->node().name + " drains");
    host->drain();
    world_.after(random().between(500ms, 4s), nullptr, [this] { add_host(); });
  }

  void crash_invoker() {
    Invoker* invoker = any_invoker();
    if (invoker == nullptr) return;
    world_.trace(invoker->node().name + " is killed");
    invoker->crash();
    // Its callers died with it.
    std::erase_if(open_, [&](const auto& entry) { return entry.first.invoker == invoker->id(); });
    for (auto& [id, host] : hosts_) {
      if (host->node().alive) host->invoker_lost(invoker->id());
    }
    world_.after(2 * kHeartbeat, &observer_, [this, id = invoker->id()] { purge(id, world_.now() + 15s); });
    world_.after(random().between(500ms, 4s), nullptr, [this] { add_invoker(); });
  }
  void purge(InvokerId id, TimePoint until) {
    const Node& node = invokers_.at(id)->node();
    if (node.alive && !node.paused) return;  // its heart beats again
    world_.ask<bool>(
        observer_,
        [this, id] {
          engine_.purge(id);
          return true;
        },
        [](bool) {});
    if (world_.now() < until || engine_.knows_invoker(id)) {
      world_.after(kHeartbeat, &observer_, [this, id, until] { purge(id, until); });
    }
  }

  void pause_invoker() {
    Invoker* invoker = any_invoker();
    if (invoker == nullptr) return;
    world_.trace(invoker->node().name + " is paused");
    invoker->node().paused = true;
    const Duration pause = random().between(200ms, 6s);
    world_.after(pause, nullptr, [this, invoker] {
      world_.trace(invoker->node().name + " resumes");
      world_.resume(invoker->node());
    });
    if (pause > 2 * kHeartbeat) {
      world_.after(2 * kHeartbeat, &observer_, [this, id = invoker->id()] { purge(id, world_.now()); });
    }
  }

  // ---- checks beside those of the engine and of the world

  void step(TimePoint until) {
    if (!world_.step(until)) throw Violation("driver: nothing happens any more");
    // Every process is counted by the engine, from its claim until it was reported reaped (I6).
    for (const auto& [id, process] : world_.processes()) {
      const FunctionQueue& queue = engine_.queue(process.function);
      // What was admitted before a flush is what the excess may be.
      if (process.start.nonce != engine_.nonce(process.function)) continue;
      if (queue.find(id) == nullptr) ++unregistered_[process.function];
    }
    for (const auto& [name, count] : unregistered_) {
      const QueueStats stats = engine_.queue(name).stats();
      if (count > stats.starts_in_flight) {
        throw Violation(absl::StrFormat("I6: %s has %d processes that are no record, and %d starts in flight",
                                        name, count, stats.starts_in_flight));
      }
    }
    unregistered_.clear();
  }

  void audit() {
    for (const auto& [id, host] : hosts_) {
      if (host->node().alive) host->audit();
    }
    // I2: nothing stays in between for longer than two heartbeats and an announcement, a running call, and
    // what the network needs to repeat itself.
    const Duration bound =
        2 * kHeartbeat + kAnnouncePeriod + kLongestCall + 3s + (mode_.request_lost > 0 ? 8s : 0s);
    std::map<SandboxId, Between> now;
    for (const std::string& name : engine_.names()) {
      for (const auto* record : engine_.queue(name).records()) {
        const SandboxId id = record->sandbox.id;
        bool between = record->state == SandboxState::disputed || record->state == SandboxState::retiring;
        if (record->state == SandboxState::leased && !world_.healed()) {
          const Invoker& invoker = *invokers_.at(record->lease.request.invoker);
          const Node& node = const_cast<Invoker&>(invoker).node();
          between = !node.alive || (!node.paused && !invoker.minds(record->lease, record->token));
        }
        if (!between) continue;
        const Between entry{record->state, record->token, world_.now()};
        auto known = between_.find(id);
        const bool same = known != between_.end() && known->second.state == entry.state &&
                          known->second.token == entry.token;
        now.emplace(id, same ? known->second : entry);
        if (same && world_.now() - known->second.since > bound) {
          throw Violation(
              absl::StrFormat("I2: %s has been %s for %.1f s", to_string(id), to_string(entry.state),
                              std::chrono::duration<double>(world_.now() - known->second.since).count()));
        }
      }
    }
    between_ = std::move(now);
    world_.after(0ms, nullptr, [] {});
  }

  // ---- the end: nothing fails any more, and all must be well again

  void run_for(Duration duration) {
    const TimePoint end = world_.now() + duration;
    world_.at(end, nullptr, [] {});
    while (world_.now() < end) step(end);
  }

  void heal() {
    world_.trace("---- nothing fails any more");
    world_.heal();
    for (const std::string& name : engine_.names()) bring_back(name);
    // Messages of the past arrive, the dead are buried, the paused resume, calls end.
    run_for(25s);
    for (const auto& [id, open] : open_)
      throw Violation(absl::StrCat("I3: ", to_string(id), " was never answered"));
    while (any_host() == nullptr) add_host();
    while (any_invoker() == nullptr) add_invoker();
    check_provisioned();
    for (const std::string& name : engine_.names()) probe(name);
    run_for(12s);
    for (const auto& [id, host] : hosts_) {
      if (host->node().alive) host->check_view(engine_);
    }
    std::uint64_t processes = 0;
    for (const auto& [id, process] : world_.processes()) processes += process.alive ? 1 : 0;
    std::uint64_t idle = 0;
    for (const std::string& name : engine_.names()) {
      const QueueStats stats = engine_.queue(name).stats();
      idle += stats.idle;
      if (stats.live() != stats.idle || stats.waiters != 0) {
        throw Violation(absl::StrFormat("I2: at rest %s has %d leased, %d disputed, %d retiring, %d waiters",
                                        name, stats.leased, stats.disputed, stats.retiring, stats.waiters));
      }
    }
    if (idle != processes)
      throw Violation(absl::StrFormat("I2: at rest %d are idle and %d exist", idle, processes));
  }

  // What is to be kept is there, where the hosts have room for all of it.
  void check_provisioned() {
    std::uint64_t room = 0;
    for (const auto& [id, host] : hosts_) {
      if (host->node().alive && !host->draining()) room += 3;  // the least a host has
    }
    // As the engine has them: of two rules for one version the older may have come last.
    const auto provisioned = [this](const std::string& name) {
      return engine_.queue(name).config().provisioned;
    };
    std::uint64_t wanted = 0;
    for (const std::string& name : engine_.names()) wanted += provisioned(name);
    for (const std::string& name : engine_.names()) {
      if (wanted > room) break;
      const auto kept = [&] { return engine_.queue(name).serving() >= provisioned(name); };
      for (int i = 0; i < 20 && !kept(); ++i) run_for(1s);
      if (!kept()) {
        throw Violation(absl::StrFormat("provisioned: at rest %d of %s are live; %d are to be kept",
                                        engine_.queue(name).serving(), name, provisioned(name)));
      }
    }
    // The probes need the room.
    for (const std::string& name : engine_.names()) {
      FunctionConfig config = configs_[name];
      config.provisioned = 0;
      deploy(name, config);
    }
    run_for(1s);
  }

  // As many calls at once as the cap allows, none of which ends before all run: a single place that a lost
  // sandbox or start still holds would keep them waiting for ever.
  void probe(const std::string& name) {
    FunctionConfig config = configs_[name];
    config.policy = StartPolicy::race;
    config.surplus = SurplusStarts::keep;
    std::uint64_t room = 0;
    for (const auto& [id, host] : hosts_) {
      if (host->node().alive && !host->draining()) room += 3;  // the least a host has
    }
    config.caps.max_sandboxes =
        static_cast<std::uint32_t>(std::min<std::uint64_t>(config.caps.max_sandboxes, room));
    config.caps.max_waiters = 1000;
    deploy(name, config);
    run_for(1s);
    world_.trace(absl::StrFormat("---- probe of %s: %d at once", name, config.caps.max_sandboxes));
    const std::uint64_t many = config.caps.max_sandboxes;
    const auto all_run = [this, name, many] {
      std::uint64_t running = 0;
      for (const auto& [id, process] : world_.processes()) {
        if (process.function == name && process.running) ++running;
      }
      if (running == many) full_.insert({name, true});
      return full_.contains(name);
    };
    for (std::uint64_t i = 0; i < many; ++i) {
      start(*any_invoker(),
            {.function = name,
             .priority = 0,
             .deadline = world_.now() + 30s,
             .at_least = acknowledged_[name],
             .may_end = all_run},
            true);
    }
    for (int i = 0; i < 300 && !open_.empty(); ++i) run_for(100ms);
    if (!open_.empty()) throw Violation("healed: a probe was never answered");
  }

  struct Open {
    bool probe = false;
  };
  struct Between {
    SandboxState state;
    Token token;
    TimePoint since;
  };

  const Mode& mode_;
  World world_;
  Engine engine_;
  Node observer_;
  Node deployer_;
  std::map<HostId, std::unique_ptr<Host>> hosts_;
  std::map<InvokerId, std::unique_ptr<Invoker>> invokers_;
  std::uint64_t last_host_ = 0;
  std::uint64_t last_invoker_ = 0;
  std::map<std::string, FunctionConfig> configs_;
  std::map<std::string, Version> acknowledged_;
  std::set<std::string> removed_;
  std::map<InvokerId, std::uint64_t> sequences_;
  std::map<RequestId, Open> open_;
  std::map<SandboxId, Between> between_;
  std::map<std::string, std::uint64_t> unregistered_;
  std::map<std::string, bool> full_;
  std::map<std::string, std::uint64_t> answers_;
  std::uint64_t calls_ = 0;
};

}  // namespace

Report simulate(const Mode& mode, std::uint64_t seed, std::uint64_t steps, bool verbose) {
  Report report;
  std::optional<Simulation> simulation;
  try {
    simulation.emplace(mode, seed, verbose);
    simulation->run(steps);
  } catch (const Violation& violation) {
    report.violation = violation.what();
    if (!simulation) return report;  // the first definition already broke a rule
    simulation->world().trace(absl::StrCat("VIOLATION ", violation.what()));
  }
  simulation->fill(report);
  return report;
}

std::string describe(const Mode& mode, std::uint64_t seed, std::uint64_t steps, const Report& report) {
  std::string text;
  if (!report.violation.empty()) {
    for (const std::string& line : report.story) absl::StrAppend(&text, line, "\n");
    absl::StrAppend(&text, report.violation, "\nagain: faaskit_simulation --mode ", std::string(mode.name),
                    " --seed ", seed, " --steps ", steps, "\n");
    return text;
  }
  absl::StrAppendFormat(&text, "%-9s seed %-6d %7d steps %6d calls %6d ran", mode.name, seed, report.steps,
                        report.calls, report.ran);
  absl::StrAppendFormat(&text, " | warm %d cold %d stolen %d queued %d | starts %d failed %d |",
                        report.stats.warm, report.stats.cold, report.stats.stolen, report.stats.queued,
                        report.stats.starts_admitted, report.stats.starts_failed);
  for (const auto& [code, count] : report.answers) absl::StrAppendFormat(&text, " %s %d", code, count);
  absl::StrAppendFormat(&text, " | %016x\n", report.fingerprint);
  return text;
}

}  // namespace faaskit::simulation
