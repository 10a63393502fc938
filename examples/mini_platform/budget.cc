#include "budget.h"

#include <sys/resource.h>

#include <algorithm>

#include <absl/strings/str_format.h>

namespace mini {
namespace {

constexpr std::uint64_t kPerSandbox = 5;  // pidfd, channel, output, freezer, and one while it is being made
constexpr std::uint64_t kOwnFiles = 56;   // standard ones, registry, records, lock, guardian, unpacking
constexpr std::uint64_t kPerShard = 4;    // epoll, eventfd, timerfd, the acceptor

}  // namespace

absl::StatusOr<Budget> make_budget(std::uint32_t shards, std::uint32_t max_sandboxes,
                                   std::uint32_t max_connections) {
  rlimit limit{};
  ::getrlimit(RLIMIT_NOFILE, &limit);
  limit.rlim_cur = limit.rlim_max;
  if (::setrlimit(RLIMIT_NOFILE, &limit) != 0) ::getrlimit(RLIMIT_NOFILE, &limit);

  Budget budget{.descriptors = limit.rlim_cur};
  budget.log_files = limit.rlim_cur >= 1024 ? 32 : 8;
  const std::uint64_t own = kOwnFiles + kPerShard * shards + budget.log_files;
  if (limit.rlim_cur < own + 40) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%d descriptors (ulimit -n): at least %d are needed", limit.rlim_cur, own + 40));
  }
  const std::uint64_t rest = limit.rlim_cur - own;
  budget.sandboxes =
      static_cast<std::uint32_t>(std::min<std::uint64_t>(max_sandboxes, rest / 2 / kPerSandbox));
  budget.connections = static_cast<std::uint32_t>(
      std::min<std::uint64_t>(max_connections, rest - budget.sandboxes * kPerSandbox));
  return budget;
}

}  // namespace mini
