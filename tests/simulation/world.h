// The world of a simulation: virtual time, nodes that may pause or die, a network between them and the
// engine, and the processes that sandboxes really are. What must never happen is checked here, where
// nobody can be mistaken about it.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "faaskit/core/queue_types.h"
#include "simulation/mode.h"
#include "simulation/random.h"

namespace faaskit::simulation {

using TimePoint = std::chrono::steady_clock::time_point;
using namespace std::chrono_literals;

constexpr Duration kHeartbeat = 1s;
constexpr Duration kRepairPeriod = 1s;
constexpr Duration kAnnouncePeriod = 5s;
constexpr std::chrono::milliseconds kGrace = 15ms;

// An invariant did not hold. `what` begins with its name.
class Violation : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// A process of ours: an invoker, a host, an observer. What is sent to a paused one waits until it
// resumes, its own timers too; what is sent to a dead one is lost.
struct Node {
  std::string name;
  bool alive = true;
  bool paused = false;
  std::deque<std::function<void()>> backlog;
  TimePoint last_arrival{};   // of what it sent to the engine
  TimePoint last_delivery{};  // of what the engine sent to it
};

// A sandbox, as the kernel would see it.
struct Process {
  std::string function;
  Version version = 0;
  StartId start;
  bool alive = true;
  bool frozen = false;
  bool running = false;
  bool clean = true;
  RequestId running_for;
};

class World {
 public:
  World(std::uint64_t seed, const Mode& mode, bool verbose) : random(seed), mode_(mode), verbose_(verbose) {}

  Random random;
  const Mode& mode() const { return mode_; }
  TimePoint now() const { return now_; }
  std::uint64_t steps() const { return steps_; }
  // From now on nothing fails any more.
  void heal() { healed_ = true; }
  bool healed() const { return healed_; }

  // -- Time
  void at(TimePoint when, Node* node, std::function<void()> what);
  void after(Duration delay, Node* node, std::function<void()> what) {
    at(now_ + delay, node, std::move(what));
  }
  // Every `period` from a random phase on, as long as the node lives.
  void every(Duration period, Node* node, std::function<void()> what);
  // Runs the next event; false if there is none before `until`.
  bool step(TimePoint until);
  void resume(Node& node);

  // -- Network
  // Runs `what` at the engine on behalf of `from`: once, never, or twice.
  void to_engine(Node& from, std::function<void()> what);
  void from_engine(Node& to, std::function<void()> what);
  // Asks the engine and repeats that until an answer has come, or `wanted` says no.
  template <class Reply>
  void ask(Node& from, std::function<Reply()> serve, std::function<void(const Reply&)> answered,
           std::function<bool()> wanted = nullptr) {
    auto question = std::make_shared<Question<Reply>>(
        Question<Reply>{&from, std::move(serve), std::move(answered), std::move(wanted), false});
    send(question);
  }
  Duration latency();

  // -- Processes (I1, I6, I7, I8, I9 and "runs at most once")
  std::map<SandboxId, Process>& processes() { return processes_; }
  Process& process(const SandboxId& id);
  void process_begins(const SandboxId& id, const StartRequest& start);
  void body_begins(const SandboxId& id, const RequestId& request, Version at_least);
  void body_ends(const SandboxId& id, bool clean);
  void freeze(const SandboxId& id);
  void thaw(const SandboxId& id) { process(id).frozen = false; }
  void died(const SandboxId& id);
  void reaped(const SandboxId& id);
  std::uint64_t executions() const { return executed_.size(); }

  // -- The story so far
  void trace(std::string line);
  const std::deque<std::string>& story() const { return story_; }
  std::uint64_t fingerprint() const { return fingerprint_; }

 private:
  struct Event {
    TimePoint when;
    std::uint64_t sequence;
    Node* node;
    std::function<void()> what;
    friend bool operator<(const Event& a, const Event& b) {
      return std::pair(a.when, a.sequence) > std::pair(b.when, b.sequence);  // the earliest on top
    }
  };
  template <class Reply>
  struct Question {
    Node* from;
    std::function<Reply()> serve;
    std::function<void(const Reply&)> answered;
    std::function<bool()> wanted;
    bool done;
  };

  template <class Reply>
  void send(std::shared_ptr<Question<Reply>> question) {
    to_engine(*question->from, [this, question] {
      Reply reply = question->serve();
      from_engine(*question->from, [question, reply] {
        if (std::exchange(question->done, true)) return;
        question->answered(reply);
      });
    });
    if (mode_.request_lost == 0 && mode_.reply_lost == 0) return;
    after(random.between(150ms, 400ms), question->from, [this, question] {
      if (question->done || (question->wanted && !question->wanted())) return;
      send(question);
    });
  }
  void carry(double lost, TimePoint& last, Node* to, const std::function<void()>& what);

  const Mode& mode_;
  const bool verbose_;
  bool healed_ = false;
  TimePoint now_{std::chrono::hours(1)};
  std::uint64_t steps_ = 0;
  std::uint64_t sequence_ = 0;
  std::priority_queue<Event> events_;
  std::map<SandboxId, Process> processes_;
  std::map<RequestId, int> executed_;
  std::deque<std::string> story_;
  std::uint64_t fingerprint_ = 1469598103934665603u;
};

}  // namespace faaskit::simulation
