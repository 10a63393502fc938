#include "simulation/world.h"

#include <cstdio>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace faaskit::simulation {

// ---- time

namespace {

constexpr std::uint64_t kMostAtOnce = 100'000;

}  // namespace

void World::at(TimePoint when, Node* node, std::function<void()> what) {
  events_.push({when, sequence_++, node, std::move(what)});
}

void World::every(Duration period, Node* node, std::string_view name, std::function<void()> what) {
  auto tick = std::make_shared<std::function<void()>>();
  // The tick holds itself only weakly; the events hold it.
  *tick = [this, period, node, what = std::move(what), weak = std::weak_ptr(tick)] {
    what();
    after(period, node, [tick = weak.lock()] { (*tick)(); });
  };
  const Duration phase = chance("phase", name, node != nullptr ? node->name : "").between(0ms, period);
  after(phase, node, [tick] { (*tick)(); });
}

bool World::step(TimePoint until) {
  if (events_.empty() || events_.top().when > until) return false;
  Event event = std::move(const_cast<Event&>(events_.top()));
  events_.pop();
  steps_here_ = event.when == now_ ? steps_here_ + 1 : 0;
  if (steps_here_ > kMostAtOnce) throw Violation("driver: again and again, and time stands still");
  now_ = event.when;
  ++steps_;
  if (event.node == nullptr) {
    event.what();
  } else if (event.node->alive) {
    if (event.node->paused) {
      event.node->backlog.push_back(std::move(event.what));
    } else {
      event.what();
    }
  }
  return true;
}

void World::resume(Node& node) {
  node.paused = false;
  while (!node.backlog.empty()) {
    after(0ms, &node, std::move(node.backlog.front()));
    node.backlog.pop_front();
  }
}

void World::die(Node& node) {
  node.alive = false;
  node.died = now_;
  node.backlog.clear();
  node.unsent.clear();
  node.unread.clear();
}

// ---- choices

bool World::happens(const Choice& choice) {
  if (!run_.selection.allows(choice)) return false;
  if (run_.record) happened_.push_back(choice);
  return true;
}

// ---- network

Duration World::latency(const Subject& subject) const {
  if (mode_.no_latency) return 0ns;
  Random random = chance("latency", subject.key);
  return random.chance(0.02) ? random.between(5ms, 60ms) : random.between(50us, 3ms);
}

void World::carry(double lost, bool arrives, TimePoint& last, Node* to, const Subject& subject,
                  const std::function<void()>& what) {
  const bool faulty = mode_.request_lost > 0 && !healed_;
  if (!faulty) {
    // In order, as over one connection; also when the faults have just ended.
    last = std::max(last, now_ + latency(subject));
    at(last, to, what);
    return;
  }
  if (fault(lost, "lost", subject.key, arrives)) {
    trace(absl::StrCat("   lost: ", std::string(subject.verb), arrives ? "" : ", its answer"));
  } else {
    at(now_ + latency(subject), to, what);
  }
  if (fault(mode_.duplicated, "doubled", subject.key, arrives)) {
    Random random = chance("late", subject.key, arrives);
    const bool late = random.chance(mode_.duplicate_late);
    at(now_ + (late ? random.between(100ms, 10s) : random.between(50us, 3ms)), to, what);
  }
}

// What has left its node arrives even if the node is dead by then.
void World::to_engine(Node& from, const Subject& subject, std::function<void()> what) {
  if (from.unheard) {
    if (!mode_.cuts_lose) from.unsent.push_back(std::move(what));
    return;
  }
  carry(mode_.request_lost, true, from.last_arrival, nullptr, subject, what);
}

void World::from_engine(Node& to, const Subject& subject, std::function<void()> what) {
  if (to.deaf) {
    if (!mode_.cuts_lose) to.unread.push_back(std::move(what));
    return;
  }
  carry(mode_.reply_lost, false, to.last_delivery, &to, subject, what);
}

void World::cut(Node& node, bool unheard, bool deaf) {
  node.unheard = unheard;
  node.deaf = deaf;
}

void World::mend(Node& node) {
  node.unheard = node.deaf = false;
  const auto pass_on = [this](std::deque<Node::What>& held, TimePoint& last, Node* to) {
    for (; !held.empty(); held.pop_front()) at(last = std::max(last, now_), to, std::move(held.front()));
  };
  pass_on(node.unsent, node.last_arrival, nullptr);
  pass_on(node.unread, node.last_delivery, &node);
}

// ---- processes

Process& World::process(const SandboxId& id) {
  auto found = processes_.find(id);
  if (found == processes_.end()) throw Violation(absl::StrCat("driver: no process behind ", to_string(id)));
  return found->second;
}

void World::process_begins(const SandboxId& id, const StartRequest& start, const SandboxRules& rules) {
  Process process;
  process.function = start.function;
  process.version = start.version;
  process.start = start.id;
  process.rules = rules;
  if (!processes_.emplace(id, std::move(process)).second) {
    throw Violation(absl::StrCat("driver: ", to_string(id), " made twice"));
  }
}

