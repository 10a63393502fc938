#include "simulation/shrink.h"

#include <set>

#include <absl/strings/match.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <absl/strings/str_split.h>

namespace faaskit::simulation {
namespace {

using Clock = std::chrono::steady_clock;

// "I4" of "I4: 1 sandboxes are idle while 2 calls wait".
std::string invariant(const std::string& violation) { return violation.substr(0, violation.find(':')); }

// As it is printed, so that the printed one means the same.
Duration rounded_up(Duration time) {
  using std::chrono::microseconds;
  return std::chrono::ceil<microseconds>(time);
}

std::string seconds(Duration time) {
  return absl::StrFormat("%.6f", std::chrono::duration<double>(time).count());
}

// The ids and names in a line: sb-1-2, rq-a-7 (without its attempt), st-f-1, f0.
std::set<std::string> names(const std::string& line) {
  std::set<std::string> found;
  for (std::string word : std::vector<std::string>(absl::StrSplit(line, absl::ByAnyChar(" :,()")))) {
    const bool id =
        absl::StartsWith(word, "sb-") || absl::StartsWith(word, "rq-") || absl::StartsWith(word, "st-");
    const bool function = word.size() == 2 && word[0] == 'f' && word[1] >= '0' && word[1] <= '9';
    if (id) word = word.substr(0, word.find('.'));
    if (id || function) found.insert(word);
  }
  return found;
}

std::string function_in(const std::set<std::string>& names) {
  const auto found =
      std::find_if(names.begin(), names.end(), [](const auto& name) { return name[0] == 'f'; });
  return found == names.end() ? "" : *found;
}

}  // namespace

Shrunk shrink(const Mode& mode, std::uint64_t seed, const Run& run, const Report& failed,
              const ShrinkBudget& budget) {
  const Clock::time_point end = Clock::now() + budget.time;
  Shrunk shrunk;
  shrunk.run = run;
  shrunk.run.record = true;
  shrunk.run.verbose = false;
  // Ends by time from now on: how many steps there are until then depends on what is left out.
  // With less before it the violation may come a little later.
  shrunk.run.until = rounded_up(failed.ended_at + (failed.healed ? 0s : 5s));
  shrunk.run.heals = failed.healed;
  shrunk.report = simulate(mode, seed, shrunk.run);
  shrunk.of_choices = shrunk.report.happened.size();
  shrunk.of_lines = shrunk.report.lines;
  shrunk.kept = shrunk.report.happened;
  if (shrunk.report.violation.empty()) return shrunk;

  const auto fails = [&](Duration until, const std::vector<Choice>& kept) {
    if (shrunk.runs >= budget.runs || Clock::now() >= end) return false;
    ++shrunk.runs;
    Run again = shrunk.run;
    again.until = until;
    again.record = false;
    again.selection = Selection::only(kept);
    const Report report = simulate(mode, seed, again);
    return invariant(report.violation) == invariant(failed.violation);
  };
  shrunk.kept = ddmin<Choice>(
      shrunk.kept, [&](const std::vector<Choice>& kept) { return fails(*shrunk.run.until, kept); });
  // What nothing happens in for long may as well end earlier.
  if (failed.healed) {
    for (bool shorter = true; shorter;) {
      shorter = false;
      for (const int eighths : {1, 2, 4, 6, 7}) {
        const Duration until = rounded_up(*shrunk.run.until * eighths / 8);
        if (until < *shrunk.run.until && fails(until, shrunk.kept)) {
          shrunk.run.until = until;
          shorter = true;
          break;
        }
      }
    }
  }
  shrunk.run.selection = Selection::only(shrunk.kept);
  shrunk.report = simulate(mode, seed, shrunk.run);
  if (!failed.healed) shrunk.run.until = rounded_up(shrunk.report.ended_at);
  shrunk.run.record = false;
  return shrunk;
}

std::vector<std::string> relevant(const Report& report) {
  // Which function? That of what the violation names, else that of the last step.
  const std::set<std::string> named = names(report.violation);
  std::string function = function_in(named);
  for (auto line = report.story.rbegin(); line != report.story.rend() && function.empty(); ++line) {
    const std::set<std::string> here = names(*line);
    if (std::any_of(named.begin(), named.end(),
                    [&](const std::string& name) { return here.contains(name); })) {
      function = function_in(here);
    }
  }
  if (function.empty()) function = report.subject;

  std::set<std::string> about{function};
  for (const std::string& line : report.story) {
    const std::set<std::string> here = names(line);
    if (here.contains(function)) about.insert(here.begin(), here.end());
  }
  for (auto name = about.begin(); name != about.end();) {
    name = (*name)[0] == 'f' && *name != function ? about.erase(name) : std::next(name);
  }
  std::vector<std::string> lines;
  bool last = false;
  for (const std::string& line : report.story) {
    const std::set<std::string> here = names(line);
    const bool continues = line.find("    ") == 12 && here.empty();  // what became of the line before
    last = continues ? last
                     : here.empty() || std::any_of(here.begin(), here.end(), [&](const std::string& name) {
                         return about.contains(name);
                       });
    if (last) lines.push_back(line);
  }
  return lines;
}

std::string explain(const Mode& mode, std::uint64_t seed, const Run& run, const Report& report,
                    const ShrinkBudget& budget) {
  std::string text = describe(mode, seed, run, report);
  if (report.violation.empty() || budget.runs == 0) return text;
  const Shrunk shrunk = shrink(mode, seed, run, report, budget);
  if (shrunk.report.violation.empty()) {
    return text + "it cannot be shrunk: recorded, the same run violates nothing\n";
  }
  const std::vector<std::string> lines = relevant(shrunk.report);
  text = absl::StrFormat("%s\nshrunk in %d runs to %d of %d choices, and from %d lines to %d:\n",
                         report.violation, shrunk.runs, shrunk.kept.size(), shrunk.of_choices,
                         shrunk.of_lines, lines.size());
  constexpr std::size_t kMost = 200;
  if (lines.size() > kMost) absl::StrAppendFormat(&text, "... %d lines before\n", lines.size() - kMost);
  for (std::size_t i = lines.size() > kMost ? lines.size() - kMost : 0; i < lines.size(); ++i) {
    absl::StrAppend(&text, lines[i], "\n");
  }
  const std::string same = absl::StrFormat("faaskit_simulation --mode %s --seed %d", mode.name, seed);
  const std::string chosen = shrunk.kept.empty() ? "none" : join(shrunk.kept);
  absl::StrAppend(&text, "again: ", same, " --until ", seconds(*shrunk.run.until), " --only ", chosen, "\n");
  absl::StrAppend(&text, "all of it: ", same, " --steps ", run.steps, "\n");
  return text;
}

}  // namespace faaskit::simulation
