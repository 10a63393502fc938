// The listening socket. It hands connections to the lanes in turn. When there are as many as there is room
// for, or the process has no descriptor left, it stops accepting, the kernel keeps who comes, and it goes on
// when a connection has closed; the longest idle one is closed for that.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <absl/status/statusor.h>

#include "connection.h"

namespace mini {

struct ListenerOptions {
  std::string address = "127.0.0.1";
  std::uint16_t port = 8080;  // 0: any
  std::size_t max_connections = 1024;
  Timeouts timeouts = {};
};

class Listener {
 public:
  // Listens, and accepts nobody before start(). kUnavailable: the address is in use; kInvalidArgument.
  static absl::StatusOr<std::unique_ptr<Listener>> open(ListenerOptions options,
                                                        std::vector<asio::any_io_executor> shards,
                                                        Application& application);
  // REQUIRES: wait_until_empty() was true, or nothing of the shards runs any more.
  ~Listener();

  std::uint16_t port() const { return port_; }
  void start();
  // Takes in who already knocked, then closes the door. Connections end with their next answer.
  void stop();
  // True: no connection is left.
  bool wait_until_empty(std::chrono::steady_clock::time_point deadline);
  // Closes what is left.
  void cut();
  const Crowd& crowd() const { return crowd_; }
  std::size_t max_connections() const { return options_.max_connections; }

 private:
  Listener(ListenerOptions options, std::vector<asio::any_io_executor> shards, Application& application);
  void accept();
  void pause();
  void resume();

  const ListenerOptions options_;
  Crowd crowd_{};
  std::vector<std::unique_ptr<Lane>> lanes_{};
  asio::ip::tcp::acceptor acceptor_;
  asio::steady_timer retry_;
  std::uint16_t port_ = 0;
  // Of the first shard's thread.
  std::size_t next_ = 0;
  bool paused_ = false;
  std::atomic<bool> resuming_{false};
};

}  // namespace mini
