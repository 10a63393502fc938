// Phases: where the time of one invocation went. Recorded by whoever did the step, on the steady clock; the
// two that only the sandbox can know (runtime, init) are its claims.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "faaskit/core/export.h"

namespace faaskit {

//   auth         the door's: who is calling, and may they
//   acquire      from the call's arrival until a sandbox was leased, or the call ended without one
//   -- of the sandbox's start; only where this call was served cold
//   start_queue  from the start's arrival at its host until somebody began to make it
//   fetch        code brought to this host's disk, unpacked
//   create       seat, namespaces, tree, limits, until the runtime's program runs
//   exec         of `create`, the part after the spare was told what to become
//   runtime      interpreter up, before any code of the function (claimed)
//   init         the function's own: imports, module level code (claimed)
//   hello        from the program's start until the host read the hello; holds `runtime` and `init`
//   -- of every call
//   thaw         the write that ends the frozen state; absent if it was not frozen
//   run          from the call's arrival at the sandbox's shard until its answer
//   freeze       until the kernel confirmed the freeze that ended the spell before this call
//   settle       from the answer until the sandbox was offered back
enum class Phase : std::uint8_t {
  auth,
  acquire,
  start_queue,
  fetch,
  create,
  exec,
  runtime,
  init,
  hello,
  thaw,
  run,
  freeze,
  settle,
};
inline constexpr std::size_t kPhaseCount = 13;
FAASKIT_EXPORT std::string_view to_string(Phase phase);

class Phases {
 public:
  static constexpr std::chrono::nanoseconds kAbsent{-1};

  Phases() { times_.fill(kAbsent); }
  std::chrono::nanoseconds operator[](Phase phase) const { return times_[static_cast<std::size_t>(phase)]; }
  bool has(Phase phase) const { return (*this)[phase] != kAbsent; }
  // A negative time is recorded as 0.
  void set(Phase phase, std::chrono::nanoseconds time) {
    times_[static_cast<std::size_t>(phase)] = time.count() < 0 ? std::chrono::nanoseconds(0) : time;
  }
  // Takes over what `other` has.
  void merge(const Phases& other) {
    for (std::size_t i = 0; i < kPhaseCount; ++i) {
      if (other.times_[i] != kAbsent) times_[i] = other.times_[i];
    }
  }

 private:
  std::array<std::chrono::nanoseconds, kPhaseCount> times_{};
};

}  // namespace faaskit
