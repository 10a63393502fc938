// Private: numbers that must not repeat across processes (incarnations, nonces, seeds).
#pragma once

#include <cstdint>
#include <random>

namespace faaskit {

// Never 0.
inline std::uint64_t random_id() {
  std::random_device device;
  return ((std::uint64_t{device()} << 32) | device()) | 1;
}

}  // namespace faaskit
