#include "faaskit/code/manifest.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>
#include <optional>
#include <span>

#include <absl/status/status.h>
#include <absl/strings/escaping.h>
#include <absl/strings/str_cat.h>

#include "json/json.h"

namespace faaskit::code {
namespace {

using boost::json::value;

constexpr std::size_t kMaxHandlerBytes = 256;
constexpr std::size_t kMaxEnvironmentBytes = 64 << 10;
constexpr std::size_t kMaxWarmUps = 16;
constexpr std::size_t kMaxContentTypeBytes = 256;

// A value as the reader wrote it, cut where it is long.
std::string shown(const value& v) {
  constexpr std::size_t kLongest = 60;
  std::string text = boost::json::serialize(v);
  if (text.size() <= kLongest) return text;
  std::size_t end = kLongest;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xc0) == 0x80) --end;  // whole characters
  text.resize(end);
  return text + "...";
}

absl::Status wrong(const std::string& field, const std::string& is, const std::string& must) {
  return absl::InvalidArgumentError(absl::StrCat("function.json: ", field, " is ", is, ", must be ", must));
}

// Edit distance (Levenshtein 1966), for the name that was probably meant.
std::size_t distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

absl::Status unknown_field(std::string_view where, std::string_view name,
                           std::span<const std::string_view> known) {
  // The name is the stranger's: bounded before it is compared or shown.
  const std::string shown_name = shown(value(boost::json::string_view(name.data(), name.size())));
  std::string message = absl::StrCat("function.json: ", std::string(where), "unknown field ", shown_name);
  if (name.size() <= 40) {
    const auto nearest = std::min_element(
        known.begin(), known.end(),
        [&](std::string_view a, std::string_view b) { return distance(name, a) < distance(name, b); });
    if (distance(name, *nearest) <= std::max<std::size_t>(2, nearest->size() / 3))
      absl::StrAppend(&message, "; did you mean '", std::string(*nearest), "'?");
  }
  return absl::InvalidArgumentError(message);
}

absl::StatusOr<std::int64_t> whole(const std::string& field, const value& v, std::int64_t low,
                                   std::int64_t high) {
  const std::string must = absl::StrCat(low, " to ", high);
  if (v.is_uint64()) return wrong(field, shown(v), must);  // beyond int64
  if (!v.is_int64()) return wrong(field, shown(v), absl::StrCat("a whole number, ", must));
  const std::int64_t number = v.get_int64();
  if (number < low || number > high) return wrong(field, shown(v), must);
  return number;
}

absl::StatusOr<std::string> text(const std::string& field, const value& v) {
  if (!v.is_string()) return wrong(field, shown(v), "text");
  return std::string(v.get_string().data(), v.get_string().size());
}

absl::StatusOr<bool> boolean(const std::string& field, const value& v) {
  if (!v.is_bool()) return wrong(field, shown(v), "true or false");
  return v.get_bool();
}

template <class Enum, std::size_t N>
absl::StatusOr<Enum> word(const std::string& field, const value& v,
                          const std::array<std::pair<std::string_view, Enum>, N>& words) {
  std::string list;
  for (const auto& [name, result] : words) {
    if (v.is_string() && std::string_view(v.get_string().data(), v.get_string().size()) == name)
      return result;
    absl::StrAppend(&list, list.empty() ? "\"" : ", \"", std::string(name), "\"");
  }
  return wrong(field, shown(v), absl::StrCat("one of ", list));
}

bool holds_control(std::string_view s) {
  return std::any_of(s.begin(), s.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; });
}

bool environment_name(std::string_view name) {
  const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_'; };
  return !name.empty() && letter(name.front()) &&
         std::all_of(name.begin(), name.end(), [&](char c) { return letter(c) || (c >= '0' && c <= '9'); });
}

// -- The fields. Each takes its value into `out`.

// Whole numbers that go where they belong unchanged.
template <std::int64_t kLow, std::int64_t kHigh, auto kSet>
absl::Status number(const std::string& field, const value& v, Manifest& out) {
  absl::StatusOr<std::int64_t> n = whole(field, v, kLow, kHigh);
  if (n.ok()) kSet(out, *n);
  return n.status();
}

