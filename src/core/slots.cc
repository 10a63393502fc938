#include "faaskit/core/slots.h"

#include <array>

namespace faaskit {
namespace {

constexpr std::array<std::uint16_t, 256> make_table() {
  std::array<std::uint16_t, 256> table{};
  for (unsigned byte = 0; byte < 256; ++byte) {
    std::uint16_t crc = static_cast<std::uint16_t>(byte << 8);
    for (int bit = 0; bit < 8; ++bit) {
      crc = static_cast<std::uint16_t>((crc & 0x8000) != 0 ? (crc << 1) ^ 0x1021 : crc << 1);
    }
    table[byte] = crc;
  }
  return table;
}

constexpr std::array<std::uint16_t, 256> kTable = make_table();

std::uint16_t extend(std::uint16_t crc, std::string_view bytes) {
  for (const char c : bytes) {
    crc =
        static_cast<std::uint16_t>((crc << 8) ^ kTable[((crc >> 8) ^ static_cast<unsigned char>(c)) & 0xff]);
  }
  return crc;
}

}  // namespace

std::uint16_t crc16(std::string_view bytes) { return extend(0, bytes); }

std::uint16_t slot_of(std::string_view key) { return crc16(key) % kSlotCount; }

CandidateSlots candidate_slots(std::string_view function) {
  const std::uint16_t crc = crc16(function);
  return {.primary = static_cast<std::uint16_t>(crc % kSlotCount),
          .secondary = static_cast<std::uint16_t>(extend(crc, ":secondary") % kSlotCount)};
}

}  // namespace faaskit
