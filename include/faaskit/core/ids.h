// The names of things: who is who in leases, starts and records.
//
// Plain values: comparable, hashable with absl::Hash, printable with to_string(). An incarnation is a
// random 64-bit number drawn when a process starts, so that nothing made before a restart is ever
// mistaken for something made after it.
#pragma once

#include <compare>
#include <cstdint>
#include <string>
#include <string_view>

#include <absl/status/status.h>

#include "faaskit/core/export.h"

namespace faaskit {

// A process that owns a set of sandboxes (a host), or takes invocations (an invoker).
using HostId = std::uint64_t;
using InvokerId = std::uint64_t;

// Index of a home shard in HostExecutors::shards.
using ShardIndex = std::uint32_t;

// A redeploy makes a new one; larger is newer. 0 is "none yet".
using Version = std::uint64_t;

// Grows with every lease of one sandbox; its host refuses one that does not exceed all it has seen.
using Token = std::uint64_t;

// Place in the line of waiters; given once, at the first enqueue, and kept through retries. 0: none yet.
using Ticket = std::uint64_t;

struct SandboxId {
  HostId host = 0;
  std::uint64_t number = 0;  // never reused within one incarnation of the host
  friend auto operator<=>(const SandboxId&, const SandboxId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const SandboxId& id) {
    return H::combine(std::move(h), id.host, id.number);
  }
};

struct RequestId {
  InvokerId invoker = 0;
  std::uint64_t sequence = 0;
  friend auto operator<=>(const RequestId&, const RequestId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const RequestId& id) {
    return H::combine(std::move(h), id.invoker, id.sequence);
  }
};

// Every restart of a request raises the attempt, so that answers to an older one are recognised.
struct LeaseId {
  RequestId request;
  std::uint32_t attempt = 0;
  friend auto operator<=>(const LeaseId&, const LeaseId&) = default;
};

// The nonce is drawn when the function's record is made, so that start ids never collide after a flush.
struct StartId {
  std::uint64_t nonce = 0;
  std::uint64_t number = 0;
  friend auto operator<=>(const StartId&, const StartId&) = default;
  template <typename H>
  friend H AbslHashValue(H h, const StartId& id) {
    return H::combine(std::move(h), id.nonce, id.number);
  }
};

FAASKIT_EXPORT std::string to_string(const SandboxId& id);  // "sb-<host, hex>-<number>"
FAASKIT_EXPORT std::string to_string(const RequestId& id);  // "rq-<invoker, hex>-<sequence>"
FAASKIT_EXPORT std::string to_string(const LeaseId& id);    // "rq-<invoker, hex>-<sequence>.<attempt>"
FAASKIT_EXPORT std::string to_string(const StartId& id);    // "st-<nonce, hex>-<number>"

// A function's name: `[a-z0-9][a-z0-9._-]{0,62}` without "..". kInvalidArgument says what is wrong.
FAASKIT_EXPORT absl::Status validate_function_name(std::string_view name);

}  // namespace faaskit
