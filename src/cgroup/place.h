// Where on v2 our group is made.
#pragma once

#include <string>
#include <vector>

#include "faaskit/cgroup/layout.h"

namespace faaskit::cgroup {

// The process's own group, or the nearest one above that can give groups below as many of the `wanted`
// controllers as any: one that holds processes cannot, unless it is the hierarchy's top. Enables them there.
// The own group if none of them can be had anywhere.
// Kernel: admin-guide/cgroup-v2, "No Internal Process Constraint".
std::string v2_parent(const Layout& layout, const std::vector<std::string>& wanted);

}  // namespace faaskit::cgroup
