// Sandbox: what a lease says about the sandbox it is for; and the words for its states and starts.
#pragma once

#include <cstdint>
#include <string_view>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"

namespace faaskit {

// How a sandbox came to be.
enum class Origin : std::uint8_t { fresh, zygote, snapshot };

// The engine's view. A sandbox is always exactly one of these.
//   starting  admitted, perhaps claimed by a host; not yet offered
//   idle      may be leased
//   leased    granted to exactly one lease
//   disputed  its host refused the lease; counted, neither idle nor leased, until the host speaks again
//   retiring  will be destroyed by its host; still counted until reaped
//   gone      reaped
enum class SandboxState : std::uint8_t { starting, idle, leased, disputed, retiring, gone };

// How an invocation came by its sandbox.
//   warm    an idle sandbox was there
//   cold    served by a freshly made one
//   stolen  a returned sandbox served a waiter for which a start had been requested
//   queued  a returned sandbox served a waiter for which none was requested (at a cap, or "wait only")
enum class StartKind : std::uint8_t { warm, cold, stolen, queued };

// How a lease ended.
//   reusable  clean end: may be leased again
//   retired   anything else: destroy it
//   refused   the host did not admit the lease: neither idle nor leased until the host speaks again
enum class Outcome : std::uint8_t { reusable, retired, refused };

// Small on purpose: what is equal for all sandboxes of a function is kept with the function.
struct Sandbox {
  SandboxId id{};
  Version version = 0;
  ShardIndex home_shard = 0;
  std::uint16_t capacity = 1;  // invocations at once; a lease is one seat
  Origin origin = Origin::fresh;
};

FAASKIT_EXPORT std::string_view to_string(Origin origin);
FAASKIT_EXPORT std::string_view to_string(SandboxState state);
FAASKIT_EXPORT std::string_view to_string(StartKind kind);
FAASKIT_EXPORT std::string_view to_string(Outcome outcome);

}  // namespace faaskit
