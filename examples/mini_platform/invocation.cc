// One invocation over HTTP. The reply's parts are taken one by one: the next when the one before was written,
// so that a slow reader slows its function down, and not us.
#include <algorithm>
#include <charconv>
#include <deque>
#include <optional>

#include <absl/strings/str_cat.h>
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/bind_executor.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/steady_timer.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "api.h"

namespace mini {
namespace {

using faaskit::InvocationResult;
using faaskit::ReplyHead;
using Clock = std::chrono::steady_clock;

std::int64_t to_us(std::chrono::nanoseconds time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
}

// What has come of the reply and was not written yet. Of the connection's thread.
struct Arrived {
  struct Part {
    Bytes bytes{};
    faaskit::ReplyStream::Taken taken{};
  };
  explicit Arrived(const asio::any_io_executor& executor) : wake(executor) {
    wake.expires_at(Clock::time_point::max());
  }
  std::optional<std::pair<InvocationResult, ReplyHead>> head{};
  std::deque<Part> parts{};
  std::optional<InvocationResult> result{};
  asio::steady_timer wake;

  asio::awaitable<void> wait() {
    while (!head && parts.empty() && !result) {
      boost::system::error_code ignored;
      co_await wake.async_wait(asio::redirect_error(asio::use_awaitable, ignored));
    }
  }
};

// Called on the sandbox's shard; brings what it gets to the connection's.
class Stream final : public faaskit::InvocationStream {
 public:
  Stream(asio::any_io_executor executor, std::shared_ptr<Arrived> arrived)
      : executor_(std::move(executor)), arrived_(std::move(arrived)) {}

  void head(const InvocationResult& so_far, ReplyHead head) override {
    asio::post(executor_, [arrived = arrived_, so_far, head = std::move(head)]() mutable {
      arrived->head.emplace(std::move(so_far), std::move(head));
      arrived->wake.cancel();
    });
  }
  void body(Bytes part, faaskit::ReplyStream::Taken taken) override {
    asio::post(executor_, [arrived = arrived_, part = std::move(part), taken = std::move(taken)]() mutable {
      arrived->parts.push_back({std::move(part), std::move(taken)});
      arrived->wake.cancel();
    });
  }

 private:
  const asio::any_io_executor executor_;
  const std::shared_ptr<Arrived> arrived_;
};

void add_our_headers(Response& response, const InvocationResult& result) {
  if (result.sandbox.host != 0) {
    response.headers.emplace_back("X-Faaskit-Start", std::string(to_string(result.start)));
    response.headers.emplace_back("X-Faaskit-Sandbox", to_string(result.sandbox));
    response.headers.emplace_back("X-Faaskit-Version", absl::StrCat(result.version));
  }
  response.headers.emplace_back("X-Faaskit-Request", to_string(result.request));
  response.headers.emplace_back("X-Faaskit-Wait-Us", absl::StrCat(to_us(result.wait)));
}

std::string lower(std::string text) {
  for (char& c : text) {
    if (c >= 'A' && c <= 'Z') c += 'a' - 'A';
  }
  return text;
}

// What the function said of its reply. It is not trusted: nothing of it may end a header or be taken for
// ours.
void add_its_headers(Response& response, bool web, const std::string& content_type,
                     const faaskit::Metadata& metadata) {
  if (is_header_value(content_type)) response.content_type = content_type;
  if (!web) return;
  const auto connection = std::find_if(metadata.begin(), metadata.end(), [](const auto& header) {
    return lower(header.first) == "connection";
  });
  const std::string named = connection == metadata.end() ? std::string() : connection->second;
  for (const auto& [name, value] : metadata) {
    if (name == ":status") {
      int status = 0;
      const auto [end, error] = std::from_chars(value.data(), value.data() + value.size(), status);
      if (error == std::errc() && end == value.data() + value.size() && status >= 200 && status <= 599) {
        response.status = status;
      }
      continue;
    }
    const std::string small = lower(name);
    if (!is_header_name(name) || !is_header_value(value) || is_hop_by_hop(small) || is_named(named, small) ||
        small.starts_with("x-faaskit-") || small == "content-type") {
      continue;
    }
    response.headers.emplace_back(name, value);
  }
}

faaskit::Metadata to_metadata(const Request& request, const InvocationParts& parts) {
  faaskit::Metadata metadata;
  if (parts.web) {
    metadata.emplace_back(":method", request.method);
    metadata.emplace_back(":path", parts.web_path);
    metadata.emplace_back(":scheme", "http");
    metadata.emplace_back(":host", std::string(request.header("host")));
    std::string named;
    for (const auto& [name, value] : request.headers) {
      if (name == "connection") absl::StrAppend(&named, value, ",");
    }
    for (const auto& [name, value] : request.headers) {
      if (is_hop_by_hop(name) || is_named(named, name) || name.starts_with("x-faaskit-") ||
          name == "x-api-key" || name == "host")
        continue;
      if (name == "authorization" && parts.caller.authorization_used) continue;
      metadata.emplace_back(name, value);
    }
  }
  if (!parts.caller.subject.empty()) {
    metadata.emplace_back(":subject", parts.caller.subject);
    metadata.emplace_back("x-faaskit-subject", parts.caller.subject);
  }
  return metadata;
}

// The caller may want to wait less than the function allows.
absl::StatusOr<std::chrono::milliseconds> timeout_of(const Request& request, const Known& function) {
  const std::string_view text = request.header("x-faaskit-timeout-ms");
  if (text.empty()) return function.manifest.timeout;
  std::int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("X-Faaskit-Timeout-Ms is '", std::string(text), "', must be a number from 1 on"));
  }
  return std::min(function.manifest.timeout,
                  std::chrono::milliseconds(std::min<std::int64_t>(value, 86'400'000)));
}

}  // namespace

