// A host of a simulation: the production SandboxMachine and StartMachine with the least driver around
// them. It runs processes of the World, and speaks with the engine over its network.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>

#include "faaskit/invoke/invocation_machine.h"
#include "faaskit/provision/sandbox_machine.h"
#include "faaskit/provision/start_machine.h"
#include "simulation/engine.h"
#include "simulation/world.h"

namespace faaskit::simulation {

struct Call {
  SandboxId sandbox;
  Token token = 0;
  LeaseId lease;
  TimePoint deadline{};
  // No code older than this may run it (I8).
  Version at_least = 0;
  // Runs until told otherwise; unset: as long as chance says.
  std::function<bool()> may_end;
};

class Host {
 public:
  using Reply = std::function<void(const InvocationMachine::CallEnd&)>;
  // Passes a start on to another host.
  using Forward = std::function<void(const StartRequest&)>;

  Host(World& world, Engine& engine, HostId id, StartLimits limits, Forward forward);

  HostId id() const { return id_; }
  Node& node() { return node_; }
  bool draining() const { return draining_; }
  bool empty() const { return sandboxes_.empty(); }

  void arrived(const StartRequest& start);
  // The function's versions up to this one were removed.
  void forget(const std::string& function, Version up_to);
  void call(const Call& call, Reply reply);
  void notice(const HostNotice& notice);
  void announce();
  void drain();
  void fence();
  bool fenced() const { return fenced_; }
  void kill(const SandboxId& id);
  // The caller does not want the answer any more: what has begun is cut.
  void cancel(const SandboxId& id, const LeaseId& lease);
  // The machine loses power: every process is gone with it.
  void crash();
  // The connection to an invoker ended: its running calls are cut, or left to end.
  void invoker_lost(InvokerId invoker);

  // Its machines against what they must keep.
  void audit() const;
  // What the engine holds for this host against what is here; only true of a world at rest.
  void check_view(const Engine& engine) const;

 private:
  struct Running {
    std::uint64_t serial;
    bool begun = false;
    Call call;
    Reply reply;
    Duration idle_for{};
  };
  struct Held {
    Held(const Sandbox& sandbox, StartRequest request, const SandboxRules& rules, std::uint64_t memory)
        : machine(sandbox, request.id, rules), start(std::move(request)), bytes(memory) {}
    SandboxMachine machine;
    StartRequest start;
    std::uint64_t bytes;
    bool made = false;  // there is a process
    bool ready = false;
    bool unwanted = false;  // destroy it when its call has ended
    bool withdrawing = false;
    bool evicted = false;
    bool kept = false;  // the engine would not let it go; asked again later
    std::optional<Running> running;
    std::uint64_t freezes = 0;
    Token seen = 0;  // the highest token that came here: the fence must not fall behind it
  };

  Held* find(std::uint64_t number);
  void pump();
  void check_turn(const StartRequest& start);
  void arm_room_timer();
  void give_back(const StartRequest& start);
  void say_gone(const StartRequest& start, const SandboxId& claimed_for);
  void begin(const StartMachine::Next& next);
  void make_room(const StartMachine::Next& next);
  Held* least_recently_used(const StartMachine::Next& next);
  void make(std::uint64_t number);
  void became_ready(Held& held);
  void evict(Held& victim, const StartRequest& wanted);
  void watch_age(Held& held);
  void offer(Held& held, const Offer& offer);
  void answer(Held& held, Token token, const LeaseId& lease, bool suspect);
  void became_idle(Held& held);
  void run_body(Held& held);
  void end_call(Held& held, InvocationMachine::CallEnd end);
  void retire(Held& held);
  // Kills it, answers its call, reaps it, reports it.
  void destroy(Held& held, const absl::Status& why);
  void on_death(Held& held, const absl::Status& why);
  void reaped(std::uint64_t number, const absl::Status& why);
  void report_gone(const std::string& function, const SandboxId& id);
  bool failing() const { return world_.mode().sandboxes_fail && !world_.healed(); }

  World& world_;
  Engine& engine_;
  const HostId id_;
  Node node_;
  const StartLimits limits_;
  Forward forward_;
  StartMachine starts_;
  struct Reserved {
    StartRequest start;
    SandboxId id;
  };
  std::map<StartId, Reserved> reserved_;  // claimed for room
  struct Waiting {
    std::map<StartId, Version> starts;
    std::set<std::string> passed_over;  // who was served since
  };
  std::map<std::string, Waiting> waiting_;  // by function
  TimePoint room_timer_ = TimePoint::max();
  std::map<std::uint64_t, std::unique_ptr<Held>> sandboxes_;
  std::uint64_t last_number_ = 0;
  std::uint64_t last_call_ = 0;
  std::uint64_t asked_ = 0;
  std::uint64_t announced_ = 0;
  bool draining_ = false;
  bool fenced_ = false;
};

}  // namespace faaskit::simulation
