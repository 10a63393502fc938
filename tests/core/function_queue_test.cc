#include "catch.hpp"

#include <memory>
#include <set>
#include <string>
#include <vector>

#include "faaskit/core/function_queue.h"

using namespace faaskit;
using std::chrono::milliseconds;

namespace {

// The machine by transcript: each step is a line, and the answer is what it did, in the order
//   result; grants "r1<-sb2 stolen"; failures "r1 failed"; starts "start 3 v1"; notices "retire sb2".
// Requests are r1.., sandboxes sb1.., starts by their number; attempt 1 unless said.
class Script {
 public:
  explicit Script(FunctionConfig config = {}, std::uint32_t shards = 1) : queue("f", kNonce, shards) {
    queue.define(config, now, effects).IgnoreError();
    effects.clear();
  }
  ~Script() {
    // The machine never owns waiters; what still waits is ours.
    for (const FunctionQueue::Waiter* waiter : queue.waiters())
      queue.cancel(waiter->request, 99, now, effects);
  }

  std::string acquire(std::uint64_t r, std::uint32_t attempt = 1, std::int32_t priority = 0,
                      Ticket ticket = 0, Outcome previous = Outcome::reusable) {
    auto waiter = std::make_unique<FunctionQueue::Waiter>();
    waiter->request = {.invoker = 1, .sequence = r};
    waiter->attempt = attempt;
    waiter->priority = priority;
    waiter->ticket = ticket;
    waiter->previous = previous;
    const FunctionQueue::AcquireResult result = queue.acquire(*waiter, now, effects);
    std::string said;
    switch (result.outcome) {
      case FunctionQueue::AcquireOutcome::leased:
        said = "leased sb" + std::to_string(result.record->sandbox.id.number) + " " +
               std::string(to_string(result.record->start_kind));
        break;
      case FunctionQueue::AcquireOutcome::queued:
        said = "queued #" + std::to_string(waiter->ticket);
        waiters.push_back(std::move(waiter));
        break;
      case FunctionQueue::AcquireOutcome::refused: said = std::string(result.status.message()); break;
      case FunctionQueue::AcquireOutcome::stale: said = "stale"; break;
    }
    if (result.superseded != nullptr) said += " for attempt " + std::to_string(result.superseded->attempt);
    return done(said);
  }
  std::string cancel(std::uint64_t r, std::uint32_t attempt = 1) {
    const auto* waiter = queue.cancel({.invoker = 1, .sequence = r}, attempt, now, effects);
    return done(waiter != nullptr ? "out of line" : "-");
  }
  std::string claim(std::uint64_t start, std::uint64_t sb, bool needs_room = false) {
    return done(code(queue.claim({.nonce = kNonce, .number = start}, id(sb), needs_room)));
  }
  std::string crash(std::uint64_t start, double jitter = 0,
                    const absl::Status& why = absl::InternalError("exit 3")) {
    const std::string claimed = claim(start, 100 + start);
    return claimed + " " + failed(start, 100 + start, jitter, why);
  }
  std::string fresh(std::uint64_t start, std::uint64_t sb, ShardIndex home = 0) {
    Offer offer;
    offer.sandbox = {.id = id(sb), .version = queue.config().version, .home_shard = home};
    offer.generation = 1;
    offer.start = {.nonce = kNonce, .number = start};
    return done(code(queue.offer(offer, now, effects)));
  }
  // Claimed and offered.
  std::string make(std::uint64_t start, std::uint64_t sb, ShardIndex home = 0) {
    const std::string claimed = claim(start, sb);
    return claimed + " " + fresh(start, sb, home);
  }
  std::string settle(std::uint64_t sb, Outcome outcome = Outcome::reusable) {
    const FunctionQueue::Record* record = queue.find(id(sb));
    if (record == nullptr) return done("-");
    const LeaseId lease = record->lease;
    return done(queue.settle(id(sb), record->token, lease, outcome, now, effects) ? "settled" : "-");
  }
  std::string returned(std::uint64_t sb, Token token, std::uint64_t r, std::uint64_t generation) {
    Offer offer;
    offer.sandbox = {.id = id(sb), .version = queue.config().version};
    offer.generation = generation;
    offer.token = offer.highest_token = token;
    offer.lease = {.request = {.invoker = 1, .sequence = r}, .attempt = 1};
    return done(code(queue.offer(offer, now, effects)));
  }
  std::string failed(std::uint64_t start, std::uint64_t sb, double jitter = 0,
                     const absl::Status& why = absl::InternalError("exit 3")) {
    return done(
        code(queue.start_failed({.nonce = kNonce, .number = start}, id(sb), why, jitter, now, effects)));
  }
  std::string announced(std::uint64_t sb, SandboxState state) {
    AnnouncedSandbox said;
    said.sandbox = {.id = id(sb), .version = queue.config().version};
    said.function = "f";
    said.state = state;
    said.generation = 1;
    queue.announce(1, {said}, now, effects);
    return done("announced");
  }
  std::string withdraw(std::uint64_t sb, WithdrawReason reason = WithdrawReason::host) {
    return done(code(queue.withdraw(id(sb), reason, now, effects)));
  }
  std::string remove(std::optional<Version> up_to = {}) { return done(code(queue.remove(up_to, effects))); }
  std::string vanished(std::uint64_t start, const SandboxId& claimed_for = {}) {
    queue.gone(StartId{.nonce = kNonce, .number = start}, claimed_for, now, effects);
    return done("gone");
  }
  std::string gone(std::uint64_t sb) {
    queue.gone(id(sb), now, effects);
    return done("gone");
  }
  std::string define(FunctionConfig config) { return done(code(queue.define(config, now, effects))); }
  std::string pass(milliseconds time) {
    now += time;
    if (now >= queue.next_event()) queue.evaluate(now, effects);
    return done("passed");
  }

