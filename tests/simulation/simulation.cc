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
constexpr std::uint64_t kFirstProbe = 1'000'000'000;

class Simulation final : public Listeners, public Surroundings {
 public:
  Simulation(const Mode& mode, std::uint64_t seed, const Run& run)
      : mode_(mode), run_(run), world_(seed, mode, run), engine_(world_, *this) {
    observer_.name = "observer";
    deployer_.name = "deployer";
    Random random = world_.chance("setup");
    const std::uint64_t functions = 2 + random.below(3);
    for (std::uint64_t i = 0; i < functions; ++i) {
      const std::string name = absl::StrCat("f", i);
      configs_[name] = some_config(random, 1);
      acknowledged_[name] = 1;
      engine_.add_function(name, configs_[name], kShards);
    }
    for (std::uint64_t i = 0, n = 2 + random.below(2); i < n; ++i) add_host();
    for (std::uint64_t i = 0, n = 2 + random.below(2); i < n; ++i) add_invoker();
    world_.every(250ms, nullptr, "audit", [this] { audit(); });
    world_.every(10s, nullptr, "forget", [this] { forget_the_gone(); });
    arrivals(0);
    next_trouble(0);
  }

  void run() {
    if (run_.until) {
      const TimePoint end = world_.now() - world_.elapsed() + *run_.until;
      world_.at(end, nullptr, [] {});
      while (world_.now() < end) step(end);
    } else {
      while (world_.steps() < run_.steps) step(TimePoint::max());
    }
    if (run_.heals) heal();
  }

  World& world() { return world_; }

