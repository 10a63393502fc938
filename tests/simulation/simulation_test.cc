// If these failed, some order of losses and deaths would lease a sandbox twice, lose one, or leave a call
// without an answer.
#include "simulation/simulation.h"

#include "catch.hpp"

namespace faaskit::simulation {
namespace {

void holds(const char* name) {
  const Mode* mode = find_mode(name);
  REQUIRE(mode != nullptr);
  constexpr std::uint64_t kSteps = 12000;
  std::uint64_t warm = 0;
  std::uint64_t cold = 0;
  std::uint64_t stolen = 0;
  std::uint64_t queued = 0;
  for (std::uint64_t seed = 1; seed <= 32; ++seed) {
    const Report report = simulate(*mode, seed, kSteps);
    INFO(describe(*mode, seed, kSteps, report));
    REQUIRE(report.violation.empty());
    // A simulation in which nothing happens proves nothing.
    CHECK(report.steps >= kSteps);
    CHECK(report.ran > 100);
    CHECK(report.answers.at("OK") > 100);
    warm += report.stats.warm;
    cold += report.stats.cold;
    stolen += report.stats.stolen;
    queued += report.stats.queued;
  }
  CHECK(warm > 500);
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
TEST_CASE("every invariant holds while all of it happens at once", "[simulation]") { holds("storm"); }

TEST_CASE("the same seed tells the same story", "[simulation]") {
  const Mode& mode = *find_mode("storm");
  const Report first = simulate(mode, 77, 3000);
  const Report second = simulate(mode, 77, 3000);
  CHECK(first.violation == second.violation);
  CHECK(first.fingerprint == second.fingerprint);
  CHECK(first.fingerprint != simulate(mode, 78, 3000).fingerprint);
}

}  // namespace faaskit::simulation
