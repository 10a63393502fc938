// The registry's tables, and how older forms of them become the present one.
#pragma once

#include <absl/status/status.h>

#include "registry/database.h"

namespace faaskit::registry {

inline constexpr int kSchemaVersion = 1;

// Checks whose file it is and what form it has, and brings it forward.
absl::Status migrate(Database& database);

}  // namespace faaskit::registry
