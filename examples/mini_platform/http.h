// What the rest of the program knows of HTTP: a request's head, a response, and the exchange that ties them.
// Only connection.cc and listener.cc know how they travel.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <boost/asio/any_io_executor.hpp>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/cancellation_signal.hpp>

#include "faaskit/core/ids.h"
#include "faaskit/port/reply_stream.h"

namespace mini {

namespace asio = boost::asio;
using faaskit::Bytes;
using Headers = std::vector<std::pair<std::string, std::string>>;

struct Request {
  std::string method{};
  std::string path{};   // as it came: not decoded, without the query
  std::string query{};  // without '?'
  Headers headers{};    // names in lower case
  std::chrono::steady_clock::time_point arrived{};

  // Of the first header of that name; empty if there is none.
  std::string_view header(std::string_view name) const;
  bool has(std::string_view name) const;
  // The decoded value of a parameter of the query.
  std::optional<std::string> parameter(std::string_view name) const;
};

struct Response {
  int status = 200;
  std::string content_type{};
  Headers headers{};
  std::string text{};  // the body; or
  Bytes bytes{};
};

// One request and its answer. Every member on the connection's own thread.
class Exchange {
 public:
  // Takes a part of the body; an error ends the reading.
  using Sink = std::function<asio::awaitable<absl::Status>(std::span<const std::byte>)>;

  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;
  virtual ~Exchange() = default;

  virtual const Request& request() const = 0;
  virtual asio::any_io_executor executor() const = 0;
  // The shard of the platform whose thread this is.
  virtual faaskit::ShardIndex shard() const = 0;

  // The body, read once. kOutOfRange: longer than `limit`; kUnavailable: the client went away or was too
  // slow.
  virtual asio::awaitable<absl::StatusOr<Bytes>> read_body(std::uint64_t limit) = 0;
  virtual asio::awaitable<absl::Status> read_body_into(Sink sink, std::uint64_t limit) = 0;

  // From now on a client that goes away is noticed at once: gone() is emitted.
  virtual void watch() = 0;
  virtual asio::cancellation_slot gone() = 0;
  virtual bool is_gone() const = 0;

  // The whole answer, at most once.
  virtual asio::awaitable<void> respond(Response response) = 0;

  // Or in parts: begin, write..., end. The body of `head` is ignored. A reply that is not ended is cut off,
  // so that its client can tell. False: nobody listens any more.
  virtual asio::awaitable<bool> begin(Response head, std::string_view trailer_names) = 0;
  virtual asio::awaitable<bool> write(Bytes part) = 0;
  virtual asio::awaitable<void> end(Headers trailers) = 0;

 protected:
  Exchange() = default;
};

// Answers exchanges. Called on the thread of the exchange.
class Application {
 public:
  Application(const Application&) = delete;
  Application& operator=(const Application&) = delete;
  virtual ~Application() = default;
  virtual asio::awaitable<void> serve(Exchange& exchange) = 0;

 protected:
  Application() = default;
};

// A header that function code may set: a token, and a value without control characters.
bool is_header_name(std::string_view name);
bool is_header_value(std::string_view value);
// Headers that belong to one connection, not to the message.
bool is_hop_by_hop(std::string_view lower_case_name);
// Whether a Connection header names it, and so makes it one of them.
bool is_named(std::string_view connection_header, std::string_view lower_case_name);

}  // namespace mini
