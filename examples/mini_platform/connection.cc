#include "connection.h"

#include <sys/ioctl.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <string>

#include <absl/strings/str_cat.h>
#include <boost/asio/as_tuple.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/detached.hpp>
#include <boost/asio/dispatch.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <boost/asio/write.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http/buffer_body.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/read.hpp>
#include <boost/beast/http/status.hpp>

#include "errors.h"

namespace mini {
namespace {

namespace http = boost::beast::http;
using asio::ip::tcp;
using Clock = std::chrono::steady_clock;
using boost::system::error_code;
using namespace std::chrono_literals;

constexpr auto kTuple = asio::as_tuple(asio::use_awaitable);

constexpr std::size_t kMaxHeadBytes = 16 << 10;
constexpr std::size_t kReadBytes = 64 << 10;
constexpr std::size_t kWriteBytes = 256 << 10;
constexpr std::uint64_t kMaxBodyBytes = 1ull << 30;
constexpr auto kSweepPeriod = 250ms;
// How long an idle connection may still speak when it is about to be closed.
constexpr auto kLastWords = 250ms;
// After an answer that came before the body: closing at once would reset the connection, and the client might
// lose the answer with it.
constexpr std::size_t kMaxLingerBytes = 8 << 20;
constexpr auto kLinger = 2s;

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
  }
  return text;
}

std::string head_text(const Response& response) {
  std::string head = "HTTP/1.1 ";
  const auto reason = http::obsolete_reason(http::int_to_status(static_cast<unsigned>(response.status)));
  absl::StrAppend(&head, response.status, " ");
  head.append(reason.data(), reason.size()).append("\r\n");
  if (!response.content_type.empty())
    head.append("Content-Type: ").append(response.content_type).append("\r\n");
  for (const auto& [name, value] : response.headers) {
    head.append(name).append(": ").append(value).append("\r\n");
  }
  return head;
}

}  // namespace

class Connection final : public Exchange, public std::enable_shared_from_this<Connection> {
 public:
  Connection(Lane& lane, tcp::socket socket) : lane_(lane), socket_(std::move(socket)) {
    error_code ignored;
    socket_.set_option(tcp::no_delay(true), ignored);
    ++lane_.crowd_.accepted;
    std::lock_guard lock(lane_.crowd_.mutex);
    ++lane_.crowd_.alive;
  }
  ~Connection() override {
    lane_.connections_.erase(this);
    close();
    let_go();
    std::lock_guard lock(lane_.crowd_.mutex);
    --lane_.crowd_.alive;
    lane_.crowd_.ended.notify_all();
  }

  asio::awaitable<void> run() {
    try {
      while (co_await serve_one()) {
      }
    } catch (const std::exception&) {
      // Out of memory, or of whatever else: this connection's end, and nobody else's.
    }
    close();
  }

  void close() {
    if (!socket_.is_open()) return;
    error_code ignored;
    socket_.close(ignored);
    --lane_.crowd_.sockets;
    if (lane_.crowd_.room_made) lane_.crowd_.room_made();
  }

  bool expired(Clock::time_point now) const { return socket_.is_open() && now > deadline_; }
  // Idle, and nothing has come that was not read.
  bool silent() {
    int unread = 0;
    return idle_ && socket_.is_open() && ::ioctl(socket_.native_handle(), FIONREAD, &unread) == 0 &&
           unread == 0;
  }
  // One that has never spoken gets longer: its request may be on its way.
  Clock::time_point silent_since() const { return served_ > 0 ? idle_since_ + 500ms : idle_since_ + 5s; }
  void hurry() {
    if (idle_) deadline_ = std::min(deadline_, Clock::now() + kLastWords);
  }

  // -- Exchange
  const Request& request() const override { return request_; }
  asio::any_io_executor executor() const override { return lane_.executor_; }
  faaskit::ShardIndex shard() const override { return lane_.shard_; }

