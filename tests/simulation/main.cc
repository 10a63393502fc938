// faaskit_simulation [--mode NAME] [--seed N] [--steps N] [--seeds N] [--verbose]
// Runs the simulation and prints what happened; exit status 1 and the last of the story if an invariant
// did not hold.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "simulation/simulation.h"

int main(int argc, char** argv) {
  using namespace faaskit::simulation;
  std::uint64_t seed = 1;
  std::uint64_t seeds = 1;
  std::uint64_t steps = 20000;
  std::string name = "all";
  bool verbose = false;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const char* value = i + 1 < argc ? argv[i + 1] : nullptr;
    if (flag == "--verbose") {
      verbose = true;
    } else if (flag == "--mode" && value != nullptr) {
      name = argv[++i];
    } else if (flag == "--seed" && value != nullptr) {
      seed = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--seeds" && value != nullptr) {
      seeds = std::strtoull(argv[++i], nullptr, 10);
    } else if (flag == "--steps" && value != nullptr) {
      steps = std::strtoull(argv[++i], nullptr, 10);
    } else {
      std::fprintf(stderr,
                   "usage: faaskit_simulation [--mode NAME|all] [--seed N] [--seeds N] [--steps N] "
                   "[--verbose]\nmodes:");
      for (const Mode& mode : all_modes()) std::fprintf(stderr, " %s", std::string(mode.name).c_str());
      std::fprintf(stderr, "\n");
      return 2;
    }
  }
  if (name != "all" && find_mode(name) == nullptr) {
    std::fprintf(stderr, "no such mode: %s\n", name.c_str());
    return 2;
  }
  for (std::uint64_t s = seed; s < seed + seeds; ++s) {
    for (const Mode& mode : all_modes()) {
      if (name != "all" && mode.name != name) continue;
      const Report report = simulate(mode, s, {.steps = steps, .verbose = verbose});
      std::fputs(describe(mode, s, steps, report).c_str(), stdout);
      if (!report.violation.empty()) return 1;
    }
  }
}
