#include "ledger.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include <boost/json/parse.hpp>

namespace chaos {
namespace {

using namespace std::chrono_literals;

// What a shortage brought about may be answered a while after it is over.
constexpr auto kAftermath = 3s;
constexpr std::size_t kNotes = 12;

void error_of(const std::string& body, std::string& code, std::string& message) {
  boost::system::error_code bad;
  const boost::json::value parsed = boost::json::parse(body, bad);
  if (bad || !parsed.is_object()) return;
  const boost::json::value* error = parsed.as_object().if_contains("error");
  if (error == nullptr || !error->is_object()) return;
  const auto text = [&](const char* name) {
    const boost::json::value* value = error->as_object().if_contains(name);
    return value != nullptr && value->is_string() ? std::string(value->as_string()) : std::string();
  };
  code = text("code");
  message = text("message");
}

}  // namespace

const char* to_string(KillKind kind) {
  constexpr const char* kNames[] = {"busy", "idle", "frozen", "starting", "all of a function", "any process"};
  return kNames[static_cast<int>(kind)];
}

Ledger::Ledger(std::vector<std::string> functions) {
  for (std::string& name : functions) functions_.push_back({.name = std::move(name)});
}

CallId Ledger::begin(int function, CallKind kind, std::uint32_t work_us) {
  std::lock_guard lock(mutex_);
  Call call;
  call.function = static_cast<std::int16_t>(function);
  call.kind = kind;
  call.work_us = work_us;
  call.least_stamp = functions_[function].least_stamp;
  call.sent = Clock::now();
  calls_.push_back(call);
  return calls_.size();
}

void Ledger::end(CallId id, Outcome outcome, const Answer& answer, std::uint32_t checksum) {
  std::lock_guard lock(mutex_);
  Call& call = calls_[id - 1];
  call.ended = Clock::now();
  call.most_stamp = functions_[call.function].last_stamp;
  call.outcome = outcome;
  if (outcome != Outcome::answered) return;
  call.status = static_cast<std::uint16_t>(answer.status);
  const std::string sandbox = answer.header("x-faaskit-sandbox");
  if (call.executions > 0 && !sandbox.empty()) sandboxes_[sandbox] = call.pid;
  if (answer.status == 200) {
    char expected[96];
    unsigned long long stamp = 0;
    const char* text = answer.body.c_str();
    if (const char* space = std::strchr(text, ' ')) stamp = std::strtoull(space + 1, nullptr, 10);
    std::snprintf(expected, sizeof expected, "%llu %llu %08x", static_cast<unsigned long long>(id), stamp,
                  checksum);
    call.stamp = stamp;
    call.wrong = answer.body != expected;
    if (call.wrong && figures_.notes.size() < kNotes) {
      figures_.notes.push_back("wrong: '" + answer.body.substr(0, 100) + "', not '" + expected + "'");
    }
    return;
  }
  Trouble trouble;
  error_of(answer.body, trouble.code, trouble.message);
  trouble.sandbox = sandbox;
  call.trouble = static_cast<std::int32_t>(troubles_.size());
  troubles_.push_back(std::move(trouble));
}

void Ledger::report(const Report& report) {
  std::lock_guard lock(mutex_);
  if (report.call == 0 || report.call > calls_.size()) {
    ++figures_.reports_of_nobody;
    return;
  }
  Call& call = calls_[report.call - 1];
  ++call.executions;
  call.began = Clock::now();
  call.pid = report.pid;
  call.attempt = std::max(call.attempt, report.attempt);
  // Also when nobody hears the answer: what began is old or not.
  if (call.stamp == 0) call.stamp = report.stamp;
}

int Ledger::at_work(CallId id) const {
  std::lock_guard lock(mutex_);
  if (id == 0 || id > calls_.size()) return -1;
  const Call& call = calls_[id - 1];
  return call.work_us >= 1000 && call.kind != CallKind::abandoned ? call.function : -1;
}

std::uint64_t Ledger::deploying(int function) {
  std::lock_guard lock(mutex_);
  return ++functions_[function].last_stamp;
}

void Ledger::deployed(int index, std::uint64_t stamp, bool accepted) {
  std::lock_guard lock(mutex_);
  Function& function = functions_[index];
  if (!accepted) {
    ++figures_.deploys_refused;
    function.refused.insert(stamp);
    return;
  }
  ++figures_.deploys;
  function.least_stamp = stamp;
  if (!function.absences.empty() && function.absences.back().to == Clock::time_point::max()) {
    function.absences.back().to = Clock::now();
  }
}

void Ledger::removing(int index) {
  std::lock_guard lock(mutex_);
  functions_[index].absences.push_back({.from = Clock::now()});
}

void Ledger::removed(int index, bool accepted) {
  std::lock_guard lock(mutex_);
  Function& function = functions_[index];
  if (!accepted) {
    function.absences.back().to = Clock::now();
    return;
  }
  ++figures_.removals;
  // From here on nothing that was ever deployed may run.
  function.least_stamp = function.last_stamp + 1;
}

void Ledger::killed(KillKind kind, const std::vector<pid_t>& pids, int function, Clock::time_point began) {
  if (pids.empty()) return;
  std::lock_guard lock(mutex_);
  ++figures_.kills[static_cast<int>(kind)];
  figures_.processes_killed += pids.size();
  for (const pid_t pid : pids) kills_.insert({pid, began});
  for (int i = 0; i < static_cast<int>(functions_.size()); ++i) {
    if (function == i || function < 0) functions_[i].kills.push_back(began);
  }
}

void Ledger::sandbox_seen(const std::string& id, pid_t pid) {
  std::lock_guard lock(mutex_);
  sandboxes_[id] = pid;
}

void Ledger::lacking(Lack lack) {
  std::lock_guard lock(mutex_);
  ++(lack == Lack::disk ? figures_.fills : figures_.shortages);
  lacks_[static_cast<int>(lack)].push_back({.from = Clock::now()});
}

void Ledger::no_longer_lacking(Lack lack) {
  std::lock_guard lock(mutex_);
  lacks_[static_cast<int>(lack)].back().to = Clock::now() + kAftermath;
}

void Ledger::admin_error(const std::string& what) {
  std::lock_guard lock(mutex_);
  ++figures_.errors_not_allowed;
  if (figures_.notes.size() < kNotes) figures_.notes.push_back(what);
}

bool Ledger::lacked(Lack lack, const Call& call) const {
  return std::ranges::any_of(lacks_[static_cast<int>(lack)], [&](const Span& span) {
    return span.from <= call.ended && call.sent <= span.to;
  });
}

std::optional<Clock::time_point> Ledger::killed_at(const Call& call) const {
  pid_t pid = call.pid;
  if (pid == 0) {
    const auto sandbox = sandboxes_.find(troubles_[call.trouble].sandbox);
    if (sandbox == sandboxes_.end()) return std::nullopt;
    pid = sandbox->second;
  }
  // Numbers of processes come round: the last one before the answer.
  std::optional<Clock::time_point> last;
  const auto [from, to] = kills_.equal_range(pid);
  for (auto at = from; at != to; ++at) {
    if (at->second <= call.ended && (!last || *last < at->second)) last = at->second;
  }
  return last;
}

// Why the failure table allows this error; null if it does not.
const char* Ledger::excuse(const Call& call) const {
  const Trouble& trouble = troubles_[call.trouble];
  const Function& function = functions_[call.function];
  const std::string_view code = trouble.code;
  if (call.status == 504 && code == "deadline_exceeded") {
    return call.kind == CallKind::overdue ? "overdue" : nullptr;
  }
  if (call.status == 502 && code == "sandbox_died") return killed_at(call) ? "killed" : nullptr;
  if (call.status == 404 && code == "not_found") {
    const bool absent = std::ranges::any_of(
        function.absences, [&](const Span& span) { return span.from <= call.ended && call.sent <= span.to; });
    return absent ? "removed" : nullptr;
  }
  if (call.status == 503 && code == "start_failed") {
    if (lacked(Lack::descriptors, call)) return "descriptors";
    if (lacked(Lack::disk, call)) return "disk";
    // The budget of starts, or the breaker that has been open since: we killed what was starting.
    const bool killed = std::ranges::any_of(function.kills, [&](Clock::time_point when) {
      return call.sent - 15s <= when && when <= call.ended;
    });
    return killed && trouble.message.find("starts in a row failed") != std::string::npos ? "starts killed"
                                                                                         : nullptr;
  }
  return nullptr;
}

Figures Ledger::judge(double seconds) const {
  std::lock_guard lock(mutex_);
  Figures f = figures_;
  f.seconds = seconds;
  std::map<std::string, std::uint64_t> deaths;
  const auto note = [&](const Call& call, const std::string& what) {
    if (f.notes.size() >= kNotes) return;
    std::string text =
        what + ": " + functions_[call.function].name + " status " + std::to_string(call.status) + " stamp " +
        std::to_string(call.stamp) + " (least " + std::to_string(call.least_stamp) + ", most " +
        std::to_string(call.most_stamp) + ") executions " + std::to_string(call.executions) + " pid " +
        std::to_string(call.pid) + " attempt " + std::to_string(call.attempt) + " after " +
        std::to_string(
            std::chrono::duration_cast<std::chrono::milliseconds>(call.ended - call.sent).count()) +
        " ms";
    if (call.trouble >= 0) {
      text += " " + troubles_[call.trouble].code + ": " + troubles_[call.trouble].message.substr(0, 300) +
              " [" + troubles_[call.trouble].sandbox + "]";
    }
    f.notes.push_back(std::move(text));
  };
  for (const Call& call : calls_) {
    ++f.calls;
    f.executed += call.executions > 0;
    f.retried += call.attempt > 1;
    f.most_attempts = std::max<std::uint64_t>(f.most_attempts, call.attempt);
    if (call.executions > 1) {
      ++f.executed_twice;
      note(call, "executed twice");
    }
    if (call.executions > 0 || (call.outcome == Outcome::answered && call.status == 200)) {
      if (call.stamp < call.least_stamp) {
        ++f.stale;
        note(call, "stale");
      }
      if (functions_[call.function].refused.contains(call.stamp)) {
        ++f.refused_code;
        note(call, "refused code ran");
      }
    }
    switch (call.outcome) {
      case Outcome::pending: ++f.unanswered; break;
      case Outcome::timed_out:
        ++f.hangs;
        note(call, "hang");
        break;
      case Outcome::abandoned: ++f.abandoned; break;
      case Outcome::malformed:
        ++f.malformed;
        note(call, "malformed");
        break;
      case Outcome::closed:
        // A connection that was closed for want of descriptors while we wrote to it. The call is as if it
        // had never been made, or it is lost.
        if (call.executions == 0 && lacked(Lack::descriptors, call)) {
          ++f.closed_unbegun;
        } else {
          ++f.unanswered;
          note(call, "no answer");
        }
        break;
      case Outcome::answered:
        ++f.answered;
        if (call.status == 200) {
          ++f.ok;
          if (call.wrong || call.stamp > call.most_stamp || call.kind == CallKind::overdue) {
            ++f.wrong;
            note(call, "wrong");
          }
          if (call.executions == 0) {
            ++f.unreported;
            note(call, "not reported");
          }
          break;
        }
        ++f.errors[std::to_string(call.status) + " " + troubles_[call.trouble].code];
        if (excuse(call) == nullptr) {
          ++f.errors_not_allowed;
          note(call, "error");
        }
        if (call.status == 502) {
          if (const auto when = killed_at(call)) f.death_to_answer.push_back(call.ended - *when);
          if (++deaths[troubles_[call.trouble].sandbox] == 2) {
            ++f.deaths_per_kill_exceeded;
            note(call, "a second death of one sandbox");
          }
        }
        // Nothing may have begun where the answer says so.
        if (call.executions > 0 && (call.status == 404 || call.status == 503 || call.status == 429)) {
          ++f.errors_not_allowed;
          note(call, "began, and was said not to have");
        }
        break;
    }
  }
  std::ranges::sort(f.death_to_answer);
  return f;
}

}  // namespace chaos
