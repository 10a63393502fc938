// What hosts and invokers tell the engine of idle queues, and what it tells them. Plain values.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include <absl/status/status.h>

#include "faaskit/core/ids.h"
#include "faaskit/core/sandbox.h"

namespace faaskit {

// An admitted start, on its way to a host. Carried at least once; whoever claims it first makes it.
struct StartRequest {
  StartId id{};
  std::string function{};
  Version version = 0;
};

// "A sandbox becomes available". Repeated until acknowledged; idempotent.
struct Offer {
  Sandbox sandbox{};
  // Grows with every idle spell of the sandbox; a repeat carries the same one.
  std::uint64_t generation = 0;
  // Fresh: the start that it fulfils (its host has claimed it for this sandbox). Unset for a return.
  StartId start{};
  // Returned: the lease that ended.
  Token token = 0;
  LeaseId lease{};
  // The highest token its host has seen for it, admitted or refused.
  Token highest_token = 0;

  bool fresh() const { return start.nonce != 0; }
};

// Why a host takes an idle sandbox back. Below FunctionConfig::provisioned the first two are refused.
//   keep_alive  nobody has used it for long
//   eviction    another function needs its room
//   host        the host cannot, or will not, have it any longer
enum class WithdrawReason : std::uint8_t { keep_alive, eviction, host };

// One sandbox as its host knows it.
struct AnnouncedSandbox {
  Sandbox sandbox{};
  std::string function{};
  // starting (with `start`), idle, leased (a call runs: `token`, `lease`), retiring.
  SandboxState state = SandboxState::idle;
  // An idle sandbox whose offer is not acknowledged yet: the engine must not insert it as idle.
  bool offer_pending = false;
  StartId start{};
  Token token = 0;
  LeaseId lease{};
  std::uint64_t generation = 0;
  Token highest_token = 0;
};

// One sandbox as the engine holds it; the answer to announce().
struct HeldSandbox {
  SandboxId id{};
  std::string function{};
  SandboxState state = SandboxState::idle;
  Token token = 0;
  LeaseId lease{};
  // Its invoker was purged: take the lease back unless the call has begun.
  bool suspect = false;
};

// The engine asks a host to look at one of its sandboxes.
//   retire   destroy it once no call runs on it, then report it gone
//   reclaim  its lease belongs to a purged invoker: if that call never began, fence and return it
struct HostNotice {
  enum class Kind : std::uint8_t { retire, reclaim };
  Kind kind = Kind::retire;
  std::string function{};
  SandboxId sandbox{};
  Token token = 0;
  LeaseId lease{};
};

// Everything the engine holds for one invoker, and the starts nobody has claimed in its functions.
struct RepairReport {
  struct Waiting {
    std::string function{};
    RequestId request{};
    std::uint32_t attempt = 0;
    Ticket ticket = 0;
  };
  std::vector<HeldSandbox> leases;
  std::vector<Waiting> waiters;
  std::vector<StartRequest> unclaimed;
};

// The breaker of a function whose starts fail; see StartRetry.
enum class Breaker : std::uint8_t { closed, open, half_open };

struct QueueStats {
  // Now. An open breaker is seen to be half open when somebody wants a start.
  Breaker breaker = Breaker::closed;
  std::uint64_t waiters = 0;
  std::uint64_t idle = 0;
  std::uint64_t leased = 0;
  std::uint64_t disputed = 0;
  std::uint64_t retiring = 0;
  std::uint64_t starts_in_flight = 0;
  // Since the function was first defined.
  std::uint64_t warm = 0;
  std::uint64_t cold = 0;
  std::uint64_t stolen = 0;
  std::uint64_t queued = 0;
  std::uint64_t cross_shard = 0;
  std::uint64_t refused = 0;
  std::uint64_t starts_admitted = 0;
  std::uint64_t starts_failed = 0;
  std::uint64_t breaker_opened = 0;
  // Starts that nobody waited for any more when they were ready, and what the steals that made them so
  // saved: ready time of the surplus start minus hand-over time.
  std::uint64_t surplus_starts = 0;
  std::uint64_t steals_measured = 0;
  std::uint64_t steal_saved_us = 0;

  std::uint64_t live() const { return idle + leased + disputed + retiring; }
};

}  // namespace faaskit
