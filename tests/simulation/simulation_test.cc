// If these failed, some order of losses and deaths would lease a sandbox twice, lose one, or leave a call
// without an answer.
#include <cstdlib>

#include "catch.hpp"
#include "simulation/shrink.h"

namespace faaskit::simulation {
namespace {

// A violation is shrunk before it is told; SIMULATION_SHRINK_RUNS=0 for who only wants to know.
Report look(const Mode& mode, std::uint64_t seed, const Run& run) {
  Report report = simulate(mode, seed, run);
  if (!report.violation.empty()) {
    ShrinkBudget budget;
    if (const char* runs = std::getenv("SIMULATION_SHRINK_RUNS")) {
      budget.runs = std::strtoull(runs, nullptr, 10);
    }
    FAIL(explain(mode, seed, run, report, budget));
  }
  return report;
}

void holds(const char* name) {
  const Mode* mode = find_mode(name);
  REQUIRE(mode != nullptr);
  constexpr std::uint64_t kSteps = 12000;
  std::uint64_t warm = 0;
  std::uint64_t cold = 0;
  std::uint64_t stolen = 0;
  std::uint64_t queued = 0;
  for (std::uint64_t seed = 1; seed <= 32; ++seed) {
    const Report report = look(*mode, seed, {.steps = kSteps});
    // A simulation in which nothing happens proves nothing.
    CHECK(report.steps >= kSteps);
    CHECK(report.ran > 100);
    CHECK(report.answers.at("OK") > 100);
    warm += report.stats.warm;
    cold += report.stats.cold;
    stolen += report.stats.stolen;
    queued += report.stats.queued;
  }
  // Who is always busy is never warm.
  CHECK(warm > (mode->ample_hosts ? 0 : 500));
  CHECK(cold > 100);
  CHECK(stolen > 100);
  CHECK(queued > 100);
}

}  // namespace

TEST_CASE("in one process every invariant holds", "[simulation]") { holds("inprocess"); }
TEST_CASE("while only sandboxes die every invariant holds, and no lease is refused", "[simulation]") {
  holds("calm");
}
TEST_CASE("without loss everything converges with nothing to mend it", "[simulation]") { holds("bare"); }
TEST_CASE("every invariant holds while sandboxes, hosts and invokers die", "[simulation]") {
  holds("deaths");
}
TEST_CASE("every invariant holds while messages are lost, doubled and late", "[simulation]") {
  holds("lossy");
}
TEST_CASE("every invariant holds while the engine forgets what it knew", "[simulation]") { holds("flushed"); }
TEST_CASE("every invariant holds while hosts and invokers are cut off, or stand still", "[simulation]") {
  holds("parted");
}
TEST_CASE("what only comes late converges with nothing to mend it", "[simulation]") { holds("late"); }
TEST_CASE("under overload the surplus is refused, and every function gets on", "[simulation]") {
  holds("overload");
}
TEST_CASE("every invariant holds while starts fail in rows and sandboxes die in heaps", "[simulation]") {
  holds("crashing");
}
TEST_CASE("every invariant holds while sandboxes wear out, age and get stuck", "[simulation]") {
  holds("worn");
}
TEST_CASE("every invariant holds while all of it happens at once", "[simulation]") { holds("storm"); }

// One story of a million steps: what grew with it, or slowed it down, would show.
TEST_CASE("every invariant holds for a million steps of all of it", "[simulation]") {
  const Mode& mode = *find_mode("storm");
  constexpr std::uint64_t kSteps = 1'000'000;
  const Report report = look(mode, 4, {.steps = kSteps});
  CHECK(report.steps >= kSteps);
  CHECK(report.ran > 20'000);
}

TEST_CASE("the same seed tells the same story", "[simulation]") {
  const Mode& mode = *find_mode("storm");
  const Report first = simulate(mode, 77, {.steps = 3000});
  const Report second = simulate(mode, 77, {.steps = 3000});
  CHECK(first.violation == second.violation);
  CHECK(first.fingerprint == second.fingerprint);
  CHECK(first.fingerprint != simulate(mode, 78, {.steps = 3000}).fingerprint);
}

}  // namespace faaskit::simulation
