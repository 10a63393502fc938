// The world of a simulation: virtual time, nodes that may pause, be cut off or die, a network between them
// and the engine, and the processes that sandboxes really are. What must never happen is checked here,
// where nobody can be mistaken about it.
//
// There is one clock, and it is steady: the rules are given no other, so a wall clock may jump as it likes.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <queue>
#include <set>
#include <stdexcept>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "faaskit/core/queue_types.h"
#include "faaskit/provision/lifetime.h"
#include "simulation/choice.h"
#include "simulation/mode.h"
#include "simulation/random.h"

namespace faaskit::simulation {

using TimePoint = std::chrono::steady_clock::time_point;
using namespace std::chrono_literals;

constexpr Duration kHeartbeat = 1s;
constexpr Duration kRepairPeriod = 1s;
constexpr Duration kAnnouncePeriod = 5s;
constexpr std::chrono::milliseconds kGrace = 15ms;
// A node that could not renew its heartbeat for this long knows that others may soon take it for dead.
constexpr Duration kFence = kHeartbeat + kHeartbeat / 2;
// Nobody speaks any more of what ended so long ago.
constexpr Duration kForgotten = 120s;

// An invariant did not hold. `what` begins with its name.
class Violation : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Looks at every line of the story: an invariant of one test alone. Empty: it holds.
using Watch = std::function<std::string(const std::string& line)>;

// How a simulation is run.
struct Run {
  std::uint64_t steps = 20000;
  // Ends then instead, which means the same whatever was left out.
  std::optional<Duration> until{};
  // After that all must become well. False: what comes then is not looked at.
  bool heals = true;
  Selection selection{};
  // Keep every choice and every line.
  bool record = false;
  bool verbose = false;
  // Makes a new one for each run.
  std::function<Watch()> watch{};
};

// What a message is about; equal for its repetitions.
struct Subject {
  std::string_view verb;
  std::uint64_t key;
};
template <class... About>
Subject about(std::string_view verb, const About&... what) {
  return {verb, name_of(verb, what...)};
}

// A process of ours: an invoker, a host, an observer. What is sent to a paused one waits until it
// resumes, its own timers too; what is sent to a dead one is lost. One that is cut off from the engine is
// not heard there, or hears nothing, or both.
struct Node {
  using What = std::function<void()>;
  std::string name;
  bool alive = true;
  bool paused = false;
  bool unheard = false;
  bool deaf = false;
  std::deque<What> backlog;
  std::deque<What> unsent;    // while unheard, where nothing is lost
  std::deque<What> unread;    // while deaf
  TimePoint last_arrival{};   // of what it sent to the engine
  TimePoint last_delivery{};  // of what the engine sent to it
  TimePoint disturbed{};      // paused or cut off until then
  TimePoint died = TimePoint::max();
  // Does anybody see its heart beat?
  bool beats() const { return alive && !paused && !unheard; }
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
  // It lives, and answers nothing any more: its host has no sign of that.
  bool stuck = false;
  std::uint64_t bodies = 0;
  SandboxRules rules;
  bool over = false;  // it has served enough
  RequestId running_for;
};

class World {
 public:
  World(std::uint64_t seed, const Mode& mode, const Run& run)
      : seed_(seed), mode_(mode), run_(run), watch_(run.watch ? run.watch() : nullptr) {}

  const Mode& mode() const { return mode_; }
  TimePoint now() const { return now_; }
  Duration elapsed() const { return now_ - kBegin; }
  std::uint64_t steps() const { return steps_; }
  // From now on nothing fails any more.
  void heal() { healed_ = true; }
  bool healed() const { return healed_; }

  // -- Chance. `what` and what it is about name the decision.
  template <class... About>
  Random chance(std::string_view what, const About&... about) const {
    return Random(fold(seed_, name_of(what, about...)));
  }
  // Does this fault happen? Never in a world that has healed.
  template <class... About>
  bool fault(double probability, std::string_view what, const About&... about) {
    if (healed_ || probability == 0) return false;
    const std::uint64_t key = fold(seed_, name_of(what, about...));
    return Random(key).chance(probability) &&
           happens({Choice::Kind::fault, static_cast<std::uint32_t>(key >> 32)});
  }
  bool happens(const Choice& choice);
  const std::vector<Choice>& happened() const { return happened_; }

  // -- Time
  void at(TimePoint when, Node* node, std::function<void()> what);
  void after(Duration delay, Node* node, std::function<void()> what) {
    at(now_ + delay, node, std::move(what));
  }
  // Every `period` from a random phase on, as long as the node lives.
  void every(Duration period, Node* node, std::string_view name, std::function<void()> what);
  // Runs the next event; false if there is none before `until`.
  bool step(TimePoint until);
  void resume(Node& node);
  void die(Node& node);

