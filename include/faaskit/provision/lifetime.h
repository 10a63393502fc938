// How long a healthy sandbox lives, and when it is asked whether it is healthy.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/provision/sandbox_machine.h"

namespace faaskit {

// When a healthy sandbox is ended all the same, and when it is asked whether it is healthy. Where
// `provisioned` wants it kept, another takes its place.
struct Lifetime {
  // Since its start was claimed. It ends when it is idle: a running call is never cut short. Up to a tenth
  // less, at random, so that sandboxes started together do not end together. nullopt: no maximum.
  std::optional<std::chrono::milliseconds> max_age{};
  // Calls, warm-ups not counted; at least 1. nullopt: no maximum.
  std::optional<std::uint64_t> max_uses{};
  // A call that finds the sandbox idle for longer than this is preceded by a ping. No answer within
  // `ping_timeout`, or by the call's deadline: the sandbox is destroyed, and the call, which never began,
  // moves on to another. nullopt: never.
  std::optional<std::chrono::milliseconds> ping_after = std::chrono::minutes(1);
  std::chrono::milliseconds ping_timeout = std::chrono::seconds(1);
};

// kInvalidArgument names the field and its limit.
FAASKIT_EXPORT absl::Status validate(const Lifetime& lifetime);

// What it means for one sandbox; `jitter` in [0, 1) is its own random number.
FAASKIT_EXPORT SandboxRules sandbox_rules(const Lifetime& lifetime, SandboxMachine::TimePoint claimed_at,
                                          double jitter);

}  // namespace faaskit