absl::Status runtime(const std::string& field, const value& v, Manifest& out) {
  constexpr std::array<std::pair<std::string_view, std::string_view>, 3> kWords{
      {{"python3", "python3"}, {"node", "node"}, {"exec", "exec"}}};
  auto chosen = word(field, v, kWords);
  if (chosen.ok()) out.runtime = std::string(*chosen);
  return chosen.status();
}

absl::Status handler(const std::string& field, const value& v, Manifest& out) {
  auto chosen = text(field, v);
  if (!chosen.ok()) return chosen.status();
  if (chosen->empty() || chosen->size() > kMaxHandlerBytes || holds_control(*chosen))
    return wrong(field, shown(v),
                 absl::StrCat("1 to ", kMaxHandlerBytes, " bytes without control characters"));
  out.handler = *std::move(chosen);
  return absl::OkStatus();
}

absl::Status cpu_max(const std::string& field, const value& v, Manifest& out) {
  constexpr double kLow = 0.01;
  constexpr double kHigh = 1024;
  const char* kMust = "0.01 to 1024 CPUs";
  if (!v.is_number()) return wrong(field, shown(v), kMust);
  const double cpus = v.to_number<double>();
  if (!(cpus >= kLow && cpus <= kHigh)) return wrong(field, shown(v), kMust);
  out.limits.cpu_max_milli = static_cast<std::uint32_t>(std::lround(cpus * 1000));
  return absl::OkStatus();
}

absl::Status start_policy(const std::string& field, const value& v, Manifest& out) {
  constexpr std::array<std::pair<std::string_view, StartPolicy>, 2> kWords{
      {{"race", StartPolicy::race}, {"wait_only", StartPolicy::wait_only}}};
  auto chosen = word(field, v, kWords);
  if (chosen.ok()) out.start_policy = *chosen;
  return chosen.status();
}

absl::Status network(const std::string& field, const value& v, Manifest& out) {
  constexpr std::array<std::pair<std::string_view, Network>, 3> kWords{
      {{"none", Network::none}, {"loopback", Network::loopback}, {"host", Network::host}}};
  auto chosen = word(field, v, kWords);
  if (chosen.ok()) out.network = *chosen;
  return chosen.status();
}

absl::Status minimum_isolation(const std::string& field, const value& v, Manifest& out) {
  constexpr std::array<std::pair<std::string_view, Isolation>, 5> kWords{{{"none", Isolation::none},
                                                                          {"partial", Isolation::partial},
                                                                          {"process", Isolation::process},
                                                                          {"container", Isolation::container},
                                                                          {"microvm", Isolation::microvm}}};
  auto chosen = word(field, v, kWords);
  if (chosen.ok()) out.minimum_isolation = *chosen;
  return chosen.status();
}

template <bool Manifest::* kFlag>
absl::Status flag(const std::string& field, const value& v, Manifest& out) {
  auto chosen = boolean(field, v);
  if (chosen.ok()) out.*kFlag = *chosen;
  return chosen.status();
}

absl::Status ping_after(const std::string& field, const value& v, Manifest& out) {
  constexpr std::int64_t kHigh = 604800000;
  const std::string must = absl::StrCat("1 to ", kHigh, ", or \"never\"");
  if (v.is_string() && v.get_string() == "never") {
    out.ping_after.reset();
    return absl::OkStatus();
  }
  if (!v.is_int64() || v.get_int64() < 1 || v.get_int64() > kHigh) return wrong(field, shown(v), must);
  out.ping_after = std::chrono::milliseconds(v.get_int64());
  return absl::OkStatus();
}

