// Ledger: everything that was done to the server and everything it answered, and what follows from comparing
// the two. It knows nothing of the server but its answers: a count that is wrong here was wrong outside.
//
// A call's executions are the reports that functions sent when they began (function.cc). Stamps are in the
// code's environment and grow with every deploy of a function, also across a removal.
// Thread safety: every member may be called from any thread.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <deque>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "http.h"

namespace chaos {

using CallId = std::uint64_t;

enum class CallKind : std::uint8_t {
  plain,
  overdue,    // runs longer than its timeout: must be answered with 504
  abandoned,  // we close the connection some time after it was sent
};

enum class KillKind : std::uint8_t { busy, idle, frozen, starting, all, any };
inline constexpr int kKillKinds = 6;
const char* to_string(KillKind kind);

// Times in which the machine was made to lack something.
enum class Lack : std::uint8_t { disk, descriptors };

struct Report {
  CallId call = 0;
  std::uint32_t attempt = 0;
  std::uint64_t stamp = 0;
  pid_t pid = 0;  // by the kernel's word, not the function's
};

struct Figures {
  double seconds = 0;
  std::uint64_t kills[kKillKinds] = {};
  std::uint64_t processes_killed = 0;
  std::uint64_t calls = 0, answered = 0, ok = 0, executed = 0, retried = 0, most_attempts = 0;
  std::uint64_t abandoned = 0, closed_unbegun = 0;
  std::uint64_t deploys = 0, deploys_refused = 0, removals = 0, fills = 0, shortages = 0;
  std::map<std::string, std::uint64_t> errors{};   // by status and code
  std::vector<Clock::duration> death_to_answer{};  // sorted; from the signal to the 502
  // What must be 0.
  std::uint64_t unanswered = 0, hangs = 0, malformed = 0, wrong = 0, stale = 0, refused_code = 0;
  std::uint64_t executed_twice = 0, unreported = 0, errors_not_allowed = 0, reports_of_nobody = 0;
  std::uint64_t deaths_per_kill_exceeded = 0;
  std::vector<std::string> notes{};  // the first of each, in words
};

class Ledger {
 public:
  explicit Ledger(std::vector<std::string> functions);

  // -- Calls
  CallId begin(int function, CallKind kind, std::uint32_t work_us);
  // The text that the function is sent, whose checksum must come back.
  void end(CallId call, Outcome outcome, const Answer& answer, std::uint32_t checksum);
  void report(const Report& report);
  // The function of a call that has work to do and a client that waits, else -1: for who wants to kill it.
  int at_work(CallId call) const;

  // -- Deploys, one at a time per function
  std::uint64_t deploying(int function);
  void deployed(int function, std::uint64_t stamp, bool accepted);
  void removing(int function);
  void removed(int function, bool accepted);

  // -- Faults
  // `began`: before the first signal was sent. `function`: -1 if nobody knows.
  void killed(KillKind kind, const std::vector<pid_t>& pids, int function, Clock::time_point began);
  void sandbox_seen(const std::string& id, pid_t pid);
  void lacking(Lack lack);
  void no_longer_lacking(Lack lack);
  // An answer to a deploy or a removal that nothing explains.
  void admin_error(const std::string& what);

  Figures judge(double seconds) const;

 private:
  struct Call {
    Clock::time_point sent{}, ended{}, began{};
    std::uint64_t least_stamp = 0, most_stamp = 0, stamp = 0;
    std::uint32_t work_us = 0, attempt = 0;
    pid_t pid = 0;
    std::int32_t trouble = -1;
    std::int16_t function = 0;
    std::uint16_t status = 0;
    std::uint16_t executions = 0;
    CallKind kind = CallKind::plain;
    Outcome outcome = Outcome::pending;
    bool wrong = false;
  };
  struct Trouble {
    std::string code, message, sandbox;
  };
  struct Span {
    Clock::time_point from{}, to = Clock::time_point::max();
  };
  struct Function {
    std::string name{};
    std::uint64_t last_stamp = 0;   // ever sent
    std::uint64_t least_stamp = 0;  // acknowledged
    std::set<std::uint64_t> refused{};
    std::vector<Span> absences{};  // from a removal's sending to the acknowledgement of the next deploy
    std::vector<Clock::time_point> kills{};
  };
  bool lacked(Lack lack, const Call& call) const;
  const char* excuse(const Call& call) const;
  // When what ran the call was killed, if it was.
  std::optional<Clock::time_point> killed_at(const Call& call) const;

  mutable std::mutex mutex_;
  std::vector<Function> functions_;
  std::deque<Call> calls_;
  std::vector<Trouble> troubles_;
  std::map<std::string, pid_t> sandboxes_;
  std::multimap<pid_t, Clock::time_point> kills_;
  std::vector<Span> lacks_[2];
  Figures figures_;
};

}  // namespace chaos
