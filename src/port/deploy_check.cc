#include "faaskit/port/deploy_check.h"

#include <absl/strings/str_cat.h>

namespace faaskit {

absl::Status run_checks(std::span<const std::shared_ptr<DeployCheck>> checks,
                        const DeployCandidate& candidate) {
  for (const std::shared_ptr<DeployCheck>& check : checks) {
    const absl::Status status = check->check(candidate);
    if (!status.ok()) {
      return absl::Status(status.code(),
                          absl::StrCat(std::string(check->name()), ": ", std::string(status.message())));
    }
  }
  return absl::OkStatus();
}

}  // namespace faaskit
