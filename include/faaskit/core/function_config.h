// FunctionConfig: the rules that the queue of one function follows.
#pragma once

#include <chrono>
#include <cstdint>
#include <string_view>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"

namespace faaskit {

// What to do for a call that finds no idle sandbox.
//   race       ask for a new one and wait: whichever is ready first serves
//   wait_only  wait for a busy one to return; ask for a new one only if none could ever return
enum class StartPolicy : std::uint8_t { race, wait_only };

// Which idle sandbox is taken first.
//   lifo  the one used last: keeps the hot set small, so that the rest can freeze and expire
//   fifo  the one idle longest: spreads use evenly
enum class IdleOrder : std::uint8_t { lifo, fifo };

// A start whose waiter was served by a returned sandbox is surplus.
//   keep           it is finished and becomes idle: natural scale-out
//   cancel_queued  dropped if no host has claimed it yet
enum class SurplusStarts : std::uint8_t { keep, cancel_queued };

struct FunctionCaps {
  // Live and starting together, from the admitted start until the host reports it reaped. Lowered, idle
  // ones above it retire, those idle longest first; busy ones and claimed starts above it are not cut
  // short, nor when they become idle: their host's keep-alive ends them.
  std::uint32_t max_sandboxes = 16;
  // Starts in flight. Bounds the stampede on a cold function.
  std::uint32_t max_starts = 8;
  // Beyond this a call is refused at once instead of queueing without end.
  std::uint32_t max_waiters = 1024;
};

struct StartRetry {
  // Consecutive failed starts after which the error is answered to the oldest uncovered waiter.
  std::uint32_t budget = 3;
  // Pause after the first failure; doubles up to `max_backoff`, with full jitter on its upper half.
  std::chrono::milliseconds backoff{50};
  std::chrono::milliseconds max_backoff{2000};
  // The breaker: after so many failed starts in a row the function is taken for one that crashes at every
  // start. It opens: no start is admitted, not even for `provisioned`, and calls that neither a start in
  // flight nor a busy sandbox covers are answered at once with the last error. At least 1. What a host is
  // short of (kResourceExhausted) is not the function's doing, and does not count here.
  std::uint32_t breaker_failures = 10;
  // How long it stays open, and up to a fifth longer at random. More than 0, at most 24 h. Then it is half
  // open: starts are admitted one at a time, once somebody waits or `provisioned` wants it. One that succeeds
  // closes the breaker, also if it was in flight when the breaker opened; one that fails opens it again. A
  // redeploy closes it.
  std::chrono::milliseconds breaker_open{10000};
};

struct FunctionConfig {
  // A larger one is a redeploy: sandboxes of older versions get no new lease from then on.
  Version version = 1;
  FunctionCaps caps{};
  StartPolicy policy = StartPolicy::race;
  IdleOrder order = IdleOrder::lifo;
  SurplusStarts surplus = SurplusStarts::keep;
  StartRetry retry{};
  // Provisioned concurrency: so many sandboxes are kept, live and starting together, whether anybody calls
  // or not. At most max_sandboxes. Starts for it are admitted without a waiter, within max_starts, and after
  // failures with the backoff and the breaker of `retry`, for ever. With that backoff, too, where sandboxes
  // die before they have served anybody, from the second death in a row on.
  std::uint32_t provisioned = 0;
};

// What define() would say of these rules: kInvalidArgument names the field and the limit.
FAASKIT_EXPORT absl::Status validate(std::string_view function, const FunctionConfig& config);

}  // namespace faaskit