  asio::awaitable<absl::StatusOr<Bytes>> read_body(std::uint64_t limit) override {
    Bytes body;
    if (auto begun = co_await begin_body(limit); !begun.ok()) co_return begun;
    std::size_t size = 0;
    while (!parser_->is_done()) {
      if (size == body.size()) {
        // What a client announced is not believed: memory grows with what has come.
        const std::uint64_t left = limit - size;
        const std::uint64_t more = std::min<std::uint64_t>(std::max<std::size_t>(kReadBytes, size), left + 1);
        if (!hold(more)) {
          co_return absl::UnavailableError(absl::StrCat(
              "the bodies of all requests together would be more than ", kMaxBodyBytes, " bytes; try again"));
        }
        body.resize(size + more);
      }
      const std::span room = std::span(body).subspan(size);
      absl::StatusOr<std::size_t> read = co_await read_part(room.first(std::min(kReadBytes, room.size())));
      if (!read.ok()) co_return read.status();
      size += *read;
      if (size > limit) co_return too_long(limit);
    }
    body.resize(size);
    co_return body;
  }

  asio::awaitable<absl::Status> read_body_into(Sink sink, std::uint64_t limit) override {
    if (auto begun = co_await begin_body(limit); !begun.ok()) co_return begun;
    Bytes part(4 * kReadBytes);
    std::uint64_t size = 0;
    while (!parser_->is_done()) {
      absl::StatusOr<std::size_t> read = co_await read_part(part);
      if (!read.ok()) co_return read.status();
      size += *read;
      if (size > limit) co_return too_long(limit);
      deadline_ = Clock::time_point::max();
      absl::Status taken = co_await sink(std::span(part).first(*read));
      if (!taken.ok()) co_return taken;
    }
    co_return absl::OkStatus();
  }

  void watch() override {
    if (watching_) return;
    watching_ = true;
    socket_.async_wait(tcp::socket::wait_read, [self = shared_from_this()](error_code) { self->look(); });
  }
  asio::cancellation_slot gone() override { return signal_.slot(); }
  bool is_gone() const override { return gone_ || !socket_.is_open(); }

  asio::awaitable<void> respond(Response response) override {
    answered_ = true;
    std::string head = head_text(response);
    const std::size_t size = response.text.empty() ? response.bytes.size() : response.text.size();
    const bool bodiless = response.status == 204 || response.status == 304;
    if (!bodiless) absl::StrAppend(&head, "Content-Length: ", size, "\r\n");
    finish_head(head);
    asio::const_buffer body =
        response.text.empty() ? asio::buffer(response.bytes) : asio::buffer(response.text);
    if (bodiless || request_.method == "HEAD") body = {};
    if (!co_await send(std::move(head), body, std::string())) close_after_ = true;
  }

  asio::awaitable<bool> begin(Response response, std::string_view trailer_names) override {
    answered_ = true;
    std::string head = head_text(response);
    bodiless_ = request_.method == "HEAD" || response.status == 204 || response.status == 304;
    chunked_ = version_ == 11 && !bodiless_;
    if (chunked_) {
      head += "Transfer-Encoding: chunked\r\n";
      if (!trailer_names.empty()) head.append("Trailer: ").append(trailer_names).append("\r\n");
    } else {
      close_after_ = true;  // its end is the end of the connection
    }
    finish_head(head);
    cut_short_ = true;  // until end()
    co_return co_await send(std::move(head), asio::const_buffer(), std::string());
  }

  asio::awaitable<bool> write(Bytes part) override {
    if (is_gone()) co_return false;
    if (part.empty() || bodiless_) co_return true;
    std::string before, after;
    if (chunked_) {
      before = absl::StrCat(absl::Hex(part.size()), "\r\n");
      after = "\r\n";
    }
    co_return co_await send(std::move(before), asio::buffer(part), std::move(after));
  }

