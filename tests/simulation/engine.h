// The engine of a simulation: the production FunctionQueues, and a check of what they must keep after
// every step (I1 to I6, I10).
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "faaskit/core/function_queue.h"
#include "simulation/world.h"

namespace faaskit::simulation {

struct Granted {
  std::string function;
  Sandbox sandbox;
  Token token = 0;
  LeaseId lease;
  Ticket ticket = 0;
  StartKind start = StartKind::warm;
};

struct AcquireAnswer {
  FunctionQueue::AcquireOutcome outcome = FunctionQueue::AcquireOutcome::refused;
  Granted granted;    // leased
  Ticket ticket = 0;  // queued
  absl::Status status;
};

// Where the engine's words go.
class Listeners {
 public:
  virtual ~Listeners() = default;
  virtual void granted(InvokerId invoker, const Granted& lease) = 0;
  virtual void failed(const LeaseId& waiting, const absl::Status& why) = 0;
  // Invoker 0: any.
  virtual void starts(InvokerId invoker, const std::vector<StartRequest>& starts) = 0;
  virtual void notice(HostId host, const HostNotice& notice) = 0;
};

class Engine {
 public:
  Engine(World& world, Listeners& listeners) : world_(world), listeners_(listeners) {}
  void add_function(const std::string& name, const FunctionConfig& config, std::uint32_t shards);

  // The operations of the port.
  absl::Status define(const std::string& function, const FunctionConfig& config);
  absl::Status remove(const std::string& function, Version up_to);
  std::optional<Granted> try_acquire(const std::string& function, const RequestId& request,
                                     std::uint32_t attempt, ShardIndex shard);
  AcquireAnswer acquire(const std::string& function, const FunctionQueue::Waiter& wanted);
  void cancel(const std::string& function, const RequestId& request, std::uint32_t attempt);
  absl::Status claim(const StartRequest& start, const SandboxId& sandbox, bool needs_room);
  absl::Status offer(const std::string& function, const Offer& offer);
  void settle(const Granted& lease, Outcome outcome);
  absl::Status withdraw(const std::string& function, const SandboxId& sandbox, WithdrawReason reason);
  absl::Status start_failed(const StartRequest& start, const SandboxId& sandbox, const absl::Status& why);
  void gone(const std::string& function, const SandboxId& sandbox);
  void gone(const StartRequest& start, const SandboxId& claimed_for);
  std::vector<HeldSandbox> announce(HostId host, const std::vector<AnnouncedSandbox>& sandboxes);
  void purge(InvokerId invoker);
  void drain(HostId host);
  void take_over(HostId host);
  RepairReport repair(InvokerId invoker);

  // Everything it knew is lost; `config` is what the functions are at once defined with again, and `removed`
  // names those that ended.
  void forget_everything(const std::map<std::string, FunctionConfig>& config,
                         const std::set<std::string>& removed);
  std::uint64_t nonce(const std::string& function) const { return functions_.at(function)->nonce; }

  const FunctionQueue& queue(const std::string& function) const { return *functions_.at(function)->queue; }
  std::vector<std::string> names() const;
  // Anything here that belongs to it: what an observer of deaths looks at.
  bool knows_invoker(InvokerId invoker) const;
  bool knows_host(HostId host) const;
  void forget_the_gone(const std::function<bool(HostId)>& known_host);

 private:
  using Waiter = FunctionQueue::Waiter;
  struct Known {  // of a sandbox, after the last step
    SandboxState state;
    Token token;
    LeaseId lease;
  };
  struct Function {
    std::uint64_t nonce = 0;
    std::uint32_t shards = 1;
    std::unique_ptr<FunctionQueue> queue;
    FunctionQueue::Effects effects;
    std::map<const Waiter*, std::unique_ptr<Waiter>> waiting;  // never iterated
    std::map<SandboxId, Known> known;
    std::map<SandboxId, Token> tokens;  // the last granted
    std::map<StartId, Version> starts;  // in flight
    std::uint64_t counted = 0;          // live and starting
    std::map<StartId, SandboxId> claimed;
    std::uint64_t epoch = 0;            // it was forgotten so often
    std::uint64_t failed_in_a_row = 0;  // starts
    TimePoint quiet_until{};            // no new start before: the last one failed
    bool broken = false;                // the breaker is open, or half open from quiet_until on
    void forgive() {
      failed_in_a_row = 0;
      quiet_until = {};
      broken = false;
    }
    std::uint64_t inserted = 0;  // by announcements, in this step
    TimePoint timer = TimePoint::max();
    TimePoint carried_at{};  // starts, or there was none to carry
    Version ended = 0;       // the largest that was removed
  };
  // What a step may do to leases and to the line besides granting.
  struct Step {
    std::string name;
    std::optional<RequestId> of = {};  // its own request: its lease may end, it may join the line
    std::optional<std::pair<Token, LeaseId>> ends = {};
    Granted* direct = nullptr;  // leased without waiting
    bool inserts = false;
    bool fresh = false;  // the offer of a new sandbox
    bool removes = false;
    bool quiet = false;
  };

  Function& function(const std::string& name) { return *functions_.at(name); }
  void begin(Function& function, const std::string& name, const FunctionConfig& config);
  void finish(Function& function, const Step& step);
  void check(Function& function, const Step& step);
  void forget(Function& function, const Waiter* waiter);
  void arm(Function& function);

  World& world_;
  Listeners& listeners_;
  std::map<std::string, std::unique_ptr<Function>> functions_;
  std::set<HostId> draining_;
};

}  // namespace faaskit::simulation
