#include "faaskit/provision/lifetime.h"

#include <absl/strings/str_format.h>

#include "support/time.h"

namespace faaskit {
namespace {

constexpr std::chrono::milliseconds kLifetimes = std::chrono::hours(24 * 365 * 100);

}  // namespace

absl::Status validate(const Lifetime& lifetime) {
  if (lifetime.max_age && lifetime.max_age->count() <= 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("max_age is %d ms; it must be positive", lifetime.max_age->count()));
  }
  if (lifetime.max_uses && *lifetime.max_uses == 0)
    return absl::InvalidArgumentError("max_uses is 0; at least 1");
  if (lifetime.ping_after && lifetime.ping_after->count() < 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("ping_after is %d ms; it must not be negative", lifetime.ping_after->count()));
  }
  if (lifetime.ping_timeout.count() <= 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("ping_timeout is %d ms; it must be positive", lifetime.ping_timeout.count()));
  }
  return absl::OkStatus();
}

SandboxRules sandbox_rules(const Lifetime& lifetime, SandboxMachine::TimePoint claimed_at, double jitter) {
  SandboxRules rules;
  if (lifetime.max_age) {
    const std::chrono::duration<double, std::milli> age = *lifetime.max_age;
    rules.ends_at = after(claimed_at, age * (1 - 0.1 * jitter));
  }
  rules.max_uses = lifetime.max_uses;
  // What nobody lives to see is never; in nanoseconds it would wrap.
  if (lifetime.ping_after && *lifetime.ping_after < kLifetimes) rules.ping_after = lifetime.ping_after;
  return rules;
}

}  // namespace faaskit
