#include "simulation/mode.h"

namespace faaskit::simulation {
namespace {

constexpr Mode kModes[] = {
    // One process: messages are calls.
    {.name = "inprocess", .no_latency = true, .sandboxes_fail = true, .mends = false, .try_path = true},
    // Only sandboxes die: no lease may ever be refused for a newer or a running one.
    {.name = "calm", .sandboxes_fail = true, .engine_timers = false},
    // Nothing is lost, nothing mends: whoever forgets a wake-up is found out.
    {.name = "bare",
     .sandboxes_fail = true,
     .invokers_crash = true,
     .invokers_pause = true,
     .hosts_crash = true,
     .mends = false},
    // Everything dies, the network is good.
    {.name = "deaths",
     .sandboxes_fail = true,
     .invokers_crash = true,
     .invokers_pause = true,
     .hosts_crash = true,
     .engine_timers = false},
    // The network alone is bad.
    {.name = "lossy",
     .request_lost = 0.08,
     .reply_lost = 0.08,
     .duplicated = 0.08,
     .duplicate_late = 0.3,
     .engine_timers = false},
    // The engine is flushed beneath running calls: only the hosts know what exists.
    {.name = "flushed",
     .request_lost = 0.03,
     .reply_lost = 0.03,
     .duplicated = 0.03,
     .duplicate_late = 0.3,
     .sandboxes_fail = true,
     .invokers_pause = true,
     .engine_forgets = true},
    // Hosts and invokers are cut off from the engine, or stand still, and come back.
    {.name = "parted",
     .nodes_cut_off = true,
     .cuts_lose = true,
     .invokers_pause = true,
     .hosts_pause = true,
     .engine_timers = false},
    // The same where nothing is lost, only late, and nothing mends.
    {.name = "late",
     .nodes_cut_off = true,
     .sandboxes_fail = true,
     .invokers_pause = true,
     .hosts_pause = true,
     .mends = false},
    // More calls come than the caps can serve.
    {.name = "overload",
     .sandboxes_fail = true,
     .ample_hosts = true,
     .arrivals = std::chrono::milliseconds(4),
     .engine_timers = false},
    // Starts fail: those of some code all of them, those of some host all of them for a while.
    {.name = "crashing",
     .sandboxes_fail = true,
     .crash_loops = true,
     .start_bursts = true,
     .massacres = true,
     .mends = false},
    // Sandboxes wear out, age and get stuck; hosts have little memory.
    {.name = "worn",
     .sandboxes_fail = true,
     .silent_deaths = true,
     .lifetimes = true,
     .memory_budget = true,
     .mends = false},
    // Everything at once.
    {.name = "storm",
     .request_lost = 0.06,
     .reply_lost = 0.06,
     .duplicated = 0.06,
     .duplicate_late = 0.3,
     .nodes_cut_off = true,
     .cuts_lose = true,
     .sandboxes_fail = true,
     .invokers_crash = true,
     .invokers_pause = true,
     .hosts_crash = true,
     .hosts_pause = true,
     .crash_loops = true,
     .start_bursts = true,
     .massacres = true,
     .silent_deaths = true,
     .lifetimes = true,
     .memory_budget = true},
};

}  // namespace

std::span<const Mode> all_modes() { return kModes; }

const Mode* find_mode(std::string_view name) {
  for (const Mode& mode : kModes) {
    if (mode.name == name) return &mode;
  }
  return nullptr;
}

}  // namespace faaskit::simulation
