// DeployCheck: looks at code before it becomes a version, and may refuse it. Checks are run in order, and the
// first refusal is the deploy's answer. A host application adds its own (a virus scanner, a licence policy).
//
// Thread safety: check() from any thread; it may block: it is called on the blocking executor.
#pragma once

#include <chrono>
#include <memory>
#include <span>
#include <string_view>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/port/sandbox_factory.h"

namespace faaskit {

struct DeployCandidate {
  // As it would run: code_path is its unpacked folder. Not trusted: never run any of it outside a sandbox.
  const FunctionSpec* spec = nullptr;
  std::string_view owner{};
};

class FAASKIT_EXPORT DeployCheck {
 public:
  DeployCheck(const DeployCheck&) = delete;
  DeployCheck& operator=(const DeployCheck&) = delete;
  virtual ~DeployCheck() = default;
  // For messages: "syntax", "elf".
  virtual std::string_view name() const = 0;
  // kInvalidArgument: the code is at fault; the message names file, line and reason as far as known.
  // Anything else: the check itself could not be made, and the deploy is refused as well.
  virtual absl::Status check(const DeployCandidate& candidate) = 0;

 protected:
  DeployCheck() = default;
};

// Runs them in order. A refusal's message begins with the check's name.
FAASKIT_EXPORT absl::Status run_checks(std::span<const std::shared_ptr<DeployCheck>> checks,
                                       const DeployCandidate& candidate);

}  // namespace faaskit
