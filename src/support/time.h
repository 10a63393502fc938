// Private: points in time that do not wrap.
#pragma once

#include <chrono>

#include "faaskit/port/clock.h"

namespace faaskit {

// `now` + `wait`, or kNever where that is beyond what a TimePoint can hold: "for ever" may be asked for.
template <class Rep, class Period>
TimePoint after(TimePoint now, std::chrono::duration<Rep, Period> wait) {
  const std::chrono::duration<double> left = kNever - now;
  return std::chrono::duration<double>(wait) < left - std::chrono::seconds(1)
             ? now + std::chrono::duration_cast<Duration>(wait)
             : kNever;
}

}  // namespace faaskit