  void fill(Report& report) const {
    report.steps = world_.steps();
    report.calls = calls_;
    report.ran = world_.executions();
    report.answers = answers_;
    report.fingerprint = world_.fingerprint();
    report.story = world_.story();
    report.lines = world_.lines();
    report.happened = world_.happened();
    report.ended_at = world_.healed() ? healed_at_ : world_.elapsed();
    report.healed = world_.healed();
    report.subject = world_.subject;
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
  static FunctionConfig some_config(Random& random, Version version) {
    FunctionConfig config;
    config.version = version;
    config.caps = {.max_sandboxes = 1 + std::uint32_t(random.below(4)),
                   .max_starts = 1 + std::uint32_t(random.below(3)),
                   .max_waiters = 3 + std::uint32_t(random.below(20))};
    if (random.chance(0.3)) {
      config.provisioned = 1 + std::uint32_t(random.below(std::min(2u, config.caps.max_sandboxes)));
    }
    config.policy = random.chance(0.7) ? StartPolicy::race : StartPolicy::wait_only;
    config.order = random.chance(0.7) ? IdleOrder::lifo : IdleOrder::fifo;
    config.surplus = random.chance(0.6) ? SurplusStarts::keep : SurplusStarts::cancel_queued;
    config.retry = {.budget = 2 + std::uint32_t(random.below(2)),
                    .backoff = std::chrono::milliseconds(20 + random.below(100)),
                    .max_backoff = std::chrono::milliseconds(500 + random.below(1000)),
                    .breaker_failures = 2 + std::uint32_t(random.below(6)),
                    .breaker_open = std::chrono::milliseconds(300 + random.below(2500))};
    return config;
  }

  void add_host() {
    const HostId id = 0x100 + ++last_host_;
    Random random = world_.chance("host", id);
    StartLimits limits;
    limits.max_sandboxes = 3 + std::uint32_t(random.below(4));
    limits.max_concurrent_starts = 1 + std::uint32_t(random.below(3));
    limits.room_wait = std::chrono::milliseconds(300 + random.below(2000));
    if (mode_.memory_budget) limits.max_memory_bytes = (3 + random.below(4)) * (256u << 20);
    // Overload is to be that of the functions: whoever is always busy leaves no room to be made.
    if (mode_.ample_hosts) limits.max_sandboxes = 16;
    auto forward = [this, id](const StartRequest& start) { carry(start, id); };
    hosts_[id] = std::make_unique<Host>(world_, engine_, id, limits, forward);
    world_.trace(absl::StrFormat("host %x comes with room for %d", id, limits.max_sandboxes));
  }

  void add_invoker() {
    const InvokerId id = 0xa00 + ++last_invoker_;
    invokers_[id] = std::make_unique<Invoker>(world_, engine_, *this, id);
  }

  template <class Map>
  static auto* any(Random random, Map& map, bool (*fit)(const typename Map::mapped_type::element_type&)) {
    std::vector<typename Map::mapped_type::element_type*> fitting;
    for (auto& [id, item] : map) {
      if (fit(*item)) fitting.push_back(item.get());
    }
    return fitting.empty() ? nullptr : fitting[random.below(fitting.size())];
  }
  Host* any_host(Random random) {
    return any(
        random, hosts_, +[](const Host& h) {
          const Node& node = const_cast<Host&>(h).node();
          return node.alive && !node.paused && !h.draining();
        });
  }
  Invoker* any_invoker(Random random) {
    return any(
        random, invokers_, +[](const Invoker& i) {
          const Node& node = const_cast<Invoker&>(i).node();
          return node.alive && !node.paused;
        });
  }
  const std::string& any_function(Random& random) const {
    return std::next(configs_.begin(), static_cast<std::ptrdiff_t>(random.below(configs_.size())))->first;
  }

  // What has been dead for long is not spoken of any more, not even by a late message.
  void forget_the_gone() {
    const auto forgotten = [this](const Node& node) {
      return !node.alive && node.died + kForgotten < world_.now();
    };
    for (auto& [id, host] : hosts_) {
      Node& node = host->node();
      if (!node.alive || !host->draining() || !host->empty() || node.disturbed > world_.now()) continue;
      world_.trace(node.name + " is empty, and goes");
      world_.die(node);
      bury_host(id);
    }
    std::erase_if(hosts_, [&](const auto& entry) {
      const bool forget = forgotten(entry.second->node()) && !engine_.knows_host(entry.first);
      if (forget) world_.forget_host(entry.first);
      return forget;
    });
    std::erase_if(invokers_, [&](const auto& entry) {
      return forgotten(entry.second->node()) && !engine_.knows_invoker(entry.first);
    });
    engine_.forget_the_gone([this](HostId id) { return hosts_.contains(id); });
  }

  // ---- Listeners: from the engine to everybody

  Invoker* known_invoker(InvokerId id) {
    const auto found = invokers_.find(id);
    return found == invokers_.end() ? nullptr : found->second.get();
  }
  void granted(InvokerId invoker, const Granted& lease) override {
    Invoker* to = known_invoker(invoker);
    if (to == nullptr) return;
    world_.from_engine(to->node(), about("grant", lease.lease, lease.token),
                       [to, lease] { to->granted(lease); });
  }
  void failed(const LeaseId& waiting, const absl::Status& why) override {
    Invoker* to = known_invoker(waiting.request.invoker);
    if (to == nullptr) return;
    world_.from_engine(to->node(), about("failure", waiting),
                       [to, waiting, why] { to->failed(waiting, why); });
  }
  void starts(InvokerId invoker, const std::vector<StartRequest>& starts) override {
    const StartId& first = starts.front().id;
    Invoker* to = invoker != 0 ? known_invoker(invoker) : any_invoker(world_.chance("carrier", first));
    if (to == nullptr) return;
    world_.from_engine(to->node(), about("starts", first, ++carried_[starts.front().function]),
                       [to, starts] { to->starts(starts); });
  }
  void notice(HostId host, const HostNotice& notice) override {
    const auto found = hosts_.find(host);
    if (found == hosts_.end()) return;
    Host& to = *found->second;
    world_.from_engine(to.node(), about("notice", notice.sandbox, notice.token),
                       [&to, notice] { to.notice(notice); });
  }

  // ---- Surroundings: what invokers reach without the engine

  Host* host(HostId id) override {
    const auto found = hosts_.find(id);
    return found != hosts_.end() && found->second->node().alive ? found->second.get() : nullptr;
  }
  // At least once: where nothing mends, to every host, so that one that dies is not the only one to know.
  void carry(const StartRequest& start) override { carry(start, 0); }
  void carry(const StartRequest& start, HostId from) {
    const std::uint64_t time = ++carried_[start.function];
    const auto send = [&](Host& to) {
      const Subject subject = about("start", start.id, to.id(), time);
      if (world_.fault(mode_.request_lost, "lost", subject.key)) return;
      world_.after(world_.latency(subject), &to.node(), [&to, start] { to.arrived(start); });
    };
    if (!mode_.mends) {
      for (auto& [id, host] : hosts_) {
        if (id != from && host->node().alive && !host->draining()) send(*host);
      }
    } else if (Host* host = any_host(world_.chance("placed", start.id, time))) {
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
    if (status.ok()) served_[found->second.function] = world_.now();
    ++answers_[absl::StatusCodeToString(status.code())];
    open_.erase(found);
  }

  // ---- load

  void arrivals(std::uint64_t index) {
    if (world_.healed()) return;
    Random random = world_.chance("arrivals", index);
    // Now and then a burst.
    const std::uint64_t burst = random.chance(0.05) ? 4 + random.below(12) : 1;
    for (std::uint64_t i = 0; i < burst; ++i) arrive(++arrived_);
    world_.after(random.exponential(mode_.arrivals), nullptr, [this, index] { arrivals(index + 1); });
  }

  void arrive(std::uint64_t number) {
    if (world_.now() < quiet_until_) return;
    if (!world_.happens({Choice::Kind::arrival, static_cast<std::uint32_t>(number)})) return;
    Random random = world_.chance("call", number);
    Invoker* invoker = any_invoker(world_.chance("taken by", number));
    if (invoker == nullptr) return;
    const std::string& name = any_function(random);
    const std::int32_t priority = random.chance(0.2) ? static_cast<std::int32_t>(random.below(3)) - 1 : 0;
    const Duration patience = random.between(100ms, kLongestCall);
    start(*invoker, number,
          {.function = name,
           .priority = priority,
           .deadline = world_.now() + patience,
           .at_least = acknowledged_[name],
           .may_end = nullptr},
          false);
    if (world_.fault(0.06, "cancel", number)) {
      const bool running_too = random.chance(0.5);
      world_.after(random.between(0ms, patience / 2), &invoker->node(),
                   [invoker, number, running_too] { invoker->cancel(number, running_too); });
    }
  }

  void start(Invoker& invoker, std::uint64_t number, Wanted wanted, bool probe) {
    ++calls_;
    const RequestId id{.invoker = invoker.id(), .sequence = number};
    open_[id] = {.probe = probe, .function = wanted.function};
    world_.trace(absl::StrFormat("%s arrives for %s", to_string(id), wanted.function));
    invoker.invoke(number, std::move(wanted));
  }

  // ---- trouble

  void next_trouble(std::uint64_t number) {
    const Duration pause = world_.chance("until trouble", number).exponential(2s);
    world_.after(pause, nullptr, [this, number] {
      if (world_.healed()) return;
      next_trouble(number + 1);
      if (world_.happens({Choice::Kind::trouble, static_cast<std::uint32_t>(number)})) trouble(number);
    });
  }

  void trouble(std::uint64_t number) {
    Random random = world_.chance("trouble", number);
    if (mode_.engine_forgets && random.chance(0.5)) flush();
    using Kind = void (Simulation::*)(Random&);
    std::vector<Kind> kinds{&Simulation::redeploy, &Simulation::redeploy, &Simulation::change_rules,
                            &Simulation::remove, &Simulation::lull};
    if (mode_.hosts_crash) kinds.push_back(&Simulation::crash_host);
    if (mode_.hosts_crash) kinds.push_back(&Simulation::drain_host);
    if (mode_.invokers_crash) kinds.push_back(&Simulation::crash_invoker);
    if (mode_.invokers_pause) kinds.push_back(&Simulation::pause_invoker);
    if (mode_.hosts_pause) kinds.push_back(&Simulation::pause_host);
    if (mode_.nodes_cut_off) kinds.push_back(&Simulation::cut_host);
    if (mode_.nodes_cut_off) kinds.push_back(&Simulation::cut_invoker);
    if (mode_.crash_loops) kinds.push_back(&Simulation::crash_loop);
    if (mode_.start_bursts) kinds.push_back(&Simulation::starve);
    if (mode_.massacres) kinds.push_back(&Simulation::massacre);
    (this->*kinds[random.below(kinds.size())])(random);
  }

  // Other code, or other rules for the same.
  void redeploy(Random& random) {
    const std::string& name = any_function(random);
    deploy(name, some_config(random, configs_.at(name).version + 1));
  }
  void change_rules(Random& random) {
    const std::string& name = any_function(random);
    deploy(name, some_config(random, configs_.at(name).version));
  }

  void deploy(const std::string& name, const FunctionConfig& config) {
    configs_[name] = config;
    world_.ask<absl::Status>(
        deployer_, about("define", name, config.version, ++deployed_),
        [this, name, config] { return engine_.define(name, config); },
        [this, name, version = config.version](const absl::Status& status) {
          if (status.ok()) acknowledged_[name] = std::max(acknowledged_[name], version);
        });
  }

  // Nobody calls for a while: what was requested, and is lost, nobody misses.
  void lull(Random& random) {
    quiet_until_ = world_.now() + random.between(2s, 4s);
    const std::string& name = any_function(random);
    FunctionConfig config = some_config(random, configs_.at(name).version + 1);
    config.provisioned = config.caps.max_sandboxes;
    deploy(name, config);
  }

  // It ends, and comes back some time later, as something new.
  void remove(Random& random) {
    const std::string name = any_function(random);
    if (removed_.contains(name)) return;
    const Duration away = random.exponential(1s);
    end(name);
    world_.after(away, nullptr, [this, name] { bring_back(name); });
  }
  void end(const std::string& name) {
    const Version up_to = configs_.at(name).version;
    world_.trace(absl::StrFormat("%s is removed", name));
    removed_.insert(name);
    world_.ask<absl::Status>(
        deployer_, about("remove", name, up_to), [this, name, up_to] { return engine_.remove(name, up_to); },
        [this, name, up_to](const absl::Status& status) {
          // No call that comes from now on runs what ended.
          if (!status.ok()) return;
          acknowledged_[name] = std::max(acknowledged_[name], up_to + 1);
          for (auto& [id, host] : hosts_) {
            world_.after(world_.latency(about("forget", name, id, up_to)), &host->node(),
                         [host = host.get(), name, up_to] { host->forget(name, up_to); });
          }
        });
  }
  void bring_back(const std::string& name) {
    if (removed_.erase(name) == 0) return;
    const Version version = configs_.at(name).version + 1;
    Random random = world_.chance("brought back", name, version);
    deploy(name, some_config(random, version));
  }

  // Everybody who is connected learns of it at once.
  void flush() {
    engine_.forget_everything(configs_, removed_);
    for (auto& [id, host] : hosts_) {
      const Subject subject = about("reconnect", id, world_.elapsed().count());
      world_.after(world_.latency(subject), &host->node(), [&to = *host] { to.announce(); });
    }
  }

  void crash_host(Random& random) {
    Host* host = any_host(random);
    if (host == nullptr) return;
    world_.trace(host->node().name + " loses power");
    host->crash();
    bury_host(host->id());
    another_host(random);
  }
  void another_host(Random& random) {
    world_.after(random.between(500ms, 4s), nullptr, [this] { add_host(); });
  }
  void another_invoker(Random& random) {
    world_.after(random.between(500ms, 4s), nullptr, [this] { add_invoker(); });
  }

  // A host stands still. It was taken for dead meanwhile if that took too long, and knows it when it goes on.
  void pause_host(Random& random) {
    Host* host = any_host(random);
    if (host == nullptr || host->node().disturbed > world_.now()) return;
    const Duration pause = random.between(200ms, 5s);
    world_.trace(host->node().name + " is paused");
    host->node().paused = true;
    host->node().disturbed = world_.now() + pause;
    world_.after(pause, nullptr, [this, host, pause] {
      world_.trace(host->node().name + " resumes");
      if (pause >= kFence) host->fence();
      world_.resume(host->node());
    });
    if (pause < kFence) return;
    bury_host(host->id());
    another_host(random);
  }

  void cut_host(Random& random) {
    Host* host = any_host(random);
    if (host == nullptr || host->node().disturbed > world_.now()) return;
    const Duration takes = cut(random, host->node());
    if (takes < kFence) return;
    world_.after(kFence, nullptr, [host] {
      if (host->node().alive) host->fence();
    });
    bury_host(host->id());
    another_host(random);
  }
  void cut_invoker(Random& random) {
    Invoker* invoker = any_invoker(random);
    if (invoker == nullptr || invoker->node().disturbed > world_.now()) return;
    if (cut(random, invoker->node()) <= 2 * kHeartbeat) return;
    world_.after(2 * kHeartbeat, &observer_, [this, id = invoker->id()] { purge(id, world_.now()); });
  }
  Duration cut(Random& random, Node& node) {
    const std::uint64_t which = random.below(3);
    const bool unheard = which != 1;
    const bool deaf = which != 0;
    const Duration takes = random.between(100ms, 5s);
    world_.trace(absl::StrCat(node.name, " is cut off: ", unheard ? "unheard " : "", deaf ? "deaf" : ""));
    world_.cut(node, unheard, deaf);
    node.disturbed = world_.now() + takes;
    world_.after(takes, nullptr, [this, &node] {
      world_.trace(node.name + " is connected again");
      world_.mend(node);
    });
    return takes;
  }

  // Every start of this code fails, until it has been mended, or was replaced.
  void crash_loop(Random& random) {
    const std::string& name = any_function(random);
    const Duration takes = random.between(500ms, 8s);
    world_.trace(absl::StrFormat("%s v%d crashes at every start", name, configs_.at(name).version));
    world_.curse(name, configs_.at(name).version, world_.now() + takes);
  }
  // As when its host is out of descriptors.
  void starve(Random& random) {
    Host* host = any_host(random);
    if (host == nullptr) return;
    world_.trace(host->node().name + " can start nothing");
    world_.starve(host->id(), world_.now() + random.between(100ms, 2s));
  }
  // Those of one function die together: all, two of them, or all that are idle.
  void massacre(Random& random) {
    const std::string& name = any_function(random);
    const std::uint64_t which = random.below(3);
    std::vector<SandboxId> victims;
    for (const auto& [id, process] : world_.processes()) {
      if (process.function != name || (which == 2 && process.running)) continue;
      if (which != 1 || victims.size() < 2) victims.push_back(id);
    }
    for (const SandboxId& id : victims) {
      if (Host* of = host(id.host)) of->kill(id);
    }
  }

  // The observer says so once it is sure, and again while anything of it is known: a message of the dead
  // may still be on its way.
  void bury_host(HostId id) {
    world_.after(2 * kHeartbeat, &observer_, [this, id] { take_over(id, world_.now() + 15s); });
  }
  void take_over(HostId id, TimePoint until) {
    world_.write_off(id);
    world_.ask<bool>(
        observer_, about("take_over", id, world_.elapsed().count()),
        [this, id] {
          engine_.take_over(id);
          return true;
        },
        [](bool) {});
    if (world_.now() < until || engine_.knows_host(id)) {
      world_.after(kHeartbeat, &observer_, [this, id, until] { take_over(id, until); });
    }
  }

  void drain_host(Random& random) {
    Host* host = any_host(random);
    if (host == nullptr) return;
    world_.trace(host->node().name + " drains");
    host->drain();
    another_host(random);
  }

  void crash_invoker(Random& random) {
    Invoker* invoker = any_invoker(random);
    if (invoker == nullptr) return;
    world_.trace(invoker->node().name + " is killed");
    invoker->crash();
    // Its callers died with it.
    std::erase_if(open_, [&](const auto& entry) { return entry.first.invoker == invoker->id(); });
    for (auto& [id, host] : hosts_) {
      if (host->node().alive && !host->node().paused) host->invoker_lost(invoker->id());
    }
    world_.after(2 * kHeartbeat, &observer_, [this, id = invoker->id()] { purge(id, world_.now() + 15s); });
    another_invoker(random);
  }
  void purge(InvokerId id, TimePoint until) {
    const Invoker* invoker = known_invoker(id);
    if (invoker == nullptr || const_cast<Invoker*>(invoker)->node().beats()) return;
    world_.ask<bool>(
        observer_, about("purge", id, world_.elapsed().count()),
        [this, id] {
          engine_.purge(id);
          return true;
        },
        [](bool) {});
    if (world_.now() < until || engine_.knows_invoker(id)) {
      world_.after(kHeartbeat, &observer_, [this, id, until] { purge(id, until); });
    }
  }

  void pause_invoker(Random& random) {
    Invoker* invoker = any_invoker(random);
    if (invoker == nullptr || invoker->node().disturbed > world_.now()) return;
    world_.trace(invoker->node().name + " is paused");
    invoker->node().paused = true;
    const Duration pause = random.between(200ms, 6s);
    invoker->node().disturbed = world_.now() + pause;
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
      if (queue.find(id) == nullptr && !world_.written_off(id.host)) ++unregistered_[process.function];
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
      const Node& node = host->node();
      if (node.alive && !node.paused) host->audit();
    }
    // I2: nothing stays in between for longer than two heartbeats and an announcement, a running call, and
    // what the network needs to repeat itself.
    const Duration bound = 2 * kHeartbeat + kAnnouncePeriod + kLongestCall + 3s + (mode_.loses() ? 8s : 0s) +
                           (mode_.suspects() ? 6s : 0s);
    std::map<SandboxId, Between> now;
    for (const std::string& name : engine_.names()) {
      for (const auto* record : engine_.queue(name).records()) {
        const SandboxId id = record->sandbox.id;
        bool between = record->state == SandboxState::disputed || record->state == SandboxState::retiring;
        if (record->state == SandboxState::leased && !world_.healed()) {
          Invoker* invoker = known_invoker(record->lease.request.invoker);
          between = invoker == nullptr || !invoker->node().alive ||
                    (!invoker->node().paused && !invoker->minds(record->lease, record->token));
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
    // A host that was counted gone may stand still; once it moves nothing is left on it.
    for (const auto& [id, process] : world_.processes()) {
      const Host* of = host(id.host);
      if (of == nullptr || !world_.written_off(id.host)) continue;
      const Node& node = const_cast<Host*>(of)->node();
      if (!node.paused && node.disturbed + 1s < world_.now()) {
        throw Violation(absl::StrCat("I6: ", to_string(id), " lives on a host that counts as gone"));
      }
    }
    if (mode_.ample_hosts && !world_.healed()) audit_progress();
  }

  // Under overload every function gets on.
  void audit_progress() {
    for (const std::string& name : engine_.names()) {
      TimePoint& last = served_.try_emplace(name, world_.now()).first->second;
      if (removed_.contains(name) || engine_.queue(name).stats().waiters == 0) last = world_.now();
      if (last + 10s < world_.now()) {
        throw Violation(absl::StrCat("fairness: calls wait for ", name, ", and none was served for 10 s"));
      }
    }
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
    healed_at_ = world_.elapsed();
    for (const std::string& name : engine_.names()) bring_back(name);
    // Messages of the past arrive, the dead are buried, the paused resume, calls end.
    run_for(25s);
    for (const auto& [id, open] : open_)
      throw Violation(absl::StrCat("I3: ", to_string(id), " was never answered"));
    while (any_host(world_.chance("any")) == nullptr) add_host();
    while (any_invoker(world_.chance("any")) == nullptr) add_invoker();
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

    // What ends leaves nothing.
    for (const std::string& name : engine_.names()) end(name);
    run_for(2s);
    for (const std::string& name : engine_.names()) {
      const QueueStats stats = engine_.queue(name).stats();
      if (stats.live() + stats.starts_in_flight + stats.waiters != 0 || !engine_.queue(name).vacant()) {
        throw Violation(absl::StrFormat("I2: removed, %s still has %d live, %d starting, %d waiters", name,
                                        stats.live(), stats.starts_in_flight, stats.waiters));
      }
    }
    if (!world_.processes().empty()) {
      throw Violation(absl::StrFormat("I2: every function was removed, and %d processes are left",
                                      world_.processes().size()));
    }
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
      start(*any_invoker(world_.chance("probe", name, i)), kFirstProbe + ++probes_,
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
    std::string function;
  };
  struct Between {
    SandboxState state;
    Token token;
    TimePoint since;
  };

  const Mode& mode_;
  const Run& run_;
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
  std::map<std::string, std::uint64_t> carried_;  // starts, by function
  std::uint64_t arrived_ = 0;
  std::uint64_t probes_ = 0;
  std::uint64_t deployed_ = 0;
  Duration healed_at_{};
  TimePoint quiet_until_{};  // nobody calls
  std::map<std::string, TimePoint> served_;
  std::map<RequestId, Open> open_;
  std::map<SandboxId, Between> between_;
  std::map<std::string, std::uint64_t> unregistered_;
  std::map<std::string, bool> full_;
  std::map<std::string, std::uint64_t> answers_;
  std::uint64_t calls_ = 0;
};

}  // namespace

Report simulate(const Mode& mode, std::uint64_t seed, const Run& run) {
  Report report;
  std::optional<Simulation> simulation;
  try {
    simulation.emplace(mode, seed, run);
    simulation->run();
  } catch (const Violation& violation) {
    report.violation = violation.what();
    if (!simulation) return report;  // the first definition already broke a rule
    simulation->world().trace(absl::StrCat("VIOLATION ", violation.what()));
  }
  simulation->fill(report);
  return report;
}

std::string describe(const Mode& mode, std::uint64_t seed, const Run& run, const Report& report) {
  std::string text;
  if (!report.violation.empty()) {
    for (const std::string& line : report.story) absl::StrAppend(&text, line, "\n");
    absl::StrAppend(&text, report.violation, "\nagain: faaskit_simulation --mode ", std::string(mode.name),
                    " --seed ", seed, " --steps ", run.steps, "\n");
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
