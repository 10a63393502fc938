// Randomness of a simulation. Every decision of chance has a name of its own, and its outcome depends on the
// seed and that name alone: leaving out one event does not reshuffle the others.
#pragma once

#include <chrono>
#include <cmath>
#include <concepts>
#include <cstdint>
#include <string_view>

#include "faaskit/core/ids.h"

namespace faaskit::simulation {

using Duration = std::chrono::nanoseconds;

// splitmix64: Steele, Lea, Flood, Fast Splittable Pseudorandom Number Generators (2014).
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}

  std::uint64_t next() {
    state_ += 0x9e3779b97f4a7c15u;
    std::uint64_t z = state_;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  // In [0, bound). The bias of a remainder is far below what a simulation notices.
  std::uint64_t below(std::uint64_t bound) { return bound == 0 ? 0 : next() % bound; }
  double unit() { return static_cast<double>(next() >> 11) * 0x1p-53; }
  bool chance(double probability) { return unit() < probability; }
  Duration between(Duration low, Duration high) {
    return low + Duration(static_cast<std::int64_t>(unit() * static_cast<double>((high - low).count())));
  }
  Duration exponential(Duration mean) {
    return Duration(static_cast<std::int64_t>(-std::log1p(-unit()) * static_cast<double>(mean.count())));
  }

 private:
  std::uint64_t state_;
};

// ---- names of decisions

inline std::uint64_t fold(std::uint64_t key, std::integral auto value) {
  return Random(key ^ (static_cast<std::uint64_t>(value) * 0xff51afd7ed558ccdu)).next();
}
inline std::uint64_t fold(std::uint64_t key, std::string_view text) {
  for (const char c : text) key = (key ^ static_cast<unsigned char>(c)) * 1099511628211u;
  return Random(key).next();
}
inline std::uint64_t fold(std::uint64_t key, const SandboxId& id) {
  return fold(fold(key, id.host), id.number);
}
inline std::uint64_t fold(std::uint64_t key, const RequestId& id) {
  return fold(fold(key, id.invoker), id.sequence);
}
inline std::uint64_t fold(std::uint64_t key, const LeaseId& id) {
  return fold(fold(key, id.request), id.attempt);
}
inline std::uint64_t fold(std::uint64_t key, const StartId& id) {
  return fold(fold(key, id.nonce), id.number);
}

template <class... About>
std::uint64_t name_of(std::string_view what, const About&... about) {
  std::uint64_t key = fold(0, what);
  ((key = fold(key, about)), ...);
  return key;
}

}  // namespace faaskit::simulation
