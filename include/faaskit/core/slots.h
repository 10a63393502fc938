// Slots: where a function's starts may go. 16384 of them, bit-equal to Redis Cluster's key slots.
//
// Source: CRC-16/XMODEM as in the Redis Cluster specification, appendix A; two candidates and the
// shorter of two queues: Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing" (2001).
#pragma once

#include <cstdint>
#include <string_view>

#include "faaskit/core/export.h"

namespace faaskit {

inline constexpr std::uint16_t kSlotCount = 16384;

// CRC-16/XMODEM: polynomial 0x1021, start 0, no reflection. "123456789" gives 0x31C3.
FAASKIT_EXPORT std::uint16_t crc16(std::string_view bytes);

// CRC16 modulo 16384 over the raw bytes; `{hash tags}` are not looked for.
FAASKIT_EXPORT std::uint16_t slot_of(std::string_view key);

// The slots of `function` and of `function` + ":secondary". They may be equal.
struct CandidateSlots {
  std::uint16_t primary = 0;
  std::uint16_t secondary = 0;
};
FAASKIT_EXPORT CandidateSlots candidate_slots(std::string_view function);

// Index (0 or 1) of the less loaded candidate; `tie_break` (any random number) decides among equals.
inline int less_loaded(std::uint64_t load0, std::uint64_t load1, std::uint64_t tie_break) {
  if (load0 != load1) return load0 < load1 ? 0 : 1;
  return static_cast<int>(tie_break & 1);
}

}  // namespace faaskit