absl::Status env(const std::string& field, const value& v, Manifest& out) {
  if (!v.is_object()) return wrong(field, shown(v), "an object of texts");
  std::size_t bytes = 0;
  for (const auto& [key, content] : v.get_object()) {
    const std::string name(key.data(), key.size());
    if (!environment_name(name)) {
      return absl::InvalidArgumentError(absl::StrCat("function.json: env has the name ", shown(value(key)),
                                                     ", names must be [A-Za-z_][A-Za-z0-9_]*"));
    }
    auto taken = text(absl::StrCat("env.", name.substr(0, 80)), content);
    if (!taken.ok()) return taken.status();
    if (taken->find('\0') != std::string::npos)
      return wrong(absl::StrCat("env.", name.substr(0, 80)), shown(content), "without zero bytes");
    bytes += name.size() + taken->size() + 2;  // "=" and the end
    out.env.emplace_back(name, *std::move(taken));
  }
  if (bytes > kMaxEnvironmentBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("function.json: env holds ", bytes, " bytes, limit ", kMaxEnvironmentBytes));
  }
  return absl::OkStatus();
}

absl::StatusOr<WarmUpPayload> warm_up_call(const std::string& field, const value& v) {
  constexpr std::array<std::string_view, 3> kKnown{"payload", "base64", "content_type"};
  std::string payload;
  bool base64 = false;
  WarmUpPayload call;
  if (v.is_string()) {
    payload.assign(v.get_string().data(), v.get_string().size());
  } else if (v.is_object()) {
    for (const auto& [key, content] : v.get_object()) {
      const std::string_view name(key.data(), key.size());
      const std::string inner = absl::StrCat(field, ".", std::string(name.substr(0, 80)));
      if (name == "payload") {
        auto taken = text(inner, content);
        if (!taken.ok()) return taken.status();
        payload = *std::move(taken);
      } else if (name == "base64") {
        auto taken = boolean(inner, content);
        if (!taken.ok()) return taken.status();
        base64 = *taken;
      } else if (name == "content_type") {
        auto taken = text(inner, content);
        if (!taken.ok()) return taken.status();
        if (taken->size() > kMaxContentTypeBytes || holds_control(*taken))
          return wrong(inner, shown(content),
                       absl::StrCat("at most ", kMaxContentTypeBytes, " bytes without control characters"));
        call.content_type = *std::move(taken);
      } else {
        return unknown_field(absl::StrCat(field, ": "), name, kKnown);
      }
    }
  } else {
    return wrong(field, shown(v), "text or an object");
  }
  std::string bytes;
  if (!base64) {
    bytes = std::move(payload);
  } else if (!absl::Base64Unescape(payload, &bytes)) {
    return wrong(absl::StrCat(field, ".payload"), shown(value(payload)), "base64");
  }
  const auto view = std::as_bytes(std::span<const char>(bytes.data(), bytes.size()));
  call.payload.assign(view.begin(), view.end());
  return call;
}

absl::Status warm_up(const std::string& field, const value& v, Manifest& out) {
  if (!v.is_array()) return wrong(field, shown(v), "an array of payloads");
  const boost::json::array& calls = v.get_array();
  if (calls.size() > kMaxWarmUps)
    return absl::InvalidArgumentError(
        absl::StrCat("function.json: ", field, " has ", calls.size(), " calls, limit ", kMaxWarmUps));
  for (std::size_t i = 0; i < calls.size(); ++i) {
    auto call = warm_up_call(absl::StrCat(field, "[", i, "]"), calls[i]);
    if (!call.ok()) return call.status();
    out.warm_up.push_back(*std::move(call));
  }
  return absl::OkStatus();
}

struct Field {
  std::string_view name;
  absl::Status (*take)(const std::string& field, const value& v, Manifest& out);
};

