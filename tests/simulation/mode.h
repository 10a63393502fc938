// What goes wrong in a simulation, and how often.
#pragma once

#include <span>
#include <string_view>

namespace faaskit::simulation {

struct Mode {
  std::string_view name;
  // The network. Without faults messages between two nodes also keep their order.
  double request_lost = 0;
  double reply_lost = 0;
  double duplicated = 0;
  double duplicate_late = 0;  // of the duplicates, those that come up to ten seconds later
  bool no_latency = false;
  // Deaths.
  bool sandboxes_fail = false;
  bool invokers_crash = false;
  bool invokers_pause = false;
  bool hosts_crash = false;
  // The engine forgets everything, now and then, and is told the functions anew.
  bool engine_forgets = false;
  // What mends: repair by invokers, announce by hosts. Since it would mask lost wake-ups, everything
  // must converge without it as long as no message is lost.
  bool mends = true;
  // The engine evaluates a function at its next_event(); without it, repair does.
  bool engine_timers = true;
  // Invokers live in the engine's process and try the warm path first.
  bool try_path = false;
};

std::span<const Mode> all_modes();
const Mode* find_mode(std::string_view name);

}  // namespace faaskit::simulation
