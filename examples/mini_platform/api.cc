#include "api.h"

#include <absl/strings/str_cat.h>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "json.h"

namespace mini {
namespace {

constexpr std::uint64_t kMaxJsonBytes = 64 << 10;

// Runs `work` where it may block, and comes back.
template <class Work>
auto on_desk(asio::any_io_executor desk, Work work) -> asio::awaitable<decltype(work())> {
  auto there = [work = std::move(work)]() mutable -> asio::awaitable<decltype(work())> { co_return work(); };
  co_return co_await asio::co_spawn(std::move(desk), std::move(there), asio::use_awaitable);
}

Response json_response(std::string text, int status = 200) {
  return {.status = status, .content_type = "application/json", .text = std::move(text) + "\n"};
}

bool is_invocation(Action action) { return action == Action::invocations || action == Action::web; }

}  // namespace

asio::awaitable<void> Api::serve(Exchange& exchange) {
  const Request& request = exchange.request();
  const Route route = mini::route(request);
  const auto refuse = [&](int status, std::string_view code, std::string message) {
    return exchange.respond(to_response({status, code, std::move(message)}));
  };

  if (absl::Status fine = parts_.access->check_origin(request, is_invocation(route.action)); !fine.ok()) {
    co_return co_await exchange.respond(to_response(to_problem(fine)));
  }
  if (route.action == Action::unknown) {
    co_return co_await refuse(404, "not_found", absl::StrCat("no such path: ", request.path));
  }
  if (!route.allows(request.method)) {
    Response response = to_response(
        {405, "method_not_allowed",
         absl::StrCat(request.method, " ", request.path, ": not one of ", std::string(route.methods))});
    response.headers.emplace_back("Allow", std::string(route.methods));
    co_return co_await exchange.respond(std::move(response));
  }
  if (route.action == Action::health) {
    if (stopping_) co_return co_await refuse(503, "stopping", "the platform is stopping");
    Response healthy{.content_type = "text/plain", .text = "ok\n"};
    co_return co_await exchange.respond(std::move(healthy));
  }
  if (!is_invocation(route.action)) {
    Response response = co_await administer(exchange, route);
    co_return co_await exchange.respond(std::move(response));
  }

  const KnownPtr function = parts_.functions->find(route.function);
  if (!function) {
    co_return co_await refuse(404, "not_found", absl::StrCat("no function '", route.function, "'"));
  }
  absl::StatusOr<Caller> caller = parts_.access->caller(request, *function);
  if (!caller.ok()) co_return co_await exchange.respond(to_response(to_problem(caller.status())));
  if (stopping_) co_return co_await refuse(503, "stopping", "the platform is stopping");
  if (!function->state.ok()) {
    co_return co_await refuse(503, "unavailable",
                              absl::StrCat("'", route.function, "' cannot run: ",
                                           std::string(function->state.message()), "; deploy it again"));
  }
  InvocationParts parts{.platform = parts_.platform,
                        .function = function,
                        .caller = *std::move(caller),
                        .web = route.action == Action::web,
                        .max_payload_bytes = options_.max_payload_bytes};
  if (parts.web) {
    parts.web_path = route.rest;
    if (!request.query.empty()) parts.web_path += "?" + request.query;
  }
  co_await serve_invocation(exchange, std::move(parts));
}

asio::awaitable<Response> Api::administer(Exchange& exchange, Route route) {
  const Request& request = exchange.request();
  const bool of_one = !route.function.empty();
  std::string owner = "admin";
  if (of_one) {
    absl::StatusOr<std::string> who = parts_.access->owner(request);
    if (!who.ok()) co_return to_response(to_problem(who.status()));
    owner = *std::move(who);
    if (absl::Status valid = faaskit::validate_function_name(route.function); !valid.ok()) {
      co_return to_response(to_problem(valid));
    }
  } else if (route.action != Action::metrics || !options_.open_metrics) {
    if (absl::Status admin = parts_.access->check_admin(request); !admin.ok()) {
      co_return to_response(to_problem(admin));
    }
  }
  if (route.action == Action::function && request.method == "PUT") {
    absl::StatusOr<Response> deployed = co_await deploy(exchange, route.function, owner);
    co_return deployed.ok() ? *std::move(deployed) : to_response(to_problem(deployed.status()));
  }
  // These bodies say nothing; read, they do not end the connection.
  absl::StatusOr<Bytes> body = co_await exchange.read_body(kMaxJsonBytes);
  if (!body.ok()) co_return to_response(to_problem(body.status()));
  auto work = [this, &request, &route, &owner] { return act(request, route, owner); };
  absl::StatusOr<Response> response = co_await on_desk(parts_.desk, std::move(work));
  co_return response.ok() ? *std::move(response) : to_response(to_problem(response.status()));
}

asio::awaitable<absl::StatusOr<Response>> Api::deploy(Exchange& exchange, std::string name,
                                                      std::string owner) {
  if (stopping_) co_return absl::CancelledError("the platform is stopping");
  faaskit::CodeSource source;
  std::optional<Incoming> incoming;
  if (exchange.request().header("content-type").starts_with("application/json")) {
    absl::StatusOr<Bytes> body = co_await exchange.read_body(kMaxJsonBytes);
    if (!body.ok()) co_return body.status();
    auto fields = parse_texts({reinterpret_cast<const char*>(body->data()), body->size()});
    if (!fields.ok()) co_return fields.status();
    source.kind = faaskit::CodeSource::Kind::folder;
    for (const auto& [field, value] : *fields) {
      if (field == "path") {
        source.path = value;
      } else if (field == "kind" && (value == "copied" || value == "mounted")) {
        if (value == "mounted") source.kind = faaskit::CodeSource::Kind::mounted;
      } else {
        co_return absl::InvalidArgumentError(absl::StrCat(
            "the body: '", field, "': '", value, "'; \"path\" is a text, \"kind\" copied or mounted"));
      }
    }
    if (source.path.empty()) co_return absl::InvalidArgumentError("the body: \"path\" is missing");
  } else {
    // To disk as it comes: written by the desk, so that a slow disk holds up no other connection.
    auto make = [this] { return Incoming::make(*parts_.state); };
    absl::StatusOr<Incoming> file = co_await on_desk(parts_.desk, std::move(make));
    if (!file.ok()) co_return file.status();
    incoming.emplace(*std::move(file));
    Exchange::Sink sink = [this,
                           &incoming](std::span<const std::byte> part) -> asio::awaitable<absl::Status> {
      auto append = [&incoming, part] { return incoming->append(part.data(), part.size()); };
      co_return co_await on_desk(parts_.desk, std::move(append));
    };
    absl::Status received = co_await exchange.read_body_into(std::move(sink), options_.max_archive_bytes);
    if (!received.ok()) co_return received;
    source.path = incoming->path();
  }
  auto work = [this, &name, &source, &owner] { return parts_.functions->deploy(name, source, owner); };
  absl::StatusOr<Functions::Deployed> deployed = co_await on_desk(parts_.yard, std::move(work));
  if (!deployed.ok()) co_return deployed.status();
  const faaskit::RegisteredFunction& function = deployed->function->registered;
  Json json;
  json.object()
      .field("name", function.name)
      .field("version", function.version)
      .field("owner", function.owner);
  json.field("code", to_string(function.code)).field("requires_key", function.requires_key).end();
  co_return json_response(json.text(), deployed->created ? 201 : 200);
}

// On the desk: it may block.
absl::StatusOr<Response> Api::act(const Request& request, const Route& route, const std::string& owner) {
  const std::string& name = route.function;
  const std::string& method = request.method;
  if (!name.empty()) {
    if (absl::Status own = check_owner(name, owner); !own.ok()) return own;
  }
  const auto done = [](const absl::Status& status) -> absl::StatusOr<Response> {
    if (!status.ok()) return status;
    return Response{.status = 204};
  };
  switch (route.action) {
    case Action::metrics:
      return Response{.content_type = "text/plain; version=0.0.4; charset=utf-8",
                      .text = metrics_text(parts_, door_)};
    case Action::stats: return json_response(stats_json(parts_, door_));
    case Action::sandboxes: return json_response(sandboxes_json(parts_.platform->sandboxes()));
    case Action::functions: return json_response(functions_json(parts_.functions->list()));
    case Action::records: {
      absl::StatusOr<std::string> records = records_json(parts_, request);
      if (!records.ok()) return records.status();
      return json_response(*std::move(records));
    }
    case Action::logs: return logs_response(parts_, request, name);
    case Action::function: {
      if (method == "DELETE") {
        absl::Status removed = parts_.functions->remove(name);
        if (removed.ok()) (void)parts_.logs->remove(name);
        return done(removed);
      }
      const KnownPtr known = parts_.functions->find(name);
      auto versions = parts_.functions->versions(name);
      if (!known || !versions.ok()) return versions.status();
      return json_response(function_json(*known, *versions, parts_.platform->stats(name)));
    }
    case Action::keys: {
      if (method == "DELETE") return done(parts_.functions->open_to_all(name));
      if (method == "POST") {
        auto key = parts_.functions->add_key(name);
        if (!key.ok()) return key.status();
        Json json;
        json.object().field("id", key->id).field("key", key->text).end();
        return json_response(json.text(), 201);
      }
      return json_response(keys_json(*parts_.functions->find(name)));
    }
    case Action::key: return done(parts_.functions->revoke_key(name, route.rest));
    default: return absl::NotFoundError("no such path");
  }
}

// kNotFound; kPermissionDenied: it belongs to another subject.
absl::Status Api::check_owner(const std::string& name, const std::string& owner) const {
  const KnownPtr known = parts_.functions->find(name);
  if (!known) return absl::NotFoundError(absl::StrCat("no function '", name, "'"));
  if (owner != "admin" && known->registered.owner != owner) {
    return absl::PermissionDeniedError(absl::StrCat("'", name, "' belongs to somebody else"));
  }
  return absl::OkStatus();
}

}  // namespace mini
