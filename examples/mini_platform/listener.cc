#include "listener.h"

#include <functional>

#include <absl/strings/str_cat.h>
#include <boost/asio/ip/address.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_future.hpp>

namespace mini {

using asio::ip::tcp;
using boost::system::error_code;
using namespace std::chrono_literals;

Listener::Listener(ListenerOptions options, std::vector<asio::any_io_executor> shards,
                   Application& application)
    : options_(std::move(options)), acceptor_(shards.front()), retry_(shards.front()) {
  for (std::size_t i = 0; i < shards.size(); ++i) {
    lanes_.push_back(std::make_unique<Lane>(shards[i], static_cast<faaskit::ShardIndex>(i), options_.timeouts,
                                            application, crowd_));
  }
  crowd_.room_made = [this] {
    if (crowd_.stopping || resuming_.exchange(true)) return;
    asio::post(acceptor_.get_executor(), [this] { resume(); });
  };
}

namespace {

void run_there(const asio::any_io_executor& executor, std::function<void()> what) {
  asio::post(executor, asio::use_future(std::move(what))).get();
}

}  // namespace

// Timers and waits of ours end in two steps: cancelled on their own threads, then all that was posted for
// them runs.
Listener::~Listener() {
  crowd_.stopping = true;
  run_there(acceptor_.get_executor(), [this] {
    error_code ignored;
    acceptor_.close(ignored);
    retry_.cancel();
  });
  for (auto& lane : lanes_) run_there(lane->executor(), [&lane] { lane->close(); });
  for (auto& lane : lanes_) run_there(lane->executor(), [] {});
}

absl::StatusOr<std::unique_ptr<Listener>> Listener::open(ListenerOptions options,
                                                         std::vector<asio::any_io_executor> shards,
                                                         Application& application) {
  error_code error;
  const asio::ip::address address = asio::ip::make_address(options.address, error);
  if (error) {
    return absl::InvalidArgumentError(absl::StrCat("--listen: '", options.address, "' is no IP address"));
  }
  const tcp::endpoint endpoint(address, options.port);
  auto listener = std::unique_ptr<Listener>(new Listener(std::move(options), std::move(shards), application));
  tcp::acceptor& acceptor = listener->acceptor_;
  acceptor.open(endpoint.protocol(), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(4096, error);
  if (!error) acceptor.non_blocking(true, error);
  if (!error) listener->port_ = acceptor.local_endpoint(error).port();
  if (error) {
    return absl::UnavailableError(absl::StrCat("listen on ", endpoint.address().to_string(), ":",
                                               endpoint.port(), ": ", error.message()));
  }
  return listener;
}

void Listener::start() {
  asio::post(acceptor_.get_executor(), [this] { accept(); });
}

void Listener::accept() {
  if (crowd_.sockets >= options_.max_connections) return pause();
  Lane& lane = *lanes_[next_ % lanes_.size()];
  acceptor_.async_accept(lane.executor(), [this, &lane](error_code error, auto socket) {
    if (error == asio::error::operation_aborted) return;
    if (!error) {
      ++next_;
      lane.adopt(tcp::socket(std::move(socket)));
      return crowd_.stopping ? void() : accept();
    }
    if (crowd_.stopping) return;
    if (error == asio::error::connection_aborted) return accept();
    // EMFILE, ENFILE, ENOMEM: what is taken comes back with the next connection that closes, or in a moment.
    pause();
  });
}

void Listener::pause() {
  paused_ = true;
  ++crowd_.pauses;
  retry_.expires_after(100ms);
  retry_.async_wait([this](error_code error) {
    if (!error && !crowd_.stopping) resume();
  });
  // Only if somebody stands outside must anybody go.
  acceptor_.async_wait(tcp::acceptor::wait_read, [this](error_code error) {
    if (error || !paused_ || crowd_.stopping) return;
    crowd_.pressed = true;
    for (auto& lane : lanes_) lane->make_room();
  });
}

void Listener::resume() {
  resuming_ = false;
  if (!paused_ || crowd_.stopping) return;
  if (crowd_.sockets >= options_.max_connections) {
    if (crowd_.pressed) {
      for (auto& lane : lanes_) lane->make_room();
    }
    retry_.expires_after(100ms);
    retry_.async_wait([this](error_code error) {
      if (!error && !crowd_.stopping) resume();
    });
    return;
  }
  paused_ = false;
  retry_.cancel();
  error_code ignored;
  acceptor_.cancel(ignored);
  crowd_.pressed = false;
  accept();
}

void Listener::stop() {
  crowd_.stopping = true;
  run_there(acceptor_.get_executor(), [this] {
    error_code error;
    acceptor_.cancel(error);
    retry_.cancel();
    // Whoever has connected is told, not reset.
    while (crowd_.sockets < options_.max_connections) {
      Lane& lane = *lanes_[next_++ % lanes_.size()];
      tcp::socket socket(lane.executor());
      acceptor_.accept(socket, error);
      if (error) break;
      lane.adopt(std::move(socket));
    }
    acceptor_.close(error);
  });
  for (auto& lane : lanes_) lane->hurry();
}

bool Listener::wait_until_empty(std::chrono::steady_clock::time_point deadline) {
  std::unique_lock lock(crowd_.mutex);
  return crowd_.ended.wait_until(lock, deadline, [this] { return crowd_.alive == 0; });
}

void Listener::cut() {
  for (auto& lane : lanes_) lane->cut();
}

}  // namespace mini