asio::awaitable<void> serve_invocation(Exchange& exchange, InvocationParts parts) {
  const Request& request = exchange.request();
  const auto authorised = Clock::now();
  auto timeout = timeout_of(request, *parts.function);
  if (!timeout.ok()) co_return co_await exchange.respond(to_response(to_problem(timeout.status())));
  absl::StatusOr<Bytes> payload = co_await exchange.read_body(parts.max_payload_bytes);
  if (!payload.ok()) co_return co_await exchange.respond(to_response(to_problem(payload.status())));

  auto arrived = std::make_shared<Arrived>(exchange.executor());
  faaskit::local::InvokeOptions options;
  options.timeout = *timeout;
  options.content_type = std::string(request.header("content-type"));
  options.trace = std::string(request.header("traceparent"));
  options.metadata = to_metadata(request, parts);
  options.stream = std::make_shared<Stream>(exchange.executor(), arrived);
  options.phases.set(faaskit::Phase::auth, authorised - request.arrived);
  options.shard = exchange.shard();
  // Who goes away while waiting gives up the place in the line; and nobody goes on streaming to nobody.
  options.cancel = parts.function->manifest.cancel_on_disconnect ? faaskit::Cancel::running_too
                                                                 : faaskit::Cancel::streamed_too;
  auto done = [arrived](InvocationResult result) {
    arrived->result.emplace(std::move(result));
    arrived->wake.cancel();
  };
  parts.platform->async_invoke(
      parts.function->registered.name, *std::move(payload), std::move(options),
      asio::bind_cancellation_slot(exchange.gone(),
                                   asio::bind_executor(exchange.executor(), std::move(done))));
  exchange.watch();

  bool begun = false, listening = true;
  for (;;) {
    co_await arrived->wait();
    if (arrived->head) {
      auto [so_far, head] = *std::move(arrived->head);
      arrived->head.reset();
      Response response;
      add_our_headers(response, so_far);
      add_its_headers(response, parts.web, head.content_type, head.metadata);
      begun = true;
      listening = co_await exchange.begin(std::move(response), "X-Faaskit-Duration-Us");
    } else if (!arrived->parts.empty()) {
      Arrived::Part part = std::move(arrived->parts.front());
      arrived->parts.pop_front();
      if (listening) listening = co_await exchange.write(std::move(part.bytes));
      if (part.taken) part.taken();
    } else {
      break;
    }
  }
  InvocationResult& result = *arrived->result;
  const std::string duration = absl::StrCat(to_us(result.run));
  if (begun) {
    if (!result.ok()) co_return;  // not ended: the connection is cut, and its client knows
    Headers trailers;
    trailers.emplace_back("X-Faaskit-Duration-Us", duration);
    co_return co_await exchange.end(std::move(trailers));
  }
  if (exchange.is_gone()) co_return;
  Response response;
  if (result.ok()) {
    add_its_headers(response, parts.web, result.content_type, result.metadata);
    response.bytes = std::move(result.payload);
  } else {
    response = to_response(to_problem(result));
  }
  add_our_headers(response, result);
  response.headers.emplace_back("X-Faaskit-Duration-Us", duration);
  co_await exchange.respond(std::move(response));
}

}  // namespace mini
