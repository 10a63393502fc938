#include <charconv>
#include <map>
#include <set>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "api.h"
#include "json.h"

namespace mini {
namespace {

using faaskit::sinks::Sample;

std::int64_t to_ms(std::chrono::nanoseconds time) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(time).count();
}

std::string_view breaker(faaskit::Breaker state) {
  switch (state) {
    case faaskit::Breaker::closed: return "closed";
    case faaskit::Breaker::open: return "open";
    case faaskit::Breaker::half_open: return "half_open";
  }
  return "";
}

void queue_fields(Json& json, const faaskit::QueueStats& s) {
  json.field("waiters", s.waiters).field("idle", s.idle).field("leased", s.leased);
  json.field("disputed", s.disputed)
      .field("retiring", s.retiring)
      .field("starts_in_flight", s.starts_in_flight);
  json.field("warm", s.warm).field("cold", s.cold).field("stolen", s.stolen).field("queued", s.queued);
  json.field("cross_shard", s.cross_shard).field("refused", s.refused);
  json.field("starts_admitted", s.starts_admitted).field("starts_failed", s.starts_failed);
  json.field("breaker", breaker(s.breaker)).field("breaker_opened", s.breaker_opened);
  json.field("surplus_starts", s.surplus_starts).field("steals_measured", s.steals_measured);
  json.field("steal_saved_us", s.steal_saved_us);
}

void function_fields(Json& json, const Known& known) {
  const faaskit::RegisteredFunction& function = known.registered;
  json.field("name", function.name).field("version", function.version).field("owner", function.owner);
  json.field("runtime", known.manifest.runtime).field("handler", known.manifest.handler);
  json.field("code", to_string(function.code)).field("requires_key", function.requires_key);
  json.field("deployed_at", faaskit::sinks::format_time(function.deployed_at));
  if (!known.state.ok()) json.field("error", std::string(known.state.message()));
}

std::map<std::string, std::uint64_t> by_state(const std::vector<faaskit::SandboxView>& sandboxes) {
  std::map<std::string, std::uint64_t> counts = {
      {"starting", 0}, {"idle", 0}, {"freezing", 0}, {"frozen", 0}, {"busy", 0}};
  for (const faaskit::SandboxView& sandbox : sandboxes) ++counts[std::string(to_string(sandbox.state))];
  return counts;
}

absl::StatusOr<std::size_t> count(const Request& request, std::string_view name, std::size_t otherwise,
                                  std::size_t most) {
  const auto text = request.parameter(name);
  if (!text) return otherwise;
  std::size_t value = 0;
  const auto [end, error] = std::from_chars(text->data(), text->data() + text->size(), value);
  if (error != std::errc() || end != text->data() + text->size() || value == 0 || value > most) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s is '%s', must be 1 to %d", std::string(name), *text, most));
  }
  return value;
}

// The inverse of to_string(RequestId): "rq-<invoker, hex>-<sequence>".
std::optional<faaskit::RequestId> parse_request_id(std::string_view text) {
  faaskit::RequestId id;
  if (!text.starts_with("rq-")) return std::nullopt;
  text.remove_prefix(3);
  const auto [dash, error] = std::from_chars(text.data(), text.data() + text.size(), id.invoker, 16);
  const char* const end = text.data() + text.size();
  if (error != std::errc() || dash == end || *dash != '-') return std::nullopt;
  const auto [last, error2] = std::from_chars(dash + 1, end, id.sequence);
  if (error2 != std::errc() || last != end) return std::nullopt;
  return id;
}

}  // namespace

std::string functions_json(const std::vector<KnownPtr>& functions) {
  Json json;
  json.object().array("functions");
  for (const KnownPtr& known : functions) {
    json.object();
    function_fields(json, *known);
    json.end();
  }
  json.end().end();
  return json.text();
}

std::string function_json(const Known& known, const std::vector<faaskit::RegisteredFunction>& versions,
                          const faaskit::QueueStats& stats) {
  Json json;
  json.object();
  function_fields(json, known);
  // It was parsed when it came in.
  json.key("manifest").raw(known.registered.manifest);
  json.array("versions");
  for (const faaskit::RegisteredFunction& version : versions) {
    json.object().field("version", version.version).field("code", to_string(version.code));
    json.field("deployed_at", faaskit::sinks::format_time(version.deployed_at)).end();
  }
  json.end();
  json.array("keys");
  for (const faaskit::AccessKey& key : known.keys) json.value(key.id);
  json.end();
  json.object("stats");
  queue_fields(json, stats);
  json.end().end();
  return json.text();
}

