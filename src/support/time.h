// Private: points in time that do not wrap.
#pragma once

#include <chrono>

namespace faaskit {

// `now` + `wait`, or the largest time there is where that is beyond it: "for ever" may be asked for.
template <class Rep, class Period>
std::chrono::steady_clock::time_point after(std::chrono::steady_clock::time_point now,
                                            std::chrono::duration<Rep, Period> wait) {
  using Clock = std::chrono::steady_clock;
  const std::chrono::duration<double> left = Clock::time_point::max() - now;
  return std::chrono::duration<double>(wait) < left - std::chrono::seconds(1)
             ? now + std::chrono::duration_cast<Clock::duration>(wait)
             : Clock::time_point::max();
}

}  // namespace faaskit
