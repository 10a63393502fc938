// What a client may send to the mini-platform. The connection itself runs here, over a pair of sockets, with
// an application that does what one does with a request: routes it, decodes it, reads its body with a limit,
// answers whole or in parts. Once the client has ended its side, all must come to an end without any timer's
// help, and what was answered must be HTTP.
#include "examples/mini_platform/http.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <vector>

#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/beast/http/parser.hpp>
#include <boost/beast/http/string_body.hpp>

#include "examples/mini_platform/connection.h"
#include "examples/mini_platform/errors.h"
#include "examples/mini_platform/json.h"
#include "examples/mini_platform/router.h"
#include "input.h"
#include "json/json.h"

namespace {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using faaskit::Bytes;

constexpr std::uint64_t kBodyLimit = 3000;

class Application final : public mini::Application {
 public:
  asio::awaitable<void> serve(mini::Exchange& exchange) override {
    methods.push_back(exchange.request().method);
    const mini::Route route = check(exchange.request());
    const bool in_parts = route.action == mini::Action::web;
    const bool without_body = exchange.request().query.starts_with("early");
    exchange.watch();
    Bytes body;
    absl::Status status;
    if (route.action == mini::Action::function) {
      std::uint64_t size = 0;
      mini::Exchange::Sink sink = [&size](std::span<const std::byte> part) -> asio::awaitable<absl::Status> {
        size += part.size();
        co_return absl::OkStatus();
      };
      status = co_await exchange.read_body_into(std::move(sink), kBodyLimit);
      FUZZ_CHECK(!status.ok() || size <= kBodyLimit);
    } else if (!without_body) {
      auto read = co_await exchange.read_body(kBodyLimit);
      status = read.status();
      if (read.ok()) body = *std::move(read);
      FUZZ_CHECK(body.size() <= kBodyLimit);
    }
    mini::Response reply;
    if (!status.ok()) {
      reply = mini::to_response(mini::to_problem(status));
      FUZZ_CHECK(faaskit::json::parse("problem", reply.text).ok());
    } else if (in_parts) {
      reply.headers.emplace_back("x-part", "1");
      if (co_await exchange.begin(std::move(reply), "x-last")) {
        for (std::size_t at = 0; at < body.size(); at += 1000) {
          const auto first = body.begin() + static_cast<std::ptrdiff_t>(at);
          Bytes part(first,
                     first + static_cast<std::ptrdiff_t>(std::min<std::size_t>(1000, body.size() - at)));
          if (!co_await exchange.write(std::move(part))) break;
        }
        mini::Headers trailers = {{"x-last", "2"}};
        co_await exchange.end(std::move(trailers));
      }
      co_return;
    } else {
      reply.status = route.action == mini::Action::keys ? 204 : 200;
      if (reply.status == 200) reply.bytes = std::move(body);
    }
    co_await exchange.respond(std::move(reply));
  }

  std::vector<std::string> methods{};

 private:
  static mini::Route check(const mini::Request& request) {
    FUZZ_CHECK(!request.method.empty() && request.path.starts_with('/'));
    FUZZ_CHECK(request.path.find('?') == std::string::npos);
    std::size_t head = request.method.size() + request.path.size() + request.query.size();
    for (const auto& [name, value] : request.headers) {
      head += name.size() + value.size();
      FUZZ_CHECK(mini::is_header_name(name));
      // Nothing that would end a header line further on.
      FUZZ_CHECK(value.find_first_of("\r\n") == std::string::npos);
      FUZZ_CHECK(request.has(name));
    }
    FUZZ_CHECK(head <= 16 << 10);
    mini::Route route = mini::route(request);
    FUZZ_CHECK(route.action == mini::Action::unknown || route.action == mini::Action::web ||
               !route.methods.empty());
    FUZZ_CHECK(route.function.find('/') == std::string::npos);
    FUZZ_CHECK(route.action != mini::Action::web || route.rest.starts_with('/'));
    (void)route.allows(request.method);
    for (const char* name : {"limit", "a", ""}) {
      const auto value = request.parameter(name);
      if (value) FUZZ_CHECK(value->size() <= request.query.size());
    }
    return route;
  }
};

// The other end: reads what was answered.
void check_answers(std::string_view out, const std::vector<std::string>& methods) {
  std::size_t answers = 0;
  bool closed = false;
  while (!out.empty()) {
    // After an answer that ends the connection there is nothing.
    FUZZ_CHECK(!closed);
    http::response_parser<http::string_body> parser;
    parser.eager(true);
    // A refusal of a head that nobody understood may be the last one, without a method.
    if (answers < methods.size() && methods[answers] == "HEAD") parser.skip(true);
    boost::system::error_code error;
    const std::size_t used = parser.put(asio::buffer(out.data(), out.size()), error);
    FUZZ_CHECK(!error || error == http::error::need_more);
    out.remove_prefix(used);
    if (!parser.is_done()) {
      FUZZ_CHECK(parser.is_header_done() && out.empty());
      parser.put_eof(error);  // its end is the end of the connection
      // A refused head may have been a HEAD's: announced, and left out.
      FUZZ_CHECK(!error || answers == methods.size());
      return;
    }
    const auto& head = parser.get();
    if (head.result_int() == 100) continue;
    closed = head["connection"] == "close";
    ++answers;
  }
  FUZZ_CHECK(answers <= methods.size() + 1);
}

struct Platform {
  asio::io_context io{1};
  Application application{};
  mini::Crowd crowd{};
  mini::Lane lane{io.get_executor(), 0, {}, application, crowd};
};

void read_all(int fd, std::string& out) {
  char bytes[8192];
  ssize_t size = 0;
  while ((size = ::recv(fd, bytes, sizeof bytes, MSG_DONTWAIT)) > 0)
    out.append(bytes, static_cast<std::size_t>(size));
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Platform platform;
  faaskit::fuzz::Input in(data, size);
  const std::uint8_t how = in.byte();
  faaskit::fuzz::Pieces pieces(how % 4 == 0 ? 0 : how);
  std::string_view text = in.take(60000);

  int fds[2];
  FUZZ_CHECK(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds) == 0);
  asio::ip::tcp::socket socket(platform.io);
  socket.assign(asio::ip::tcp::v4(), fds[0]);
  const faaskit::UniqueFd client(fds[1]);
  platform.application.methods.clear();
  platform.lane.adopt(std::move(socket));
  std::string out;
  const auto run = [&] {
    platform.io.restart();
    std::size_t turns = 0;
    while (platform.io.poll_one() > 0) {
      FUZZ_CHECK(++turns < 100000);
      if (turns % 8 == 0) read_all(client.get(), out);
    }
    read_all(client.get(), out);
  };
  run();
  while (!text.empty()) {
    const std::size_t piece = pieces.next(text.size());
    const ssize_t sent = ::send(client.get(), text.data(), piece, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (sent < 0 && errno != EAGAIN) break;  // it was cut off
    if (sent > 0) text.remove_prefix(static_cast<std::size_t>(sent));
    const std::size_t before = out.size();
    run();
    FUZZ_CHECK(sent > 0 || out.size() > before);
  }
  ::shutdown(client.get(), SHUT_WR);
  for (int i = 0; i < 100 && platform.crowd.alive > 0; ++i) run();
  FUZZ_CHECK(platform.crowd.alive == 0 && platform.crowd.sockets == 0);
  FUZZ_CHECK(platform.crowd.body_bytes == 0);
  check_answers(out, platform.application.methods);
  return 0;
}
