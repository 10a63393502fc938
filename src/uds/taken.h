// Private: what the receiver of one streamed reply has taken, on its way home. Taken comes from any thread
// and at any time, also when the call is over and the channel gone; the connection is touched on its home
// shard alone, and only while the call lives.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include <boost/asio/any_io_executor.hpp>

#include "faaskit/port/channel.h"
#include "support/mutex.h"

namespace faaskit::uds {

class Connection;

class TakenLedger : public std::enable_shared_from_this<TakenLedger> {
 public:
  TakenLedger(asio::any_io_executor home, std::weak_ptr<Connection> connection)
      : home_(std::move(home)), connection_(std::move(connection)) {}

  // One for a part of so many bytes. Called or dropped, it counts once.
  ReplyStream::Taken slip(std::uint64_t bytes);

  // The call is over. From here on the executor is not touched: its context may go.
  void close() FAASKIT_EXCLUDES(mutex_);

 private:
  void add(std::uint64_t bytes) FAASKIT_EXCLUDES(mutex_);
  void deliver() FAASKIT_EXCLUDES(mutex_);

  const asio::any_io_executor home_;
  const std::weak_ptr<Connection> connection_;  // locked at home only, so that it dies there
  Mutex mutex_;
  bool open_ FAASKIT_GUARDED_BY(mutex_) = true;
  // Not yet delivered. Nonzero: a delivery is on its way, and takes what joins it.
  std::uint64_t bytes_ FAASKIT_GUARDED_BY(mutex_) = 0;
};

}  // namespace faaskit::uds