  asio::awaitable<void> end(Headers trailers) override {
    std::string last;
    if (chunked_) {
      last = "0\r\n";
      for (const auto& [name, value] : trailers) last.append(name).append(": ").append(value).append("\r\n");
      last += "\r\n";
    }
    const bool sent =
        last.empty() ? !is_gone() : co_await send(std::move(last), asio::const_buffer(), std::string());
    if (sent) cut_short_ = false;
  }

 private:
  // One request. False: the connection is over.
  asio::awaitable<bool> serve_one() {
    if (buffer_.size() == 0) {
      idle_ = true;
      idle_since_ = Clock::now();
      // What is already on its way when everybody is told to go is still answered.
      deadline_ = idle_since_ + (stopping() ? std::chrono::milliseconds(kLastWords) : lane_.timeouts_.idle);
      auto [error, size] = co_await socket_.async_read_some(buffer_.prepare(4096), kTuple);
      idle_ = false;
      if (error) co_return false;
      buffer_.commit(size);
    }
    request_ = {};
    request_.arrived = Clock::now();
    deadline_ = request_.arrived + lane_.timeouts_.head;
    parser_.emplace();
    parser_->header_limit(kMaxHeadBytes);
    parser_->body_limit(boost::none);
    answered_ = close_after_ = cut_short_ = chunked_ = bodiless_ = gone_ = false;
    version_ = 11;
    auto [error, size] = co_await http::async_read_header(socket_, buffer_, *parser_, kTuple);
    (void)size;
    if (error) co_return co_await refuse_head(error);
    version_ = parser_->get().version();
    if (auto fine = take_head(); !fine.ok()) {
      close_after_ = true;
      co_await respond(to_response(to_problem(fine)));
    } else {
      ++lane_.crowd_.requests;
      deadline_ = Clock::time_point::max();  // the application's own deadlines hold
      serving_ = true;
      co_await lane_.application_.serve(*this);
      serving_ = false;
      let_go();
      signal_.slot().clear();
    }
    ++served_;
    if (!answered_ || cut_short_ || !socket_.is_open()) co_return false;
    if (close_after_) co_await linger();
    co_return !close_after_;
  }

  asio::awaitable<bool> refuse_head(error_code error) {
    const bool ours = error.category() == make_error_code(http::error::bad_method).category();
    if (ours && error != http::error::end_of_stream && error != http::error::partial_message) {
      Problem problem{400, "invalid_argument", absl::StrCat("the request: ", error.message())};
      if (error == http::error::header_limit)
        problem = {431, "header_too_large",
                   absl::StrCat("the request's head is longer than ", kMaxHeadBytes)};
      close_after_ = true;
      co_await respond(to_response(problem));
      co_await linger();
    }
    co_return false;
  }

  absl::Status take_head() {
    const auto& head = parser_->get();
    if (version_ != 10 && version_ != 11)
      return absl::InvalidArgumentError("the request: not HTTP/1.0 or 1.1");
    request_.method = std::string(head.method_string().data(), head.method_string().size());
    const std::string target(head.target().data(), head.target().size());
    if (!target.starts_with('/')) return absl::InvalidArgumentError("the request: its target is no path");
    const std::size_t question = target.find('?');
    request_.path = target.substr(0, question);
    if (question != std::string::npos) request_.query = target.substr(question + 1);
    int hosts = 0;
    for (const auto& field : head) {
      std::string name = lower(std::string(field.name_string().data(), field.name_string().size()));
      std::string value(field.value().data(), field.value().size());
      if (name == "host") ++hosts;
      // Another coding than the one the parser undoes: where the message ends would be a matter of opinion.
      // HTTP/1.0 knows none, and a proxy of that age would not look at it.
      if (name == "transfer-encoding" && (version_ == 10 || lower(value) != "chunked")) {
        return absl::InvalidArgumentError(absl::StrCat("the request: transfer-encoding '", value, "'"));
      }
      request_.headers.emplace_back(std::move(name), std::move(value));
    }
    if (hosts > 1 || (hosts == 0 && version_ == 11)) {
      return absl::InvalidArgumentError("the request: exactly one host header is needed");
    }
    return absl::OkStatus();
  }

