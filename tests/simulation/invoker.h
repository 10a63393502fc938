// An invoker of a simulation: one production InvocationMachine per call, with the least driver around it.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "faaskit/invoke/invocation_machine.h"
#include "simulation/engine.h"
#include "simulation/host.h"
#include "simulation/world.h"

namespace faaskit::simulation {

struct Wanted {
  std::string function;
  std::int32_t priority = 0;
  TimePoint deadline{};
  Version at_least = 0;
  std::function<bool()> may_end;  // see Call
};

// What an invoker has around it.
class Surroundings {
 public:
  virtual ~Surroundings() = default;
  // nullptr: dead.
  virtual Host* host(HostId id) = 0;
  virtual void carry(const StartRequest& start) = 0;
  virtual void completed(const RequestId& request, const absl::Status& status) = 0;
};

class Invoker {
 public:
  Invoker(World& world, Engine& engine, Surroundings& around, InvokerId id);

  InvokerId id() const { return id_; }
  Node& node() { return node_; }

  void invoke(std::uint64_t sequence, Wanted wanted);
  // The caller gives up.
  void cancel(std::uint64_t sequence, bool running_too);

  // What the engine sends.
  void granted(const Granted& lease);
  void failed(const LeaseId& waiting, const absl::Status& why);
  void starts(const std::vector<StartRequest>& starts);

  void crash() { world_.die(node_); }
  std::size_t unfinished() const { return invocations_.size(); }
  // Does it wait for this lease, use it, or still have to settle it?
  bool minds(const LeaseId& lease, Token token) const;

 private:
  static constexpr std::uint32_t kMaxAttempts = 8;
  struct Invocation {
    Invocation(TimePoint deadline, RequestId request) : machine(deadline, kMaxAttempts), id(request) {}
    InvocationMachine machine;
    RequestId id;
    Wanted wanted;
    Ticket ticket = 0;   // the engine's last word, kept also if no lease ever brought it
    bool asked = false;  // the current attempt is with the engine, by its own word
    std::optional<Granted> lease;
    SandboxId last_sandbox;  // and token: of the last lease
    Token last_token = 0;
    bool called = false;
    std::uint32_t asked_for = 0;
  };

  Invocation* find(const LeaseId& waiting);
  void act(Invocation& invocation, InvocationMachine::Step step);
  void acquire(Invocation& invocation);
  void call(Invocation& invocation);
  void called(const LeaseId& lease, Token token, const InvocationMachine::CallEnd& end);
  void give_up(Invocation& invocation, const absl::Status& why);
  void settle(const Granted& lease, Outcome outcome);
  void cancel_at_engine(const std::string& function, const RequestId& request, std::uint32_t attempt);
  void repair();

  World& world_;
  Engine& engine_;
  Surroundings& around_;
  const InvokerId id_;
  Node node_;
  std::uint64_t asked_ = 0;
  std::uint64_t repaired_ = 0;
  std::map<std::uint64_t, std::unique_ptr<Invocation>> invocations_;
  std::map<std::pair<LeaseId, Token>, int> settling_;
};

}  // namespace faaskit::simulation
