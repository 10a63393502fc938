// Connections of HTTP/1.1, and the lanes they run in: one lane per shard of the platform, one thread each. A
// connection stays in its lane, and its calls on that shard, so that a warm call never changes threads.
//
// Bounds: one request at a time (a pipelined one waits in the kernel); 16 KiB of head; a head must be there
// within `head_timeout` of its first byte, each 64 KiB of a body within `body_timeout`, each write of at most
// 256 KiB be taken within `write_timeout`.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <unordered_set>

#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/steady_timer.hpp>

#include "http.h"

namespace mini {

struct Timeouts {
  std::chrono::milliseconds idle = std::chrono::seconds(60);
  std::chrono::milliseconds head = std::chrono::seconds(10);
  std::chrono::milliseconds body = std::chrono::seconds(30);
  std::chrono::milliseconds write = std::chrono::seconds(30);
};

// What all lanes share.
struct Crowd {
  std::atomic<std::size_t> sockets{0};       // open now
  std::atomic<bool> pressed{false};          // somebody waits and there is no room: answer, then close
  std::atomic<bool> stopping{false};         // the same, for everybody
  std::atomic<std::uint64_t> body_bytes{0};  // of bodies whose requests are not answered yet
  std::atomic<std::uint64_t> accepted{0};
  std::atomic<std::uint64_t> requests{0};
  std::atomic<std::uint64_t> pauses{0};
  std::function<void()> room_made{};  // a socket was closed; from any lane

  // Connections, with or without a socket: a call may outlive its client.
  std::mutex mutex{};
  std::condition_variable ended{};
  std::size_t alive = 0;
};

class Connection;

class Lane {
 public:
  Lane(asio::any_io_executor executor, faaskit::ShardIndex shard, Timeouts timeouts, Application& application,
       Crowd& crowd);

  const asio::any_io_executor& executor() const { return executor_; }
  // Takes over a connected socket, made with executor(). From any thread.
  void adopt(asio::ip::tcp::socket socket);
  // Closes the connection that has been idle longest and has nothing to say. From any thread.
  void make_room();
  // stopping is set: idle connections get a moment for what is on its way to them. From any thread.
  void hurry();
  // Closes every socket. From any thread.
  void cut();
  // Nothing of it is pending any more, once what was posted before has run. On the lane's thread, without
  // connections.
  void close();

 private:
  friend class Connection;
  void sweep();

  const asio::any_io_executor executor_;
  const faaskit::ShardIndex shard_;
  const Timeouts timeouts_;
  Application& application_;
  Crowd& crowd_;
  // Of the lane's thread.
  std::unordered_set<Connection*> connections_{};
  asio::steady_timer sweeper_;
  bool sweeping_ = false;
  bool closed_ = false;
};

}  // namespace mini
