// What goes wrong in a simulation, and how often.
#pragma once

#include <chrono>
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
  // Now and then a host or an invoker is cut off from the engine: not heard, or deaf, or both, for a while. A
  // host that cannot renew its heartbeat destroys what it has before others may count it gone. `cuts_lose`:
  // what is sent meanwhile is lost; otherwise it comes when the wire is mended.
  bool nodes_cut_off = false;
  bool cuts_lose = false;
  // Deaths.
  bool sandboxes_fail = false;
  bool invokers_crash = false;
  bool invokers_pause = false;
  bool hosts_crash = false;
  // A host stands still, also beyond its heartbeat, and goes on where it was.
  bool hosts_pause = false;
  // Every start of a version fails for a while; every start on a host fails, for want of descriptors.
  bool crash_loops = false;
  bool start_bursts = false;
  // Several sandboxes of a function die at once: all, the idle ones, two.
  bool massacres = false;
  // Frozen sandboxes never wake again, of which nobody has a sign.
  bool silent_deaths = false;
  // Sandboxes end after some calls, or at some age; a ping goes before the call after a long idle spell.
  bool lifetimes = false;
  // Functions need memory, of which hosts have so much.
  bool memory_budget = false;
  // Hosts have room for all that the caps allow; then every function must get on, however many calls come.
  bool ample_hosts = false;
  // Between two calls that arrive; bursts come beside.
  std::chrono::milliseconds arrivals{60};
  // The engine forgets everything, now and then, and is told the functions anew.
  bool engine_forgets = false;
  // What mends: repair by invokers, announce by hosts. Since it would mask lost wake-ups, everything
  // must converge without it as long as no message is lost.
  bool mends = true;
  // The engine evaluates a function at its next_event(); without it, repair does.
  bool engine_timers = true;
  // Invokers live in the engine's process and try the warm path first.
  bool try_path = false;

  // Messages may be lost, so that questions are repeated.
  bool loses() const { return request_lost > 0 || reply_lost > 0 || cuts_lose; }
  // Whoever holds a lease may be taken for dead.
  bool suspects() const { return invokers_pause || hosts_pause || nodes_cut_off; }
};

std::span<const Mode> all_modes();
const Mode* find_mode(std::string_view name);

}  // namespace faaskit::simulation
