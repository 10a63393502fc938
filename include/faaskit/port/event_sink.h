// EventSink: what the library would print if it printed. Something unusual happened, and an operator
// may want to know; nothing here is needed for correctness.
//
// Thread safety: emit() is called from any thread, never under a lock of faaskit, and must not block.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "faaskit/core/export.h"

namespace faaskit {

enum class Severity : std::uint8_t { info, warning, error };

struct Event {
  Severity severity = Severity::info;
  // Stable and greppable: "sandbox.destroyed", "freezer.unconfirmed", "lease.settled_twice".
  std::string_view name{};
  std::string function{};  // may be empty
  std::string detail{};    // operand and limit
};

class FAASKIT_EXPORT EventSink {
 public:
  EventSink(const EventSink&) = delete;
  EventSink& operator=(const EventSink&) = delete;
  virtual ~EventSink() = default;
  virtual void emit(Event event) = 0;

 protected:
  EventSink() = default;
};

}  // namespace faaskit
