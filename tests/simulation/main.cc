// faaskit_simulation [--mode NAME] [--seed N] [--seeds N] [--steps N] ...
// Runs the simulation and prints what happened. If an invariant did not hold: exit status 1, a story made as
// short as could be, and the command that tells it again.
#include <cstdio>
#include <cstdlib>
#include <string>

#include "simulation/shrink.h"

namespace {

using namespace faaskit::simulation;

int usage() {
  std::fprintf(stderr,
               "usage: faaskit_simulation [--mode NAME|all] [--seed N] [--seeds N] [--steps N]\n"
               "         [--until SECONDS] [--only CHOICES | --without CHOICES] [--no-shrink] [--verbose]\n"
               "CHOICES: a17,t3,f09ab3c (arrivals, troubles, faults), or none\nmodes:");
  for (const Mode& mode : all_modes()) std::fprintf(stderr, " %s", std::string(mode.name).c_str());
  std::fprintf(stderr, "\n");
  return 2;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t seed = 1;
  std::uint64_t seeds = 1;
  Run run;
  ShrinkBudget budget;
  std::string name = "all";
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    if (flag == "--verbose") {
      run.verbose = true;
      continue;
    }
    if (flag == "--no-shrink") {
      budget.runs = 0;
      continue;
    }
    if (i + 1 == argc) return usage();
    const std::string value = argv[++i];
    if (flag == "--mode") {
      name = value;
    } else if (flag == "--seed") {
      seed = std::strtoull(value.c_str(), nullptr, 10);
    } else if (flag == "--seeds") {
      seeds = std::strtoull(value.c_str(), nullptr, 10);
    } else if (flag == "--steps") {
      run.steps = std::strtoull(value.c_str(), nullptr, 10);
    } else if (flag == "--until") {
      // Rounded to the microsecond, as it was printed.
      run.until = std::chrono::microseconds(std::llround(std::strtod(value.c_str(), nullptr) * 1e6));
    } else if (flag == "--only" || flag == "--without") {
      const auto choices = parse_choices(value == "none" ? "" : value);
      if (!choices) return usage();
      run.selection = flag == "--only" ? Selection::only(*choices) : Selection::without(*choices);
      budget.runs = 0;
    } else {
      return usage();
    }
  }
  if (name != "all" && find_mode(name) == nullptr) {
    std::fprintf(stderr, "no such mode: %s\n", name.c_str());
    return 2;
  }
  for (std::uint64_t s = seed; s < seed + seeds; ++s) {
    for (const Mode& mode : all_modes()) {
      if (name != "all" && mode.name != name) continue;
      const Report report = simulate(mode, s, run);
      std::fputs(explain(mode, s, run, report, budget).c_str(), stdout);
      std::fflush(stdout);
      if (!report.violation.empty()) return 1;
    }
  }
}
