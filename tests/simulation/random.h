// Randomness of a simulation: the same numbers from the same seed, with every standard library.
#pragma once

#include <chrono>
#include <cmath>
#include <cstdint>
#include <random>

namespace faaskit::simulation {

using Duration = std::chrono::nanoseconds;

class Random {
 public:
  explicit Random(std::uint64_t seed) : engine_(seed) {}

  std::uint64_t next() { return engine_(); }
  // In [0, bound). The bias of a remainder is far below what a simulation notices.
  std::uint64_t below(std::uint64_t bound) { return bound == 0 ? 0 : engine_() % bound; }
  double unit() { return static_cast<double>(engine_() >> 11) * 0x1p-53; }
  bool chance(double probability) { return unit() < probability; }
  Duration between(Duration low, Duration high) {
    return low + Duration(static_cast<std::int64_t>(unit() * static_cast<double>((high - low).count())));
  }
  Duration exponential(Duration mean) {
    return Duration(static_cast<std::int64_t>(-std::log1p(-unit()) * static_cast<double>(mean.count())));
  }

 private:
  std::mt19937_64 engine_;  // its sequence is fixed by the standard; its distributions are not
};

}  // namespace faaskit::simulation
