// If these failed, whoever meets a violation would have to read thousands of lines to see what it was.
#include "simulation/shrink.h"

#include "catch.hpp"

namespace faaskit::simulation {
namespace {

std::vector<int> numbers(int many) {
  std::vector<int> all;
  for (int i = 1; i <= many; ++i) all.push_back(i);
  return all;
}

bool contains(const std::vector<int>& some, int one) {
  return std::find(some.begin(), some.end(), one) != some.end();
}

// Not of faaskit: a call fails because its sandbox was killed, after its function was removed and came back.
Watch no_death_after_a_removal() {
  return [removed = false](const std::string& line) mutable -> std::string {
    removed = removed || line.find("f0 is removed") != std::string::npos;
    const bool death = line.find("is answered: UNAVAILABLE: signal 9") != std::string::npos;
    return removed && death ? "planted: a death after a removal" : "";
  };
}

}  // namespace

TEST_CASE("ddmin finds what is needed, wherever it is", "[simulation]") {
  int asked = 0;
  const auto needs = [&asked](std::vector<int> needed) {
    return [&asked, needed](const std::vector<int>& some) {
      ++asked;
      return std::all_of(needed.begin(), needed.end(), [&](int one) { return contains(some, one); });
    };
  };
  CHECK(ddmin<int>(numbers(1000), needs({777})) == std::vector<int>{777});
  CHECK(ddmin<int>(numbers(1000), needs({1, 500, 1000})) == std::vector<int>{1, 500, 1000});
  CHECK(ddmin<int>(numbers(8), needs({3, 4})) == std::vector<int>{3, 4});
  CHECK(ddmin<int>(numbers(5), needs({1, 2, 3, 4, 5})) == numbers(5));
  CHECK(ddmin<int>(numbers(1000), needs({})).empty());
  CHECK(asked < 500);
}

TEST_CASE("ddmin keeps what it has when there is no time left", "[simulation]") {
  int left = 4;
  const std::vector<int> some =
      ddmin<int>(numbers(64), [&](const std::vector<int>& some) { return left-- > 0 && contains(some, 64); });
  CHECK(some.size() < 64);
  CHECK(contains(some, 64));
}

TEST_CASE("a list of choices is read as it is written", "[simulation]") {
  const std::vector<Choice> choices{
      {Choice::Kind::arrival, 17}, {Choice::Kind::trouble, 0}, {Choice::Kind::fault, 0xffffffff}};
  CHECK(join(choices) == "a17,t0,fffffffff");
  CHECK(parse_choices(join(choices)) == choices);
  CHECK(parse_choices("") == std::vector<Choice>{});
  CHECK(parse_choices("x1") == std::nullopt);
  CHECK(parse_choices("a") == std::nullopt);
  CHECK(parse_choices("a1f") == std::nullopt);
}

TEST_CASE("what is left out does not happen, and the rest happens as before", "[simulation]") {
  const Mode& mode = *find_mode("storm");
  Run run{.until = std::chrono::seconds(10), .record = true};
  const Report all = simulate(mode, 5, run);
  run.selection = Selection::only(all.happened);
  CHECK(simulate(mode, 5, run).fingerprint == all.fingerprint);
  run.selection = Selection::only({});
  const Report none = simulate(mode, 5, run);
  CHECK(none.happened.empty());
  CHECK(none.calls < 50);  // the probes at its end
  CHECK(none.violation.empty());
  const std::vector<Choice> one{all.happened[all.happened.size() / 2]};
  run.selection = Selection::without(one);
  const Report rest = simulate(mode, 5, run);
  CHECK(std::find(rest.happened.begin(), rest.happened.end(), one.front()) == rest.happened.end());
  CHECK(rest.happened.size() > all.happened.size() / 2);
}

TEST_CASE("a story that breaks an invariant is told in a fifth of its lines, or less", "[simulation]") {
  for (const char* name : {"calm", "storm"}) {
    const Mode& mode = *find_mode(name);
    Run run{.steps = 20000, .watch = no_death_after_a_removal};
    std::uint64_t seed = 1;
    Report report = simulate(mode, seed, run);
    for (; report.violation.empty() && seed < 50; report = simulate(mode, seed, run)) ++seed;
    REQUIRE(report.violation == "planted: a death after a removal");

    const Shrunk shrunk = shrink(mode, seed, run, report);
    const std::vector<std::string> lines = relevant(shrunk.report);
    INFO(explain(mode, seed, run, report));
    CHECK(shrunk.report.violation == report.violation);
    CHECK(shrunk.of_lines == report.lines);
    CHECK(lines.size() * 5 <= shrunk.of_lines);
    CHECK(shrunk.kept.size() * 5 <= shrunk.of_choices);
    // Told again it ends the same way.
    CHECK(simulate(mode, seed, shrunk.run).violation == report.violation);
    // Nothing of what is left can be left out.
    for (std::size_t i = 0; i < shrunk.kept.size(); ++i) {
      std::vector<Choice> fewer = shrunk.kept;
      fewer.erase(fewer.begin() + static_cast<std::ptrdiff_t>(i));
      Run again = shrunk.run;
      again.selection = Selection::only(fewer);
      CHECK(simulate(mode, seed, again).violation.empty());
    }
  }
}

}  // namespace faaskit::simulation
