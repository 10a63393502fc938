#include "faaskit/core/function_config.h"

#include <absl/strings/str_format.h>

namespace faaskit {

absl::Status validate(std::string_view function, const FunctionConfig& config) {
  if (config.version == 0) {
    return absl::InvalidArgumentError(absl::StrFormat("define %s: version 0 means 'none yet'", function));
  }
  if (config.caps.max_sandboxes == 0 || config.caps.max_starts == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("define %s: max_sandboxes %d, max_starts %d: both must be at least 1", function,
                        config.caps.max_sandboxes, config.caps.max_starts));
  }
  if (config.provisioned > config.caps.max_sandboxes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("define %s: provisioned %d, max_sandboxes %d: no more can "
                        "be kept than may exist",
                        function, config.provisioned, config.caps.max_sandboxes));
  }
  // A backoff of years is a mistake of units, and would wrap.
  constexpr std::chrono::hours kLongest{24};
  if (config.retry.budget == 0 || config.retry.backoff.count() < 0 ||
      config.retry.max_backoff < config.retry.backoff || config.retry.max_backoff > kLongest) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "define %s: retry budget %d, backoff %d ms, max_backoff %d ms: budget at least 1, 0 <= backoff <= "
        "max_backoff "
        "<= 24 h",
        function, config.retry.budget, config.retry.backoff.count(), config.retry.max_backoff.count()));
  }
  if (config.retry.breaker_failures == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("define %s: breaker_failures 0: at least 1 start must fail", function));
  }
  if (config.retry.breaker_open.count() <= 0 || config.retry.breaker_open > kLongest) {
    return absl::InvalidArgumentError(
        absl::StrFormat("define %s: breaker_open %d ms: 0 < breaker_open <= 24 h", function,
                        config.retry.breaker_open.count()));
  }
  return absl::OkStatus();
}

}  // namespace faaskit