void World::body_begins(const SandboxId& id, const RequestId& request, Version at_least) {
  Process& process = this->process(id);
  if (process.running) {
    throw Violation(absl::StrCat("I1: ", to_string(request), " begins on ", to_string(id), " where ",
                                 to_string(process.running_for), " runs"));
  }
  if (!process.clean) {
    throw Violation(absl::StrCat("I7: ", to_string(request), " begins on ", to_string(id),
                                 " whose last call, ", to_string(process.running_for), ", was not clean"));
  }
  ++process.bodies;
  if (process.over) {
    throw Violation(
        absl::StrFormat("lifetime: %s begins on %s, which had served enough: it is call %d of %s, %.1f s old",
                        to_string(request), to_string(id), process.bodies,
                        process.rules.max_uses ? absl::StrCat(*process.rules.max_uses) : "any",
                        std::chrono::duration<double>(now_ - process.rules.ends_at).count()));
  }
  if (process.frozen) {
    throw Violation(
        absl::StrCat("I9: ", to_string(request), " was sent to ", to_string(id), ", frozen, without a thaw"));
  }
  if (written_off_.contains(id.host)) {
    throw Violation(absl::StrCat("I6: ", to_string(request), " begins on ", to_string(id),
                                 ", whose host counts as gone"));
  }
  if (process.version < at_least) {
    throw Violation(
        absl::StrFormat("I8: %s came after version %d was acknowledged, and runs version %d on %s",
                        to_string(request), at_least, process.version, to_string(id)));
  }
  const std::uint64_t key = name_of("request", request);
  for (; !executed_at_.empty() && executed_at_.front().first + kForgotten < now_; executed_at_.pop_front()) {
    executed_.erase(executed_at_.front().second);
  }
  executed_at_.emplace_back(now_, key);
  ++executions_;
  if (++executed_[key] > 1) {
    throw Violation(absl::StrCat("I1: ", to_string(request), " runs a second time, on ", to_string(id)));
  }
  process.running = true;
  process.clean = false;
  process.running_for = request;
}

void World::body_ends(const SandboxId& id, bool clean) {
  Process& process = this->process(id);
  process.running = false;
  process.clean = clean;
  const SandboxRules& rules = process.rules;
  process.over = (rules.max_uses && process.bodies >= *rules.max_uses) || now_ >= rules.ends_at;
}

void World::freeze(const SandboxId& id) {
  Process& process = this->process(id);
  if (process.running) throw Violation(absl::StrCat("I9: ", to_string(id), " is frozen while a call runs"));
  process.frozen = true;
}

void World::died(const SandboxId& id) {
  Process& process = this->process(id);
  process.alive = false;
  process.running = false;
  process.clean = false;
}

void World::reaped(const SandboxId& id) {
  if (process(id).alive) throw Violation(absl::StrCat("driver: ", to_string(id), " reaped alive"));
  processes_.erase(id);
}

// ---- what functions are like

// Several sandboxes of any fit every host.
std::uint64_t World::memory_of(const std::string& function) const {
  return mode_.memory_budget ? chance("memory", function).below(5) * (64u << 20) : 0;
}

SandboxRules World::rules_of(const SandboxId& id, const StartRequest& start) const {
  if (!mode_.lifetimes || healed_) return {};
  Random random = chance("lifetime", start.function, start.version);
  Lifetime lifetime{.ping_after = std::chrono::milliseconds(100 + random.below(1000))};
  if (random.chance(0.5)) lifetime.max_uses = 1 + random.below(12);
  if (random.chance(0.5)) lifetime.max_age = std::chrono::milliseconds(500 + random.below(8000));
  return sandbox_rules(lifetime, now_, chance("age", id).unit());
}

// ---- starts that fail

void World::curse(const std::string& function, Version version, TimePoint until) {
  cursed_[function] = {version, until};
}

bool World::start_fails(const StartRequest& start, HostId host) const {
  if (healed_) return false;
  const auto cursed = cursed_.find(start.function);
  if (cursed != cursed_.end() && cursed->second.first == start.version && now_ < cursed->second.second) {
    return true;
  }
  const auto starving = starving_.find(host);
  return starving != starving_.end() && now_ < starving->second;
}

void World::forget_host(HostId host) {
  starving_.erase(host);
  written_off_.erase(host);
}

// ---- the story

void World::trace(std::string line) {
  std::string stamped = absl::StrFormat("%12.6f %s", std::chrono::duration<double>(elapsed()).count(), line);
  for (const char c : stamped) fingerprint_ = (fingerprint_ ^ static_cast<unsigned char>(c)) * 1099511628211u;
  const std::string broken = watch_ ? watch_(line) : "";
  if (run_.verbose) std::printf("%s\n", stamped.c_str());
  ++lines_;
  story_.push_back(std::move(stamped));
  if (!run_.record && story_.size() > 60) story_.pop_front();
  if (broken.empty()) return;
  watch_ = nullptr;
  throw Violation(broken);
}

}  // namespace faaskit::simulation