  // Counts memory for this request's body, until it is answered. False: everybody's together is enough.
  bool hold(std::uint64_t bytes) {
    if (lane_.crowd_.body_bytes.fetch_add(bytes) + bytes > kMaxBodyBytes) {
      lane_.crowd_.body_bytes -= bytes;
      return false;
    }
    held_ += bytes;
    return true;
  }
  void let_go() { lane_.crowd_.body_bytes -= std::exchange(held_, 0); }

  static absl::Status too_long(std::uint64_t limit) {
    return absl::OutOfRangeError(absl::StrCat("the body is longer than ", limit, " bytes"));
  }

  asio::awaitable<absl::Status> begin_body(std::uint64_t limit) {
    const auto length = parser_->content_length();
    if (length && *length > limit) {
      co_return absl::OutOfRangeError(absl::StrCat("the body has ", *length, " bytes, the limit is ", limit));
    }
    if (!parser_->is_done() && version_ == 11 && buffer_.size() == 0 &&
        lower(std::string(request_.header("expect"))) == "100-continue") {
      if (!co_await send("HTTP/1.1 100 Continue\r\n\r\n", asio::const_buffer(), std::string()))
        co_return went_away();
    }
    co_return absl::OkStatus();
  }

  asio::awaitable<absl::StatusOr<std::size_t>> read_part(std::span<std::byte> into) {
    deadline_ = Clock::now() + lane_.timeouts_.body;
    auto& body = parser_->get().body();
    body.data = into.data();
    body.size = into.size();
    body.more = true;
    auto [error, size] = co_await http::async_read(socket_, buffer_, *parser_, kTuple);
    (void)size;
    deadline_ = Clock::time_point::max();
    if (error && error != http::error::need_buffer) {
      if (error.category() == make_error_code(http::error::bad_chunk).category() &&
          error != http::error::end_of_stream && error != http::error::partial_message) {
        co_return absl::InvalidArgumentError(absl::StrCat("the request's body: ", error.message()));
      }
      co_return went_away();
    }
    co_return into.size() - body.size;
  }

  static absl::Status went_away() { return absl::UnavailableError("the client went away, or was too slow"); }

  void finish_head(std::string& head) {
    if (!parser_->is_done() || !parser_->keep_alive() || stopping() || lane_.crowd_.pressed)
      close_after_ = true;
    if (close_after_) {
      head += "Connection: close\r\n";
    } else if (version_ == 10) {
      head += "Connection: keep-alive\r\n";
    }
    head += "\r\n";
  }

  // Everything in order, the body in pieces with a deadline each.
  asio::awaitable<bool> send(std::string before, asio::const_buffer body, std::string after) {
    bool first = true;
    do {
      const asio::const_buffer piece = asio::buffer(body, kWriteBytes);
      body += piece.size();
      const bool last = body.size() == 0;
      const std::array<asio::const_buffer, 3> buffers = {first ? asio::buffer(before) : asio::const_buffer(),
                                                         piece,
                                                         last ? asio::buffer(after) : asio::const_buffer()};
      first = false;
      deadline_ = Clock::now() + lane_.timeouts_.write;
      // Asio's own condition stops at 64 KiB, and would send what frames a part by itself.
      const auto all = [](const error_code& error, std::size_t) { return error ? 0 : 2 * kWriteBytes; };
      auto [error, size] = co_await asio::async_write(socket_, buffers, all, kTuple);
      (void)size;
      deadline_ = Clock::time_point::max();
      if (error) {
        leave();
        co_return false;
      }
    } while (body.size() > 0);
    co_return true;
  }