  static constexpr std::uint64_t kNonce = 0xf;
  static StartId start_id(std::uint64_t number) { return {.nonce = kNonce, .number = number}; }
  static SandboxId id(std::uint64_t number) { return {.host = 1, .number = number}; }
  FunctionQueue queue;
  FunctionQueue::Effects effects;
  FunctionQueue::TimePoint now{};
  std::vector<std::unique_ptr<FunctionQueue::Waiter>> waiters;

 private:
  static std::string code(const absl::Status& status) { return absl::StatusCodeToString(status.code()); }

  std::string done(std::string said) {
    for (const auto& grant : effects.grants) {
      said += "; r" + std::to_string(grant.waiter->request.sequence) + "<-sb" +
              std::to_string(grant.record->sandbox.id.number) + " " +
              std::string(to_string(grant.record->start_kind));
    }
    for (const auto& failure : effects.failures) {
      said += "; r" + std::to_string(failure.waiter->request.sequence) + " failed";
    }
    for (const auto& start : effects.starts) {
      said += "; start " + std::to_string(start.id.number) + " v" + std::to_string(start.version);
    }
    for (const auto& notice : effects.notices) {
      said += notice.kind == HostNotice::Kind::retire ? "; retire sb" : "; reclaim sb";
      said += std::to_string(notice.sandbox.number);
    }
    effects.clear();
    return said;
  }
};

FunctionConfig caps(std::uint32_t sandboxes, std::uint32_t starts = 8, std::uint32_t waiters = 1024) {
  FunctionConfig config;
  config.caps = {.max_sandboxes = sandboxes, .max_starts = starts, .max_waiters = waiters};
  return config;
}

}  // namespace