std::string keys_json(const Known& known) {
  Json json;
  json.object().field("requires_key", known.registered.requires_key).array("keys");
  for (const faaskit::AccessKey& key : known.keys) {
    json.object().field("id", key.id);
    json.field("created_at", faaskit::sinks::format_time(key.created_at)).end();
  }
  json.end().end();
  return json.text();
}

std::string sandboxes_json(const std::vector<faaskit::SandboxView>& sandboxes) {
  Json json;
  json.object().array("sandboxes");
  for (const faaskit::SandboxView& sandbox : sandboxes) {
    json.object().field("id", to_string(sandbox.id)).field("function", sandbox.function);
    json.field("version", sandbox.version).field("state", std::string(to_string(sandbox.state)));
    json.field("pid", sandbox.pid).field("cgroup", sandbox.cgroup).field("uses", sandbox.uses);
    json.field("age_ms", to_ms(sandbox.age)).field("shard", sandbox.home_shard).end();
  }
  json.end().end();
  return json.text();
}

std::string stats_json(const ApiParts& parts, const Listener* door) {
  Json json;
  json.object().object("functions");
  for (const KnownPtr& known : parts.functions->list()) {
    json.object(known->registered.name);
    queue_fields(json, parts.platform->stats(known->registered.name));
    json.end();
  }
  json.end().object("host").field("freezer", to_string(parts.platform->freezer().kind()));
  json.field("limits", parts.platform->freezer().limits_source());
  json.field("missing_limits", parts.platform->freezer().missing_limits());
  json.field("isolation", to_string(parts.platform->factory().isolation()));
  json.end().object("sandboxes");
  for (const auto& [state, number] : by_state(parts.platform->sandboxes())) json.field(state, number);
  const faaskit::CodeStats codes = parts.codes->stats();
  json.end().object("code_store").field("unpacked", codes.unpacked).field("bytes", codes.bytes);
  json.field("opened", codes.opened).field("unpacks", codes.unpacks).field("removed", codes.removed);
  json.field("failed_unpacks", codes.failed_unpacks);
  const auto logs = parts.logs->stats();
  json.end().object("logs").field("written_bytes", logs.written_bytes).field("lost_bytes", logs.lost_bytes);
  json.field("queued_bytes", logs.queued_bytes).field("write_errors", logs.write_errors);
  const auto records = parts.record_file->stats();
  json.end().object("records").field("written", records.written).field("lost", records.lost);
  json.field("write_errors", records.write_errors);
  if (door != nullptr) {
    const Crowd& crowd = door->crowd();
    json.end()
        .object("connections")
        .field("open", crowd.sockets.load())
        .field("limit", door->max_connections());
    json.field("accepted", crowd.accepted.load()).field("requests", crowd.requests.load());
    json.field("pauses", crowd.pauses.load());
  }
  json.end().end();
  return json.text();
}