  asio::awaitable<void> linger() {
    if (parser_->is_done() && buffer_.size() == 0) co_return;  // nothing can be unread
    error_code ignored;
    socket_.shutdown(tcp::socket::shutdown_send, ignored);
    deadline_ = Clock::now() + kLinger;
    Bytes waste(kReadBytes);
    for (std::size_t total = 0; total < kMaxLingerBytes;) {
      auto [error, size] = co_await socket_.async_read_some(asio::buffer(waste), kTuple);
      if (error) break;
      total += size;
    }
  }

  // Something came from the client while it was waiting for us: its end, or its next request.
  void look() {
    watching_ = false;
    if (!serving_ || !socket_.is_open()) return;
    char byte;
    const ssize_t size = ::recv(socket_.native_handle(), &byte, 1, MSG_PEEK | MSG_DONTWAIT);
    if (size > 0 || (size < 0 && (errno == EAGAIN || errno == EINTR))) return;
    leave();
    // Who does not listen to the end of a stream does not take the part that is being written either.
    if (cut_short_) close();
  }

  void leave() {
    if (std::exchange(gone_, true)) return;
    signal_.emit(asio::cancellation_type::total);
  }

  bool stopping() const { return lane_.crowd_.stopping; }

  Lane& lane_;
  tcp::socket socket_;
  boost::beast::flat_buffer buffer_{kMaxHeadBytes + kReadBytes};
  std::optional<http::request_parser<http::buffer_body>> parser_{};
  Request request_{};
  unsigned version_ = 11;
  asio::cancellation_signal signal_{};
  Clock::time_point deadline_ = Clock::time_point::max();
  Clock::time_point idle_since_{};
  std::uint64_t served_ = 0;
  std::uint64_t held_ = 0;
  bool idle_ = false;
  bool serving_ = false;
  bool watching_ = false;
  bool answered_ = false;
  bool close_after_ = false;
  bool cut_short_ = false;
  bool chunked_ = false;
  bool bodiless_ = false;
  bool gone_ = false;
};

Lane::Lane(asio::any_io_executor executor, faaskit::ShardIndex shard, Timeouts timeouts,
           Application& application, Crowd& crowd)
    : executor_(std::move(executor)),
      shard_(shard),
      timeouts_(timeouts),
      application_(application),
      crowd_(crowd),
      sweeper_(executor_) {}

void Lane::adopt(tcp::socket socket) {
  ++crowd_.sockets;
  asio::dispatch(executor_, [this, socket = std::move(socket)]() mutable {
    auto connection = std::make_shared<Connection>(*this, std::move(socket));
    connections_.insert(connection.get());
    asio::co_spawn(
        executor_, [connection]() -> asio::awaitable<void> { co_await connection->run(); }, asio::detached);
    if (!sweeping_) sweep();
  });
}

void Lane::make_room() {
  asio::dispatch(executor_, [this] {
    Connection* quietest = nullptr;
    for (Connection* connection : connections_) {
      if (connection->silent() && connection->silent_since() < Clock::now() &&
          (quietest == nullptr || connection->silent_since() < quietest->silent_since())) {
        quietest = connection;
      }
    }
    if (quietest != nullptr) quietest->close();
  });
}

void Lane::hurry() {
  asio::dispatch(executor_, [this] {
    for (Connection* connection : connections_) connection->hurry();
  });
}

void Lane::cut() {
  asio::dispatch(executor_, [this] {
    for (Connection* connection : connections_) connection->close();
  });
}

void Lane::close() {
  closed_ = true;
  sweeper_.cancel();
}

void Lane::sweep() {
  sweeping_ = !connections_.empty();
  if (!sweeping_) return;
  const auto now = Clock::now();
  for (Connection* connection : connections_) {
    if (connection->expired(now)) connection->close();
  }
  sweeper_.expires_after(kSweepPeriod);
  sweeper_.async_wait([this](error_code error) {
    if (!error && !closed_) sweep();
  });
}

}  // namespace mini
