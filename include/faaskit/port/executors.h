// HostExecutors: the threads a host application lends to faaskit. faaskit makes none of its own.
#pragma once

#include <vector>

#include <boost/asio/any_io_executor.hpp>

namespace faaskit {

namespace asio = boost::asio;

struct HostExecutors {
  // One executor per shard, each a loop run by exactly one thread (an io_context with a single
  // run()). Everything that belongs to a sandbox happens on its home shard. At least one.
  std::vector<asio::any_io_executor> shards{};
  // For what may block: spawn, mount, unpack, rmdir, name resolution. Several threads are welcome.
  asio::any_io_executor blocking{};
};

}  // namespace faaskit
