// A long story that breaks an invariant, made short: happenings are left out as long as what remains still
// breaks the same one.
#pragma once

#include <algorithm>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "simulation/simulation.h"

namespace faaskit::simulation {

// The least part of `all` that ddmin finds for which `fails` still holds: leaving out any one more element
// would end it, unless `fails` said no for want of time.
// REQUIRES: fails(all).
// Source: Zeller, Hildebrandt, Simplifying and Isolating Failure-Inducing Input (2002).
template <class T>
std::vector<T> ddmin(std::vector<T> all, const std::function<bool(const std::vector<T>&)>& fails) {
  const std::vector<T> none;
  if (fails(none)) return none;
  std::size_t parts = 2;
  while (all.size() >= 2) {
    const auto part = [&](std::size_t i, bool without) {
      const std::size_t begin = all.size() * i / parts;
      const std::size_t end = all.size() * (i + 1) / parts;
      std::vector<T> chosen;
      for (std::size_t k = 0; k < all.size(); ++k) {
        if ((k >= begin && k < end) != without) chosen.push_back(all[k]);
      }
      return chosen;
    };
    bool smaller = false;
    // What comes last is most often what did it: of the halves the later one is tried first.
    for (std::size_t i = parts; parts == 2 && i-- > 0 && !smaller;) {
      std::vector<T> some = part(i, false);
      if ((smaller = fails(some))) all = std::move(some);
    }
    for (std::size_t i = 0; i < parts && parts > 2 && !smaller; ++i) {
      std::vector<T> rest = part(i, true);
      if (!(smaller = fails(rest))) continue;
      all = std::move(rest);
      parts = std::max<std::size_t>(parts - 1, 2);
    }
    if (smaller) continue;
    if (parts >= all.size()) break;
    parts = std::min(parts * 2, all.size());
  }
  return all;
}

struct ShrinkBudget {
  std::uint64_t runs = 400;
  std::chrono::milliseconds time = std::chrono::seconds(20);
};

struct Shrunk {
  Report report;  // recorded
  Run run;        // breaks the same invariant again
  std::vector<Choice> kept;
  std::uint64_t of_choices = 0;
  std::uint64_t of_lines = 0;
  std::uint64_t runs = 0;
};

// REQUIRES: simulate(mode, seed, run) violated an invariant, and `failed` says so.
Shrunk shrink(const Mode& mode, std::uint64_t seed, const Run& run, const Report& failed,
              const ShrinkBudget& budget = {});

// Of a recorded story, the lines about what the violation is about.
std::vector<std::string> relevant(const Report& report);

// For people: what happened, and how to see it again. A violation is shrunk first, as far as `budget` goes.
std::string explain(const Mode& mode, std::uint64_t seed, const Run& run, const Report& report,
                    const ShrinkBudget& budget = {});

}  // namespace faaskit::simulation