absl::StatusOr<std::string> records_json(const ApiParts& parts, const Request& request) {
  faaskit::sinks::RecordQuery query;
  query.function = request.parameter("function").value_or("");
  if (const auto kind = request.parameter("kind")) {
    for (const auto one : {faaskit::StartKind::warm, faaskit::StartKind::cold, faaskit::StartKind::stolen,
                           faaskit::StartKind::queued}) {
      if (to_string(one) == *kind) query.kind = one;
    }
    if (!query.kind) {
      return absl::InvalidArgumentError(
          absl::StrCat("kind is '", *kind, "', must be warm, cold, stolen or queued"));
    }
  }
  if (const auto since = request.parameter("since")) {
    auto time = faaskit::sinks::parse_time(*since);
    if (!time.ok())
      return absl::InvalidArgumentError(absl::StrCat("since: ", std::string(time.status().message())));
    query.since = *time;
  }
  auto limit = count(request, "limit", 100, 10'000);
  if (!limit.ok()) return limit.status();
  query.limit = *limit;
  Json json;
  json.object().array("records");
  for (const faaskit::ExecutionRecord& record : parts.records->query(query)) {
    json.raw(faaskit::sinks::to_json(record));
  }
  json.end().end();
  return json.text();
}

absl::StatusOr<Response> logs_response(const ApiParts& parts, const Request& request,
                                       const std::string& function) {
  faaskit::sinks::LogQuery query{.function = function};
  if (const auto text = request.parameter("request")) {
    query.request = parse_request_id(*text);
    if (!query.request) {
      return absl::InvalidArgumentError(
          absl::StrCat("request is '", *text, "', must be a request id: rq-..."));
    }
  }
  auto bytes = count(request, "bytes", query.max_bytes, 16 << 20);
  if (!bytes.ok()) return bytes.status();
  query.max_bytes = *bytes;
  query.before = request.parameter("before").value_or("");
  // What was printed a moment ago shall be there; if the disk is slow, it comes later.
  (void)parts.logs->flush(std::chrono::seconds(1));
  auto page = parts.logs->read(query);
  if (absl::IsNotFound(page.status())) page = faaskit::sinks::LogPage{};  // it has not printed anything
  if (!page.ok()) return page.status();
  Response response{.content_type = "text/plain; charset=utf-8", .text = std::move(page->text)};
  if (!page->before.empty()) response.headers.emplace_back("X-Faaskit-Before", page->before);
  return response;
}

std::string metrics_text(const ApiParts& parts, const Listener* door) {
  std::vector<Sample> samples;
  const auto add = [&](Sample::Type type, const char* name, const char* help, double value,
                       std::vector<std::pair<std::string, std::string>> labels = {}) {
    samples.push_back(
        {.type = type, .name = name, .help = help, .labels = std::move(labels), .value = value});
  };
  constexpr auto gauge = Sample::Type::gauge;
  constexpr auto counter = Sample::Type::counter;
  for (const auto& [state, number] : by_state(parts.platform->sandboxes())) {
    add(gauge, "faaskit_sandboxes", "Sandboxes by state", static_cast<double>(number), {{"state", state}});
  }
  for (const KnownPtr& known : parts.functions->list()) {
    const std::string& name = known->registered.name;
    const faaskit::QueueStats stats = parts.platform->stats(name);
    const auto of = [&](Sample::Type type, const char* metric, const char* help, std::uint64_t value) {
      add(type, metric, help, static_cast<double>(value), {{"function", name}});
    };
    of(gauge, "faaskit_waiters", "Invocations that wait for a sandbox", stats.waiters);
    of(gauge, "faaskit_live_sandboxes", "Sandboxes that serve or may", stats.live());
    of(gauge, "faaskit_starts_in_flight", "Sandboxes being started", stats.starts_in_flight);
    of(counter, "faaskit_refused_total", "Invocations refused: too many waited", stats.refused);
    of(counter, "faaskit_starts_failed_total", "Starts that failed", stats.starts_failed);
    of(gauge, "faaskit_breaker_open", "1 while starts are not tried, because they failed in a row",
       stats.breaker == faaskit::Breaker::open ? 1 : 0);
    of(counter, "faaskit_breaker_opened_total", "How often that began", stats.breaker_opened);
    of(counter, "faaskit_surplus_starts_total", "Starts nobody waited for when they were ready",
       stats.surplus_starts);
    of(counter, "faaskit_steal_saved_microseconds_total", "Waiting that steals saved", stats.steal_saved_us);
  }
  const faaskit::CodeStats codes = parts.codes->stats();
  add(gauge, "faaskit_code_unpacked", "Code folders on disk", static_cast<double>(codes.unpacked));
  add(gauge, "faaskit_code_bytes", "Code on disk", static_cast<double>(codes.bytes));
  add(counter, "faaskit_code_unpacks_total", "Code unpacked", static_cast<double>(codes.unpacks));
  add(counter, "faaskit_code_failed_unpacks_total", "Unpacking that failed",
      static_cast<double>(codes.failed_unpacks));
  add(counter, "faaskit_sink_lost_log_bytes_total", "Log bytes that the disk did not take",
      static_cast<double>(parts.logs->stats().lost_bytes));
  add(counter, "faaskit_sink_lost_records_total", "Records that the disk did not take",
      static_cast<double>(parts.record_file->stats().lost));
  if (door != nullptr) {
    add(gauge, "faaskit_connections", "Connections open", static_cast<double>(door->crowd().sockets.load()));
    add(counter, "faaskit_accept_pauses_total", "Times that accepting paused",
        static_cast<double>(door->crowd().pauses.load()));
  }
  return parts.metrics->render(samples);
}

}  // namespace mini