// The promise of the whole: whoever is ready first serves, and what a steal made surplus is kept.
TEST_CASE("transcript: one busy sandbox and one caller give stolen, and then two are idle", "[core]") {
  Script f;
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  CHECK(f.make(1, 1) == "OK OK; r1<-sb1 cold");
  CHECK(f.acquire(2) == "queued #2; start 2 v1");
  f.now += milliseconds(3);
  CHECK(f.settle(1) == "settled; r2<-sb1 stolen");
  f.now += milliseconds(40);
  CHECK(f.make(2, 2) == "OK OK");
  CHECK(f.settle(1) == "settled");
  const QueueStats stats = f.queue.stats();
  CHECK(stats.idle == 2);
  CHECK(stats.leased == 0);
  CHECK(stats.cold == 1);
  CHECK(stats.stolen == 1);
  CHECK(stats.surplus_starts == 1);
  CHECK(stats.steals_measured == 1);
  CHECK(stats.steal_saved_us == 40'000);
  CHECK(f.acquire(3) == "leased sb1 warm");
}

TEST_CASE("transcript: a thousand calls on a cold function with cap 4", "[core]") {
  Script f(caps(4, 8, 500));
  std::size_t starts = 0;
  std::size_t refused = 0;
  for (std::uint64_t r = 1; r <= 1000; ++r) {
    const std::string said = f.acquire(r);
    if (said.find("start") != std::string::npos) ++starts;
    if (said == "acquire f: 500 calls are waiting; max_waiters is 500") ++refused;
  }
  CHECK(starts == 4);
  CHECK(refused == 500);
  for (std::uint64_t i = 1; i <= 4; ++i) f.make(i, i);
  // Strictly in order of tickets from here on.
  for (std::uint64_t r = 5; r <= 500; ++r) {
    CHECK(f.settle(1 + (r - 1) % 4) ==
          "settled; r" + std::to_string(r) + "<-sb" + std::to_string(1 + (r - 1) % 4) + " queued");
  }
  CHECK(f.queue.stats().waiters == 0);
  CHECK(f.queue.stats().starts_admitted == 4);
}

TEST_CASE("transcript: both words of an ended lease, either first, and a late repeat", "[core]") {
  Script f(caps(1));
  f.acquire(1);
  f.make(1, 1);
  CHECK(f.returned(1, 1, 1, 2) == "OK");
  CHECK(f.settle(1) == "-");
  CHECK(f.acquire(2) == "leased sb1 warm");
  CHECK(f.acquire(3) == "queued #2");
  CHECK(f.returned(1, 1, 1, 2) == "OK");  // late
  CHECK(f.returned(1, 1, 1, 3) == "OK");  // of a lease that has ended
  CHECK(f.queue.find(Script::id(1))->lease.request.sequence == 2);
  CHECK(f.returned(1, 2, 2, 3) == "OK; r3<-sb1 queued");
}

TEST_CASE("transcript: a failed start backs off, doubles, and beyond the budget answers the oldest",
          "[core]") {
  Script f(caps(16, 1));
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  CHECK(f.acquire(2) == "queued #2");
  CHECK(f.claim(1, 1) == "OK");
  CHECK(f.failed(1, 1) == "OK");
  CHECK(f.failed(1, 1) == "OK");  // repeated
  CHECK(f.pass(milliseconds(24)) == "passed");
  CHECK(f.pass(milliseconds(1)) == "passed; start 2 v1");
  CHECK(f.claim(2, 2) == "OK");
  CHECK(f.failed(2, 2, 0.5) == "OK");
  CHECK(f.pass(milliseconds(74)) == "passed");
  CHECK(f.pass(milliseconds(1)) == "passed; start 3 v1");
  CHECK(f.claim(3, 3) == "OK");
  CHECK(f.failed(3, 3) == "OK; r1 failed");
  CHECK(f.queue.stats().waiters == 1);
  CHECK(f.pass(milliseconds(100)) == "passed; start 4 v1");
  CHECK(f.make(4, 4) == "OK OK; r2<-sb4 cold");
  CHECK(f.queue.next_event() == FunctionQueue::TimePoint::max());
}

TEST_CASE("transcript: a redeploy beside a claimed start requests the new version at once", "[core]") {
  Script f(caps(4));
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  CHECK(f.claim(1, 1) == "OK");
  FunctionConfig next = caps(4);
  next.version = 2;
  CHECK(f.define(next) == "OK; start 2 v2");
  CHECK(f.fresh(1, 1) == "OK; retire sb1");  // its code is old, whatever it says
  CHECK(f.make(2, 2) == "OK OK; r1<-sb2 cold");
  CHECK(f.define(caps(4)) == "ABORTED");
}

TEST_CASE("transcript: a restart keeps its ticket and disposes of its earlier lease", "[core]") {
  Script f(caps(1));
  f.acquire(1);
  f.make(1, 1);
  CHECK(f.acquire(2) == "queued #2");
  CHECK(f.acquire(3) == "queued #3");
  CHECK(f.settle(1) == "settled; r2<-sb1 queued");
  // Its host did not admit it.
  CHECK(f.acquire(2, 2, 0, 2, Outcome::refused) == "queued #2");
  CHECK(f.queue.stats().disputed == 1);
  CHECK(f.acquire(2, 1) == "stale");
  CHECK(f.returned(1, 2, 2, 2) == "OK; r2<-sb1 queued");
  CHECK(f.queue.find(Script::id(1))->lease.attempt == 2);
  CHECK(f.queue.find(Script::id(1))->token == 3);
}

// What the second host makes would be counted by nobody.
TEST_CASE("transcript: a start that another host has claimed since does not go with the first one's word",
          "[core]") {
  Script f(caps(1));
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  CHECK(f.claim(1, 1) == "OK");
  f.queue.take_over(Script::id(1).host, f.now, f.effects);
  f.effects.clear();
  SandboxId other = Script::id(2);
  other.host += 1;
  REQUIRE(f.queue.claim(Script::start_id(1), other).ok());
  CHECK(f.vanished(1, Script::id(1)) == "gone");
  CHECK(f.queue.start_in_flight(Script::start_id(1)));
  CHECK(f.vanished(1, other) == "gone; start 2 v1");
  CHECK(f.vanished(2) == "gone; start 3 v1");
}

// The sandbox would stay disputed: only a host that has seen the token ends that.
TEST_CASE("transcript: what is said of a refused lease is not said of a late duplicate's", "[core]") {
  Script f(caps(2));
  f.acquire(1);
  f.acquire(2);
  f.make(1, 1);
  f.make(2, 2);
  REQUIRE(f.queue.find(Script::id(1))->lease.request.sequence == 1);
  CHECK(f.settle(1, Outcome::refused) == "settled");
  CHECK(f.settle(2) == "settled");
  // Sent before the refusal, heard after it.
  CHECK(f.acquire(1, 1) == "leased sb2 warm");
  auto waiter = std::make_unique<FunctionQueue::Waiter>();
  waiter->request = {.invoker = 1, .sequence = 1};
  waiter->attempt = 2;
  waiter->previous = Outcome::refused;
  waiter->previous_sandbox = Script::id(1);
  waiter->previous_token = 1;
  const FunctionQueue::AcquireResult again = f.queue.acquire(*waiter, f.now, f.effects);
  CHECK(f.queue.stats().disputed == 1);
  REQUIRE(again.outcome == FunctionQueue::AcquireOutcome::leased);
  CHECK(again.record->sandbox.id == Script::id(2));
}

TEST_CASE("transcript: a repeated request keeps its place and its cover", "[core]") {
  Script f;
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  // Alone in line, it has the start that nobody has claimed sent once more.
  CHECK(f.acquire(1) == "queued #1 for attempt 1; start 1 v1");
  CHECK(f.acquire(1, 2) == "queued #1 for attempt 1; start 1 v1");
  CHECK(f.acquire(1, 1) == "stale");
  CHECK(f.cancel(1, 1) == "-");
  CHECK(f.cancel(1, 2) == "out of line");
  CHECK(f.cancel(1, 2) == "-");
  // The start is surplus now, and whoever comes next is covered by it.
  CHECK(f.acquire(2) == "queued #2; start 1 v1");
  CHECK(f.make(1, 1) == "OK OK; r2<-sb1 cold");
  CHECK(f.queue.stats().starts_admitted == 1);
}

TEST_CASE("transcript: wait only asks for a start when nothing that runs could serve", "[core]") {
  FunctionConfig patient = caps(4);
  patient.policy = StartPolicy::wait_only;
  Script f(patient);
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  CHECK(f.acquire(2) == "queued #2");
  CHECK(f.make(1, 1) == "OK OK; r1<-sb1 cold");
  CHECK(f.settle(1, Outcome::retired) == "settled; start 2 v1; retire sb1");
  CHECK(f.make(2, 2) == "OK OK; r2<-sb2 cold");
}

TEST_CASE("transcript: a record that is pinned stays readable after it is gone", "[core]") {
  Script f;
  f.acquire(1);
  f.make(1, 1);
  auto* record = const_cast<FunctionQueue::Record*>(f.queue.find(Script::id(1)));
  f.queue.pin(*record);
  CHECK(f.gone(1) == "gone");
  CHECK(record->state == SandboxState::gone);
  CHECK_FALSE(f.queue.settle(*record, record->token, record->lease, Outcome::reusable, f.now, f.effects));
  f.queue.unpin(*record);  // ASan sees it freed once
}

// Idle lists are intrusive: a wrong link would lease a sandbox that is not idle, or lose one.
TEST_CASE("any order of leases, returns and withdrawals leaves the idle lists whole", "[core]") {
  Script f(caps(64, 64), 4);
  for (std::uint64_t r = 1; r <= 40; ++r) f.acquire(r);
  for (std::uint64_t i = 1; i <= 40; ++i) f.make(i, i, static_cast<ShardIndex>(i % 4));
  for (std::uint64_t i = 1; i <= 40; ++i) f.settle(i);
  REQUIRE(f.queue.stats().idle == 40);
  for (std::uint64_t i = 3; i <= 40; i += 3) CHECK(f.withdraw(i) == "OK");
  std::set<std::uint64_t> taken;
  for (std::uint64_t r = 100; r < 200; ++r) {
    FunctionQueue::Record* record = f.queue.try_acquire({.invoker = 1, .sequence = r}, 1, r % 4);
    if (record == nullptr) break;
    CHECK(record->sandbox.id.number % 3 != 0);
    CHECK(taken.insert(record->sandbox.id.number).second);
    CHECK(record->cross_shard == (record->sandbox.home_shard != r % 4));
  }
  CHECK(taken.size() == 27);
  CHECK(f.queue.stats().idle == 0);
  CHECK(f.queue.stats().retiring == 13);
}

// A sandbox that dies before its first offer is with its host until its groups are removed.
TEST_CASE("an announcement while a failed start is cleaned up inserts no ghost", "[core]") {
  Script f(caps(1));
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  CHECK(f.claim(1, 1) == "OK");
  const SandboxState state = GENERATE(SandboxState::gone, SandboxState::retiring, SandboxState::idle);
  CHECK(f.announced(1, state) == "announced");
  CHECK(f.queue.records().empty());
  CHECK(f.failed(1, 1) == "OK");
  CHECK(f.pass(milliseconds(100)) == "passed; start 2 v1");
  // Said before, heard after.
  CHECK(f.announced(1, state) == "announced");
  CHECK(f.queue.records().empty());
}

TEST_CASE("a failed start that was forgotten takes along what was announced of it", "[core]") {
  Script f(caps(1));
  CHECK(f.announced(7, SandboxState::retiring) == "announced");
  CHECK(f.acquire(1) == "queued #1");
  CHECK(f.failed(99, 7) == "OK; start 1 v1");
  CHECK(f.queue.records().empty());
}

TEST_CASE("a lowered max_sandboxes retires what is idle above it, longest idle first", "[core]") {
  const IdleOrder order = GENERATE(IdleOrder::lifo, IdleOrder::fifo);
  const bool lifo = order == IdleOrder::lifo;
  FunctionConfig config = caps(6);
  config.order = order;
  Script f(config);
  for (std::uint64_t sb = 1; sb <= 5; ++sb) f.announced(sb, SandboxState::idle);
  CHECK(f.acquire(1) == (lifo ? "leased sb5 warm" : "leased sb1 warm"));
  config.caps.max_sandboxes = 3;
  CHECK(f.define(config) == (lifo ? "OK; retire sb1; retire sb2" : "OK; retire sb2; retire sb3"));
  CHECK(f.define(config) == "OK");
  config.caps.max_sandboxes = 1;
  config.order = lifo ? IdleOrder::fifo : IdleOrder::lifo;
  CHECK(f.define(config) == (lifo ? "OK; retire sb3; retire sb4" : "OK; retire sb4; retire sb5"));
  CHECK(f.settle(lifo ? 5 : 1) == "settled");
  CHECK(f.queue.stats().idle == 1);
}

// A line that went to sleep with its function would wait for ever; its cap would leak with it.
TEST_CASE("transcript: a removal answers the line, and what is left of it counts until it is gone",
          "[core]") {
  Script f(caps(3));
  CHECK(f.remove(7) == "OK");
  FunctionConfig next = caps(3);
  next.version = 7;
  CHECK(f.define(next) == "ABORTED");
  next.version = 8;
  CHECK(f.define(next) == "OK");
  CHECK(f.acquire(1) == "queued #1; start 1 v8");
  CHECK(f.make(1, 1) == "OK OK; r1<-sb1 cold");
  CHECK(f.acquire(2) == "queued #2; start 2 v8");
  CHECK(f.acquire(3) == "queued #3; start 3 v8");
  CHECK(f.claim(2, 2) == "OK");
  CHECK(f.remove() == "OK; r2 failed; r3 failed");
  CHECK(f.remove() == "OK");
  CHECK(f.acquire(4) == "function f was removed");
  CHECK(f.claim(3, 3) == "NOT_FOUND");
  CHECK(f.fresh(2, 2) == "ABORTED");
  CHECK(f.settle(1) == "settled; retire sb1");
  CHECK(f.announced(5, SandboxState::idle) == "announced; retire sb5");
  next.version = 9;
  CHECK(f.define(next) == "OK");
  CHECK(f.acquire(5) == "queued #4");  // sb1, sb2 and sb5 fill the cap
  CHECK(f.gone(2) == "gone; start 4 v9");
  CHECK(f.gone(1) == "gone");
  CHECK(f.make(4, 6) == "OK OK; r5<-sb6 cold");
  CHECK_FALSE(f.queue.vacant());
  CHECK(f.remove() == "OK");
  CHECK(f.settle(6, Outcome::retired) == "settled; retire sb6");
  CHECK(f.gone(5) == "gone");
  CHECK_FALSE(f.queue.vacant());
  CHECK(f.gone(6) == "gone");
  CHECK(f.queue.vacant());
}

TEST_CASE("transcript: a lease from before the removal is the answer when it is asked for again", "[core]") {
  Script f;
  f.acquire(1);
  f.make(1, 1);
  CHECK(f.remove() == "OK");
  CHECK(f.acquire(1) == "leased sb1 cold");
  CHECK(f.acquire(1, 2) == "function f was removed; retire sb1");
}

// Calls come first: what is only kept must not take the starts that somebody waits for.
TEST_CASE("transcript: waiters have their starts before what is provisioned", "[core]") {
  FunctionConfig config = caps(4, 2);
  config.provisioned = 2;
  Script f(config);  // starts 1 and 2
  CHECK(f.make(1, 1) == "OK OK");
  CHECK(f.make(2, 2) == "OK OK");
  CHECK(f.acquire(1) == "leased sb2 warm");
  CHECK(f.acquire(2) == "leased sb1 warm");
  CHECK(f.acquire(3) == "queued #1; start 3 v1");
  CHECK(f.claim(3, 3) == "OK");
  CHECK(f.failed(3, 3) == "OK");
  // In the backoff one of the two dies: afterwards one start covers the call and the number.
  CHECK(f.settle(2, Outcome::retired) == "settled; retire sb2");
  CHECK(f.pass(milliseconds(25)) == "passed; start 4 v1");
  CHECK(f.gone(2) == "gone");
  CHECK(f.make(4, 4) == "OK OK; r3<-sb4 cold");
  CHECK(f.settle(1) == "settled");
  CHECK(f.settle(4) == "settled");
  CHECK(f.withdraw(4, WithdrawReason::keep_alive) == "FAILED_PRECONDITION");
  CHECK(f.withdraw(4) == "OK; start 5 v1");
  CHECK(f.queue.stats().surplus_starts == 0);
}

TEST_CASE("transcript: a failed start's pause ends for what is provisioned, too", "[core]") {
  FunctionConfig config = caps(4, 2);
  config.provisioned = 3;
  Script f(config);  // starts 1 and 2
  f.claim(1, 1);
  f.claim(2, 2);
  CHECK(f.failed(1, 1) == "OK");
  CHECK(f.queue.next_event() == f.now + milliseconds(25));
  CHECK(f.fresh(2, 2) == "OK; start 3 v1; start 4 v1");  // one that is well ends the pause
  f.claim(3, 3);
  f.claim(4, 4);
  CHECK(f.failed(3, 3) == "OK");
  CHECK(f.pass(milliseconds(25)) == "passed; start 5 v1");
  CHECK(f.make(4, 4) == "OK OK");
  CHECK(f.pass(milliseconds(975)) == "passed");
  CHECK(f.pass(milliseconds(25)) == "passed; start 5 v1");  // nobody has claimed it
  CHECK(f.make(5, 5) == "OK OK");
  f.pass(milliseconds(1000));
  CHECK(f.queue.next_event() == FunctionQueue::TimePoint::max());
}

// Hosts come and go for as long as a queue lives.
TEST_CASE("a host that was taken over is not remembered as draining", "[core]") {
  Script f;
  f.queue.drain(1, f.now, f.effects);
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  CHECK(f.claim(1, 1) == "ABORTED");
  f.queue.take_over(1, f.now, f.effects);
  f.effects.clear();
  CHECK(f.claim(1, 1) == "OK");
}

namespace {

// Two failed starts in a row open the breaker, for 100 ms; the budget alone answers nobody.
FunctionConfig fragile(std::uint32_t sandboxes = 16, std::uint32_t starts = 1) {
  FunctionConfig config = caps(sandboxes, starts);
  config.retry = {.budget = 9,
                  .backoff = milliseconds(10),
                  .max_backoff = milliseconds(10),
                  .breaker_failures = 2,
                  .breaker_open = milliseconds(100)};
  return config;
}

constexpr FunctionQueue::TimePoint kNever = FunctionQueue::TimePoint::max();

}  // namespace

// Without it each call of a function that crashes at every start costs a start, and waits to the end for it.
TEST_CASE("transcript: the breaker opens, answers at once, half-opens by itself, and one start closes it",
          "[core]") {
  Script f(fragile());
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  CHECK(f.acquire(2) == "queued #2");
  CHECK(f.crash(1) == "OK OK");
  CHECK(f.pass(milliseconds(10)) == "passed; start 2 v1");
  CHECK(f.queue.stats().breaker == Breaker::closed);
  CHECK(f.crash(2, 0.5) == "OK OK; r1 failed; r2 failed");
  CHECK(f.queue.stats().breaker == Breaker::open);
  CHECK(f.acquire(3) ==
        "f: 2 starts in a row failed, the next try comes in 0.1 s; the last: INTERNAL: exit 3");
  CHECK(f.acquire(4, 1, 0, 1).starts_with("f: 2 starts in a row failed"));  // a kept ticket, too
  CHECK(f.queue.stats().waiters == 0);
  CHECK(f.queue.stats().refused == 2);
  CHECK(f.queue.next_event() == kNever);  // nobody needs to know when it ends
  CHECK(f.pass(milliseconds(109)) == "passed");
  CHECK(f.acquire(5).starts_with("f: 2 starts in a row failed"));
  CHECK(f.pass(milliseconds(1)) == "passed");  // half the jitter: 110 ms
  CHECK(f.acquire(6) == "queued #3; start 3 v1");
  CHECK(f.queue.stats().breaker == Breaker::half_open);
  CHECK(f.make(3, 3) == "OK OK; r6<-sb3 cold");
  CHECK(f.queue.stats().breaker == Breaker::closed);
  CHECK(f.queue.failures_in_a_row() == 0);
  CHECK(f.queue.last_start_error().ok());
  CHECK(f.queue.stats().breaker_opened == 1);
  // From here on as at the beginning.
  CHECK(f.acquire(7) == "queued #4; start 4 v1");
  CHECK(f.crash(4) == "OK OK");
  CHECK(f.pass(milliseconds(10)) == "passed; start 5 v1");
}

TEST_CASE("transcript: half open, one start is in flight however many wait, and its failure opens again",
          "[core]") {
  Script f(fragile(16, 2));
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  CHECK(f.acquire(2) == "queued #2; start 2 v1");
  CHECK(f.crash(1) == "OK OK");  // the other one covers both
  CHECK(f.crash(2) == "OK OK; r1 failed; r2 failed");
  f.now += milliseconds(100);
  CHECK(f.acquire(3) == "queued #3; start 3 v1");
  CHECK(f.acquire(4) == "queued #4");
  CHECK(f.crash(3) == "OK OK; r3 failed; r4 failed");
  CHECK(f.queue.stats().breaker == Breaker::open);
  CHECK(f.queue.stats().breaker_opened == 2);
  CHECK(f.acquire(5).starts_with("f: 3 starts in a row failed"));
  f.now += milliseconds(100);
  CHECK(f.acquire(6) == "queued #5; start 4 v1");
  CHECK(f.acquire(7) == "queued #6");
  CHECK(f.make(4, 4) == "OK OK; r6<-sb4 cold; start 5 v1");  // closed: the other has its start
}

// If it failed: a minute without descriptors on a host closes every function that was called meanwhile.
TEST_CASE("transcript: what a host is short of does not open the breaker, nor reopen it", "[core]") {
  Script f(fragile());
  const absl::Status shortage = absl::ResourceExhaustedError("no descriptors");
  CHECK(f.acquire(1) == "queued #1; start 1 v1");
  CHECK(f.crash(1, 0, shortage) == "OK OK");
  CHECK(f.pass(milliseconds(10)) == "passed; start 2 v1");
  CHECK(f.crash(2, 0, shortage) == "OK OK");
  CHECK(f.pass(milliseconds(10)) == "passed; start 3 v1");
  CHECK(f.crash(3) == "OK OK");  // the first of its own
  CHECK(f.queue.stats().breaker == Breaker::closed);
  CHECK(f.pass(milliseconds(10)) == "passed; start 4 v1");
  CHECK(f.crash(4) == "OK OK; r1 failed");
  CHECK(f.queue.stats().breaker == Breaker::open);
  f.now += milliseconds(100);
  CHECK(f.acquire(2) == "queued #2; start 5 v1");
  CHECK(f.crash(5, 0, shortage) == "OK OK");  // the probe told nothing: another one, after the backoff
  CHECK(f.queue.stats().breaker == Breaker::half_open);
  CHECK(f.pass(milliseconds(10)) == "passed; start 6 v1");
  CHECK(f.make(6, 6) == "OK OK; r2<-sb6 cold");
  CHECK(f.queue.stats().breaker == Breaker::closed);
}

// A probe that was lost with its host must not leave the function dead.
TEST_CASE("transcript: half open, a start that vanished is replaced by another", "[core]") {
  Script f(fragile());
  f.acquire(1);
  f.crash(1);
  f.pass(milliseconds(10));
  CHECK(f.crash(2) == "OK OK; r1 failed");
  f.now += milliseconds(100);
  CHECK(f.acquire(2) == "queued #2; start 3 v1");
  CHECK(f.vanished(3) == "gone; start 4 v1");
  CHECK(f.claim(4, 4) == "OK");
  CHECK(f.gone(4) == "gone; start 5 v1");  // its sandbox died between claim and offer
  CHECK(f.claim(5, 5) == "OK");
  f.queue.take_over(1, f.now, f.effects);
  REQUIRE(f.effects.starts.size() == 1);  // the same start, for another host
  f.effects.clear();
  CHECK(f.cancel(2) == "out of line");
  CHECK(f.claim(5, 6, true) == "NOT_FOUND");  // nobody waits for it any more
  CHECK(f.queue.next_event() == kNever);
  CHECK(f.acquire(3) == "queued #3; start 6 v1");
  CHECK(f.make(6, 6) == "OK OK; r3<-sb6 cold");
}

TEST_CASE("transcript: while the breaker is open, what runs covers, until it is no more", "[core]") {
  Script f(fragile(16, 2));
  f.acquire(1);
  f.make(1, 1);
  CHECK(f.acquire(2) == "queued #2; start 2 v1");
  CHECK(f.acquire(3) == "queued #3; start 3 v1");
  CHECK(f.crash(2) == "OK OK");
  CHECK(f.crash(3) == "OK OK");
  CHECK(f.queue.stats().breaker == Breaker::open);
  CHECK(f.acquire(4) == "queued #4");
  CHECK(f.settle(1) == "settled; r2<-sb1 stolen");
  CHECK(f.queue.next_event() == f.now + milliseconds(100));  // who waits wants a start
  CHECK(f.settle(1, Outcome::retired) == "settled; r3 failed; r4 failed; retire sb1");
  CHECK(f.queue.next_event() == kNever);
}

TEST_CASE("transcript: a call behind a busy sandbox has its start when the breaker half-opens", "[core]") {
  Script f(fragile(16, 2));
  f.acquire(1);
  f.make(1, 1);
  f.acquire(2);
  f.acquire(3);
  f.crash(2);
  f.crash(3);
  CHECK(f.pass(milliseconds(99)) == "passed");
  CHECK(f.pass(milliseconds(1)) == "passed; start 4 v1");
  CHECK(f.queue.stats().breaker == Breaker::half_open);
  CHECK(f.crash(4) == "OK OK");  // the busy one covers
  CHECK(f.queue.stats().breaker == Breaker::open);
}

TEST_CASE("transcript: a start from before the breaker opened covers, and closes it if it succeeds",
          "[core]") {
  Script f(fragile(16, 3));
  f.acquire(1);
  f.acquire(2);
  f.acquire(3);
  CHECK(f.claim(3, 3) == "OK");
  CHECK(f.crash(1) == "OK OK");
  CHECK(f.crash(2) == "OK OK");
  CHECK(f.queue.stats().breaker == Breaker::open);
  CHECK(f.acquire(4) == "queued #4");
  SECTION("it succeeds") {
    CHECK(f.fresh(3, 3) == "OK; r1<-sb3 cold; start 4 v1; start 5 v1; start 6 v1");
    CHECK(f.queue.stats().breaker == Breaker::closed);
  }
  SECTION("it fails, and the time does not begin again") {
    f.now += milliseconds(60);
    CHECK(f.failed(3, 3) == "OK; r1 failed; r2 failed; r3 failed; r4 failed");
    CHECK(f.queue.stats().breaker_opened == 1);
    f.now += milliseconds(40);
    CHECK(f.acquire(5) == "queued #5; start 4 v1");
  }
  SECTION("it is still on its way when the breaker half-opens: it is the one") {
    CHECK(f.pass(milliseconds(100)) == "passed");
    CHECK(f.queue.stats().breaker == Breaker::half_open);
    CHECK(f.fresh(3, 3) == "OK; r1<-sb3 cold; start 4 v1; start 5 v1; start 6 v1");
  }
}

TEST_CASE("transcript: the breaker holds back what is provisioned, which half-opens it", "[core]") {
  FunctionConfig config = fragile(4, 4);
  config.provisioned = 2;
  Script f(config);  // starts 1 and 2
  f.crash(1);
  CHECK(f.crash(2) == "OK OK");
  CHECK(f.queue.next_event() == f.now + milliseconds(100));
  CHECK(f.pass(milliseconds(99)) == "passed");
  CHECK(f.pass(milliseconds(1)) == "passed; start 3 v1");  // one, though two are missing
  CHECK(f.acquire(1) == "queued #1; start 3 v1");          // it covers who comes, and is sent for them again
  CHECK(f.crash(3) == "OK OK; r1 failed");
  CHECK(f.pass(milliseconds(100)) == "passed; start 4 v1");
  CHECK(f.make(4, 4) == "OK OK; start 5 v1");
}

// If it failed: a program that ends right after its hello is started for ever, as fast as it dies.
TEST_CASE(
    "transcript: what is provisioned and dies unused is made again at once, then with a pause that grows",
    "[core]") {
  FunctionConfig config = caps(4);
  config.provisioned = 1;
  config.retry.backoff = milliseconds(10);
  config.retry.max_backoff = milliseconds(20);
  Script f(config);
  CHECK(f.make(1, 1) == "OK OK");
  CHECK(f.gone(1) == "gone; start 2 v1");  // at once
  CHECK(f.make(2, 2) == "OK OK");
  CHECK(f.gone(2) == "gone");
  CHECK(f.queue.next_event() == f.now + milliseconds(10));
  CHECK(f.acquire(1) == "queued #1; start 3 v1");  // who waits does not wait for that
  CHECK(f.cancel(1) == "out of line");
  CHECK(f.pass(milliseconds(10)) == "passed");  // and that start is the one
  CHECK(f.queue.next_event() > f.now);
  CHECK(f.make(3, 3) == "OK OK");
  CHECK(f.gone(3) == "gone");
  CHECK(f.pass(milliseconds(19)) == "passed");
  CHECK(f.pass(milliseconds(1)) == "passed; start 4 v1");
  CHECK(f.make(4, 4) == "OK OK");
  CHECK(f.gone(4) == "gone");
  CHECK(f.pass(milliseconds(20)) == "passed; start 5 v1");  // it grows no more
  SECTION("one that has served: counted from the beginning") {
    CHECK(f.make(5, 5) == "OK OK");
    CHECK(f.acquire(2) == "leased sb5 warm");
    CHECK(f.gone(5) == "gone; start 6 v1");
    CHECK(f.make(6, 6) == "OK OK");
    CHECK(f.gone(6) == "gone; start 7 v1");
  }
  SECTION("many that die at once are one") {
    config.provisioned = 3;
    CHECK(f.define(config).starts_with("OK; start"));
    for (std::uint64_t i = 5; i <= 7; ++i) CHECK(f.make(i, i).starts_with("OK OK"));
    CHECK(f.acquire(2) == "leased sb7 warm");
    CHECK(f.gone(7) == "gone; start 8 v1");
    CHECK(f.make(8, 8) == "OK OK");
    CHECK(f.gone(5) == "gone; start 9 v1");
    CHECK(f.gone(6) == "gone; start 10 v1");
    CHECK(f.gone(8) == "gone; start 11 v1");
  }
  SECTION("after a redeploy, too") {
    CHECK(f.make(5, 5) == "OK OK");
    CHECK(f.gone(5) == "gone");
    config.version = 2;
    CHECK(f.define(config) == "OK; start 6 v2");
  }
}

TEST_CASE("transcript: a redeploy closes the breaker, new rules do not, a removal forgets it", "[core]") {
  FunctionConfig config = fragile();
  Script f(config);
  f.acquire(1);
  f.crash(1);
  f.pass(milliseconds(10));
  f.crash(2);
  REQUIRE(f.queue.stats().breaker == Breaker::open);
  SECTION("new rules") {
    config.retry.breaker_failures = 5;
    CHECK(f.define(config) == "OK");
    CHECK(f.acquire(2).starts_with("f: 2 starts in a row failed"));
    f.now += milliseconds(100);
    CHECK(f.acquire(3) == "queued #2; start 3 v1");
    CHECK(f.crash(3) == "OK OK; r3 failed");  // half open, one is enough
  }
  SECTION("a redeploy") {
    config.version = 2;
    CHECK(f.define(config) == "OK");
    CHECK(f.queue.stats().breaker == Breaker::closed);
    CHECK(f.acquire(2) == "queued #2; start 3 v2");
    CHECK(f.crash(3) == "OK OK");
    CHECK(f.queue.stats().breaker == Breaker::closed);
  }
  SECTION("a removal") {
    CHECK(f.remove() == "OK");
    CHECK(f.queue.stats().breaker == Breaker::closed);
    CHECK(f.acquire(2) == "function f was removed");
    config.version = 2;
    CHECK(f.define(config) == "OK");
    CHECK(f.acquire(3) == "queued #2; start 3 v2");
  }
}

// It would let the new version's crashes go on without end.
TEST_CASE("transcript: a fresh sandbox of an older version does not close the breaker", "[core]") {
  FunctionConfig config = fragile(16, 4);
  Script f(config);
  f.acquire(1);
  CHECK(f.claim(1, 1) == "OK");
  config.version = 2;
  CHECK(f.define(config) == "OK; start 2 v2");
  CHECK(f.crash(2) == "OK OK");
  CHECK(f.fresh(1, 1) == "OK; retire sb1");
  CHECK(f.queue.failures_in_a_row() == 1);
  CHECK(f.pass(milliseconds(10)) == "passed; start 3 v2");
  CHECK(f.crash(3) == "OK OK; r1 failed");
  CHECK(f.queue.stats().breaker == Breaker::open);
}

// A warm sandbox must not be ended for a start that nobody is waiting for.
TEST_CASE("transcript: a start that needs room is granted only if it is wanted", "[core]") {
  FunctionConfig config = caps(8, 8);
  Script f(config);
  f.acquire(1);
  f.make(1, 1);
  CHECK(f.acquire(2) == "queued #2; start 2 v1");
  CHECK(f.acquire(3) == "queued #3; start 3 v1");
  CHECK(f.claim(2, 2, true) == "OK");
  CHECK(f.settle(1) == "settled; r2<-sb1 stolen");
  // One waits and two are coming: the other is dropped, and the one that was claimed stays so.
  CHECK(f.claim(2, 2, true) == "OK");
  CHECK(f.claim(3, 3, true) == "NOT_FOUND");
  CHECK(f.claim(3, 3) == "NOT_FOUND");
  CHECK(f.queue.stats().starts_in_flight == 1);
  CHECK(f.cancel(3) == "out of line");
  CHECK(f.acquire(4) == "queued #4");
  CHECK(f.acquire(5) == "queued #5; start 4 v1");
  CHECK(f.cancel(4) == "out of line");
  CHECK(f.cancel(5) == "out of line");
  config.provisioned = 2;  // sb1 and what was claimed
  CHECK(f.define(config) == "OK");
  CHECK(f.claim(4, 4, true) == "NOT_FOUND");
  config.provisioned = 3;
  CHECK(f.define(config) == "OK; start 5 v1");
  CHECK(f.claim(5, 5, true) == "OK");
}
