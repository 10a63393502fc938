// If these failed, chaos would count nothing: each thing that must never happen is told to the ledger once,
// and it must say so.
#include "ledger.h"

#include "catch.hpp"

namespace chaos {
namespace {

constexpr std::uint32_t kSum = 0xabcd1234;

Answer ok(CallId call, std::uint64_t stamp, const char* sum = "abcd1234") {
  return {.status = 200,
          .headers = {{"x-faaskit-sandbox", "sb-1"}},
          .body = std::to_string(call) + ' ' + std::to_string(stamp) + ' ' + sum};
}

Answer error(int status, const std::string& code, const std::string& message = "why") {
  return {.status = status,
          .headers = {{"x-faaskit-sandbox", "sb-1"}},
          .body = R"({"error": {"code": ")" + code + R"(", "message": ")" + message + "\"}}"};
}

struct Told {
  Ledger ledger{{"f"}};
  Told() { ledger.deployed(0, ledger.deploying(0), true); }
  CallId begin(CallKind kind = CallKind::plain) { return ledger.begin(0, kind, 0); }
  void run(CallId call, std::uint64_t stamp = 1, pid_t pid = 77, std::uint32_t attempt = 1) {
    ledger.report({.call = call, .attempt = attempt, .stamp = stamp, .pid = pid});
  }
  void end(CallId call, const Answer& answer) { ledger.end(call, Outcome::answered, answer, kSum); }
  Figures judge() { return ledger.judge(1); }
};

std::uint64_t wrongs(const Figures& f) {
  return f.unanswered + f.hangs + f.malformed + f.wrong + f.stale + f.refused_code + f.executed_twice +
         f.unreported + f.errors_not_allowed + f.reports_of_nobody + f.deaths_per_kill_exceeded;
}

}  // namespace

TEST_CASE("a call that ran once and was answered is in order", "[chaos]") {
  Told told;
  const CallId call = told.begin();
  told.run(call, 1, 77, 3);
  told.end(call, ok(call, 1));
  const Figures f = told.judge();
  CHECK(wrongs(f) == 0);
  CHECK(f.ok == 1);
  CHECK(f.retried == 1);
}

TEST_CASE("a second execution, a missing one and one of no call are counted", "[chaos]") {
  Told told;
  const CallId twice = told.begin(), never = told.begin();
  told.run(twice);
  told.run(twice);
  told.run(99);
  told.end(twice, ok(twice, 1));
  told.end(never, ok(never, 1));
  const Figures f = told.judge();
  CHECK(f.executed_twice == 1);
  CHECK(f.unreported == 1);
  CHECK(f.reports_of_nobody == 1);
  CHECK(wrongs(f) == 3);
}

TEST_CASE("another call's answer, a wrong sum and a version of the future are wrong", "[chaos]") {
  Told told;
  const CallId first = told.begin(), second = told.begin(), third = told.begin();
  for (const CallId call : {first, second, third}) told.run(call);
  told.end(first, ok(second, 1));
  told.end(second, ok(second, 1, "abcd1235"));
  told.end(third, ok(third, 2));
  CHECK(told.judge().wrong == 3);
  CHECK(wrongs(told.judge()) == 3);
}

TEST_CASE("a call sent after an acknowledgement must not run older code", "[chaos]") {
  Told told;
  const CallId before = told.begin();
  const std::uint64_t second = told.ledger.deploying(0);
  const CallId between = told.begin();
  told.ledger.deployed(0, second, true);
  const CallId after = told.begin(), abandoned = told.begin(CallKind::abandoned);
  for (const CallId call : {before, between, after, abandoned}) told.run(call, 1);
  for (const CallId call : {before, between, after}) told.end(call, ok(call, 1));
  told.ledger.end(abandoned, Outcome::abandoned, {}, kSum);
  CHECK(told.judge().stale == 2);  // what nobody heard counts
}

TEST_CASE("what was removed or refused does not run", "[chaos]") {
  Told told;
  const std::uint64_t refused = told.ledger.deploying(0);
  told.ledger.deployed(0, refused, false);
  const CallId first = told.begin();
  told.run(first, refused);
  told.end(first, ok(first, refused));
  CHECK(told.judge().refused_code == 1);
  told.ledger.removing(0);
  told.ledger.removed(0, true);
  const CallId second = told.begin();
  told.run(second, 1);
  told.end(second, ok(second, 1));
  CHECK(told.judge().stale == 1);
}

TEST_CASE("no answer, half an answer and silence are counted", "[chaos]") {
  Told told;
  const Outcome outcomes[] = {Outcome::closed, Outcome::malformed, Outcome::timed_out, Outcome::abandoned};
  for (const Outcome outcome : outcomes) told.ledger.end(told.begin(), outcome, {}, kSum);
  (void)told.begin();
  const Figures f = told.judge();
  CHECK(f.unanswered == 2);
  CHECK(f.malformed == 1);
  CHECK(f.hangs == 1);
  CHECK(f.abandoned == 1);
}

TEST_CASE("a connection may be closed for want of descriptors, before its call began", "[chaos]") {
  Told told;
  told.ledger.lacking(Lack::descriptors);
  const CallId unbegun = told.begin(), begun = told.begin();
  told.run(begun);
  for (const CallId call : {unbegun, begun}) told.ledger.end(call, Outcome::closed, {}, kSum);
  const Figures f = told.judge();
  CHECK(f.closed_unbegun == 1);
  CHECK(f.unanswered == 1);
}

TEST_CASE("a sandbox's death excuses one error, if we killed it", "[chaos]") {
  Told told;
  const CallId first = told.begin();
  told.run(first);
  SECTION("nobody killed it") {
    told.end(first, error(502, "sandbox_died"));
    CHECK(told.judge().errors_not_allowed == 1);
  }
  SECTION("we did") {
    told.ledger.killed(KillKind::busy, {77}, 0, Clock::now());
    told.end(first, error(502, "sandbox_died"));
    CHECK(wrongs(told.judge()) == 0);
    CHECK(told.judge().death_to_answer.size() == 1);
    const CallId second = told.begin();
    told.end(second, error(502, "sandbox_died"));
    CHECK(told.judge().deaths_per_kill_exceeded == 1);
  }
  SECTION("before it reported, known by the server's view") {
    told.ledger.sandbox_seen("sb-1", 77);
    told.ledger.killed(KillKind::idle, {77}, 0, Clock::now());
    const CallId second = told.begin();
    told.end(second, error(502, "sandbox_died"));
    told.end(first, ok(first, 1));
    CHECK(wrongs(told.judge()) == 0);
  }
}

TEST_CASE("other errors need their own excuse", "[chaos]") {
  Told told;
  const auto one = [&](const Answer& answer, CallKind kind = CallKind::plain) {
    told.end(told.begin(kind), answer);
    return told.judge().errors_not_allowed;
  };
  CHECK(one(error(504, "deadline_exceeded"), CallKind::overdue) == 0);
  CHECK(one(error(504, "deadline_exceeded")) == 1);
  CHECK(one(error(404, "not_found")) == 2);
  CHECK(one(error(503, "start_failed", "f: 3 starts in a row failed")) == 3);
  CHECK(one(error(500, "internal")) == 4);
  told.ledger.killed(KillKind::starting, {5}, 0, Clock::now());
  CHECK(one(error(503, "start_failed", "f: 3 starts in a row failed")) == 4);
  told.ledger.removing(0);
  CHECK(one(error(404, "not_found")) == 4);
  const CallId begun = told.begin();
  told.run(begun);
  told.end(begun, error(404, "not_found"));
  CHECK(told.judge().errors_not_allowed == 5);
}

}  // namespace chaos
