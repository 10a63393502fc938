// SlotDirectory: which host owns which slot.
//
// Thread safety: every member from any thread.
#pragma once

#include <array>
#include <cstdint>
#include <memory>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/slots.h"

namespace faaskit {

struct SlotMap {
  // Grows with every change of owners.
  std::uint64_t epoch = 0;
  std::array<HostId, kSlotCount> owner{};  // 0: nobody
};

class FAASKIT_EXPORT SlotDirectory {
 public:
  SlotDirectory(const SlotDirectory&) = delete;
  SlotDirectory& operator=(const SlotDirectory&) = delete;
  virtual ~SlotDirectory() = default;
  // The map as last published; never null.
  virtual std::shared_ptr<const SlotMap> snapshot() const = 0;

 protected:
  SlotDirectory() = default;
};

}  // namespace faaskit
