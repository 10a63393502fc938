// A simulation: several invokers and hosts and the engine, in virtual time, under the faults of a mode.
// The same seed tells the same story, in every process.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "simulation/engine.h"
#include "simulation/host.h"
#include "simulation/invoker.h"
#include "simulation/world.h"

namespace faaskit::simulation {

struct Report {
  std::uint64_t steps = 0;
  std::uint64_t calls = 0;
  std::uint64_t ran = 0;                         // function bodies that began
  std::map<std::string, std::uint64_t> answers;  // by status code
  QueueStats stats;                              // summed over functions
  std::uint64_t fingerprint = 0;                 // of the whole story
  // Empty: every invariant held.
  std::string violation;
  std::deque<std::string> story;  // the last lines; all of them if recorded
  std::uint64_t lines = 0;
  std::vector<Choice> happened;  // if recorded
  Duration ended_at{};           // of what was wanted to go wrong; then it heals
  bool healed = false;
  std::string subject;  // the function that the last step was about
};

Report simulate(const Mode& mode, std::uint64_t seed, const Run& run);
// For people: what happened, and how to see it again.
std::string describe(const Mode& mode, std::uint64_t seed, const Run& run, const Report& report);

}  // namespace faaskit::simulation