using Ms = std::chrono::milliseconds;
using Set = void (*)(Manifest&, std::int64_t);
constexpr Set kTimeout = [](Manifest& m, std::int64_t n) { m.timeout = Ms(n); };
constexpr Set kMemory = [](Manifest& m, std::int64_t n) {
  m.limits.memory_bytes = static_cast<std::uint64_t>(n) << 20;
};
constexpr Set kCpuWeight = [](Manifest& m, std::int64_t n) {
  m.limits.cpu_weight = static_cast<std::uint32_t>(n);
};
constexpr Set kPids = [](Manifest& m, std::int64_t n) { m.limits.pids = static_cast<std::uint32_t>(n); };
constexpr Set kMaxSandboxes = [](Manifest& m, std::int64_t n) {
  m.caps.max_sandboxes = static_cast<std::uint32_t>(n);
};
constexpr Set kMaxWaiters = [](Manifest& m, std::int64_t n) {
  m.caps.max_waiters = static_cast<std::uint32_t>(n);
};
constexpr Set kKeepAlive = [](Manifest& m, std::int64_t n) { m.keep_alive = Ms(n); };
constexpr Set kMaxAge = [](Manifest& m, std::int64_t n) { m.max_age = Ms(n); };
constexpr Set kMaxUses = [](Manifest& m, std::int64_t n) { m.max_uses = static_cast<std::uint64_t>(n); };
constexpr Set kProvisioned = [](Manifest& m, std::int64_t n) {
  m.provisioned = static_cast<std::uint32_t>(n);
};

constexpr std::array<Field, 21> kFields{{
    {"runtime", runtime},
    {"handler", handler},
    {"timeout_ms", number<1, 3600000, kTimeout>},
    {"memory_mb", number<1, 1048576, kMemory>},
    {"cpu_weight", number<1, 10000, kCpuWeight>},
    {"cpu_max", cpu_max},
    {"pids", number<1, 32768, kPids>},
    {"max_sandboxes", number<1, 10000, kMaxSandboxes>},
    {"max_waiters", number<1, 1000000, kMaxWaiters>},
    {"keep_alive_ms", number<1, 604800000, kKeepAlive>},
    {"max_age_ms", number<1, 31536000000, kMaxAge>},
    {"max_uses", number<1, 1000000000, kMaxUses>},
    {"ping_after_ms", ping_after},
    {"provisioned", number<0, 10000, kProvisioned>},
    {"start_policy", start_policy},
    {"network", network},
    {"minimum_isolation", minimum_isolation},
    {"requires_key", flag<&Manifest::requires_key>},
    {"cancel_on_disconnect", flag<&Manifest::cancel_on_disconnect>},
    {"env", env},
    {"warmup", warm_up},
}};

}  // namespace

absl::StatusOr<Manifest> parse_manifest(std::string_view text) {
  const absl::StatusOr<value> document = json::parse("function.json", text);
  if (!document.ok()) return document.status();
  if (!document->is_object())
    return absl::InvalidArgumentError(
        absl::StrCat("function.json: is ", shown(*document), ", must be an object"));

  Manifest manifest;
  manifest.handler.clear();
  for (const auto& [key, content] : document->get_object()) {
    const std::string_view name(key.data(), key.size());
    const auto field =
        std::find_if(kFields.begin(), kFields.end(), [&](const Field& f) { return f.name == name; });
    if (field == kFields.end()) {
      std::array<std::string_view, kFields.size()> known;
      std::transform(kFields.begin(), kFields.end(), known.begin(), [](const Field& f) { return f.name; });
      return unknown_field("", name, known);
    }
    if (absl::Status status = field->take(std::string(name), content, manifest); !status.ok()) return status;
  }
  if (manifest.handler.empty()) {
    manifest.handler = manifest.runtime == "python3" ? "main:handler"
                       : manifest.runtime == "node"  ? "index:handler"
                                                     : "main";
  }
  if (manifest.provisioned > manifest.caps.max_sandboxes)
    return wrong("provisioned", absl::StrCat(manifest.provisioned),
                 absl::StrCat("at most max_sandboxes, ", manifest.caps.max_sandboxes));
  return manifest;
}

FunctionSpec make_spec(const Manifest& manifest, std::string name, Version version, std::string code_path) {
  return {.name = std::move(name),
          .version = version,
          .runtime = manifest.runtime,
          .code_path = std::move(code_path),
          .handler = manifest.handler,
          .env = manifest.env,
          .limits = manifest.limits,
          .network = manifest.network,
          .minimum_isolation = manifest.minimum_isolation};
}

}  // namespace faaskit::code
