#include "simulation/world.h"

#include <cstdio>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace faaskit::simulation {

// ---- time

void World::at(TimePoint when, Node* node, std::function<void()> what) {
  events_.push({when, sequence_++, node, std::move(what)});
}

void World::every(Duration period, Node* node, std::function<void()> what) {
  auto tick = std::make_shared<std::function<void()>>();
  // The tick holds itself only weakly; the events hold it.
  *tick = [this, period, node, what = std::move(what), weak = std::weak_ptr(tick)] {
    what();
    after(period, node, [tick = weak.lock()] { (*tick)(); });
  };
  after(random.between(0ms, period), node, [tick] { (*tick)(); });
}

bool World::step(TimePoint until) {
  if (events_.empty() || events_.top().when > until) return false;
  Event event = std::move(const_cast<Event&>(events_.top()));
  events_.pop();
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

// ---- network

Duration World::latency() {
  if (mode_.no_latency) return 0ns;
  return random.chance(0.02) ? random.between(5ms, 60ms) : random.between(50us, 3ms);
}

void World::carry(double lost, TimePoint& last, Node* to, const std::function<void()>& what) {
  const bool faulty = mode_.request_lost > 0 && !healed_;
  if (!faulty) {
    // In order, as over one connection; also when the faults have just ended.
    last = std::max(last, now_ + latency());
    at(last, to, what);
    return;
  }
  if (!random.chance(lost)) at(now_ + latency(), to, what);
  if (random.chance(mode_.duplicated)) {
    const Duration late = random.chance(mode_.duplicate_late) ? random.between(100ms, 10s) : latency();
    at(now_ + late, to, what);
  }
}

// What has left its node arrives even if the node is dead by then.
void World::to_engine(Node& from, std::function<void()> what) {
  carry(mode_.request_lost, from.last_arrival, nullptr, what);
}

void World::from_engine(Node& to, std::function<void()> what) {
  carry(mode_.reply_lost, to.last_delivery, &to, what);
}

// ---- processes

Process& World::process(const SandboxId& id) {
  auto found = processes_.find(id);
  if (found == processes_.end()) throw Violation(absl::StrCat("driver: no process behind ", to_string(id)));
  return found->second;
}

void World::process_begins(const SandboxId& id, const StartRequest& start) {
  Process process;
  process.function = start.function;
  process.version = start.version;
  process.start = start.id;
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
  if (process.frozen) {
    throw Violation(
        absl::StrCat("I9: ", to_string(request), " was sent to ", to_string(id), ", frozen, without a thaw"));
  }
  if (process.version < at_least) {
    throw Violation(
        absl::StrFormat("I8: %s came after version %d was acknowledged, and runs version %d on %s",
                        to_string(request), at_least, process.version, to_string(id)));
  }
  if (++executed_[request] > 1) {
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

// ---- the story

void World::trace(std::string line) {
  std::string stamped = absl::StrFormat(
      "%12.6f %s", std::chrono::duration<double>(now_.time_since_epoch() - std::chrono::hours(1)).count(),
      line);
  for (const char c : stamped) fingerprint_ = (fingerprint_ ^ static_cast<unsigned char>(c)) * 1099511628211u;
  if (verbose_) std::printf("%s\n", stamped.c_str());
  story_.push_back(std::move(stamped));
  if (story_.size() > 60) story_.pop_front();
}

}  // namespace faaskit::simulation