  // -- Network
  // Runs `what` at the engine on behalf of `from`: once, never, or twice.
  void to_engine(Node& from, const Subject& subject, std::function<void()> what);
  void from_engine(Node& to, const Subject& subject, std::function<void()> what);
  // Asks the engine and repeats that until an answer has come, or `wanted` says no.
  template <class Reply>
  void ask(Node& from, const Subject& subject, std::function<Reply()> serve,
           std::function<void(const Reply&)> answered, std::function<bool()> wanted = nullptr) {
    auto question = std::make_shared<Question<Reply>>(
        Question<Reply>{&from, subject, std::move(serve), std::move(answered), std::move(wanted), 0, false});
    send(question);
  }
  Duration latency(const Subject& subject) const;
  // The wire of a node is cut, in one direction or both, and mended.
  void cut(Node& node, bool unheard, bool deaf);
  void mend(Node& node);

  // -- Processes (I1, I6, I7, I8, I9 and "runs at most once")
  std::map<SandboxId, Process>& processes() { return processes_; }
  Process& process(const SandboxId& id);
  void process_begins(const SandboxId& id, const StartRequest& start, const SandboxRules& rules);
  void body_begins(const SandboxId& id, const RequestId& request, Version at_least);
  void body_ends(const SandboxId& id, bool clean);
  void freeze(const SandboxId& id);
  void thaw(const SandboxId& id) { process(id).frozen = false; }
  void died(const SandboxId& id);
  void reaped(const SandboxId& id);
  std::uint64_t executions() const { return executions_; }

  // -- What functions are like
  std::uint64_t memory_of(const std::string& function) const;
  SandboxRules rules_of(const SandboxId& id, const StartRequest& start) const;
  Duration ping_timeout() const { return 100ms; }

  // -- Where every start fails for a while
  void curse(const std::string& function, Version version, TimePoint until);
  void starve(HostId host, TimePoint until) { starving_[host] = until; }
  bool start_fails(const StartRequest& start, HostId host) const;

  // The host counts as gone from now on. While it stands still its processes are more than the caps allow;
  // but nothing begins on it any more.
  void write_off(HostId host) { written_off_.insert(host); }
  bool written_off(HostId host) const { return written_off_.contains(host); }
  void forget_host(HostId host);

  // -- The story so far
  void trace(std::string line);
  const std::deque<std::string>& story() const { return story_; }
  std::uint64_t lines() const { return lines_; }
  std::uint64_t fingerprint() const { return fingerprint_; }
  // The function that the last step was about.
  std::string subject;

 private:
  static constexpr TimePoint kBegin{std::chrono::hours(1)};
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
    Subject subject;
    std::function<Reply()> serve;
    std::function<void(const Reply&)> answered;
    std::function<bool()> wanted;
    std::uint32_t sent;
    bool done;
  };

  template <class Reply>
  void send(std::shared_ptr<Question<Reply>> question) {
    const Subject subject{question->subject.verb, fold(question->subject.key, ++question->sent)};
    to_engine(*question->from, subject, [this, question, subject] {
      Reply reply = question->serve();
      from_engine(*question->from, subject, [question, reply] {
        if (std::exchange(question->done, true)) return;
        question->answered(reply);
      });
    });
    if (!mode_.loses()) return;
    after(chance("repeat", subject.key).between(150ms, 400ms), question->from, [this, question] {
      if (question->done || (question->wanted && !question->wanted())) return;
      send(question);
    });
  }
  void carry(double lost, bool arrives, TimePoint& last, Node* to, const Subject& subject,
             const std::function<void()>& what);

  const std::uint64_t seed_;
  const Mode& mode_;
  const Run& run_;
  Watch watch_;
  bool healed_ = false;
  TimePoint now_ = kBegin;
  std::uint64_t steps_ = 0;
  std::uint64_t steps_here_ = 0;  // at this moment
  std::uint64_t sequence_ = 0;
  std::priority_queue<Event> events_;
  std::map<SandboxId, Process> processes_;
  std::unordered_map<std::uint64_t, int> executed_;  // by request, of the last two minutes
  std::deque<std::pair<TimePoint, std::uint64_t>> executed_at_;
  std::uint64_t executions_ = 0;
  std::map<std::string, std::pair<Version, TimePoint>> cursed_;
  std::map<HostId, TimePoint> starving_;
  std::set<HostId> written_off_;
  std::vector<Choice> happened_;
  std::deque<std::string> story_;
  std::uint64_t lines_ = 0;
  std::uint64_t fingerprint_ = 1469598103934665603u;
};

}  // namespace faaskit::simulation
