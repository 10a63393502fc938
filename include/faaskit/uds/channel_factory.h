// Channels over Unix stream sockets: one end of a socketpair here, the other on descriptor 3 of a sandbox.
// docs/protocol.md says what travels on it.
//
// Beyond the port's contract (port/channel.h):
//   - A failure is reported once: to the call in flight, else to the hello waited for, else to on_closed().
//     close() by the owner with neither in flight reports to nobody.
//   - The first complete answer of a call stands. Anything that follows it unasked closes the channel.
//   - One call holds its payload and its reply; an idle channel some 5 KiB and one descriptor.
// The executor given to open() must belong to an execution context that outlives the channel.
#pragma once

#include <memory>

#include <absl/status/statusor.h>

#include "faaskit/core/export.h"
#include "faaskit/port/channel.h"
#include "faaskit/port/clock.h"

namespace faaskit::uds {

// kInvalidArgument names the limit at fault. The clock serves hello_timeout alone.
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<ChannelFactory>> make_channel_factory(
    ChannelLimits limits = {}, std::shared_ptr<Clock> clock = make_steady_clock());

}  // namespace faaskit::uds
