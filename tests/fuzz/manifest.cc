// function.json of strangers: what is taken is within the limits that its contract names, and reads the same
// when it is written again.
#include "faaskit/code/manifest.h"

#include <absl/status/status.h>

#include "input.h"
#include "json/json.h"

namespace {

using faaskit::code::Manifest;

template <typename Value>
bool within(Value value, Value least, Value most) {
  return value >= least && value <= most;
}

void check_bounds(const Manifest& m) {
  FUZZ_CHECK(m.runtime == "python3" || m.runtime == "node" || m.runtime == "exec");
  FUZZ_CHECK(within<std::size_t>(m.handler.size(), 1, 256));
  FUZZ_CHECK(within<std::int64_t>(m.timeout.count(), 1, 3600000));
  FUZZ_CHECK(within<std::int64_t>(m.keep_alive.count(), 1, 604800000));
  FUZZ_CHECK(within<std::uint64_t>(m.caps.max_sandboxes, 1, 10000));
  FUZZ_CHECK(within<std::uint64_t>(m.caps.max_waiters, 1, 1000000));
  FUZZ_CHECK(m.provisioned <= m.caps.max_sandboxes);
  FUZZ_CHECK(!m.max_age || within<std::int64_t>(m.max_age->count(), 1, 31536000000));
  FUZZ_CHECK(!m.max_uses || within<std::uint64_t>(*m.max_uses, 1, 1000000000));
  FUZZ_CHECK(!m.ping_after || within<std::int64_t>(m.ping_after->count(), 1, 604800000));
  FUZZ_CHECK(m.warm_up.size() <= 16);
  std::size_t environment = 0;
  for (const auto& [name, value] : m.env) {
    environment += name.size() + value.size();
    FUZZ_CHECK(!name.empty() && name.find_first_of(std::string_view("=\0", 2)) == std::string::npos);
    FUZZ_CHECK(value.find('\0') == std::string::npos);
  }
  FUZZ_CHECK(environment <= 64 << 10);
  for (const auto& call : m.warm_up) FUZZ_CHECK(call.content_type.find_first_of("\r\n") == std::string::npos);
}

boost::json::string_view view(std::string_view text) { return {text.data(), text.size()}; }

// The fields that are plain numbers and texts.
std::string print(const Manifest& m) {
  boost::json::object env;
  for (const auto& [name, value] : m.env) env[view(name)] = view(value);
  boost::json::object fields{{"runtime", view(m.runtime)},
                             {"handler", view(m.handler)},
                             {"timeout_ms", m.timeout.count()},
                             {"keep_alive_ms", m.keep_alive.count()},
                             {"max_sandboxes", m.caps.max_sandboxes},
                             {"max_waiters", m.caps.max_waiters},
                             {"provisioned", m.provisioned},
                             {"requires_key", m.requires_key},
                             {"cancel_on_disconnect", m.cancel_on_disconnect},
                             {"env", env}};
  if (m.max_age) fields["max_age_ms"] = m.max_age->count();
  if (m.max_uses) fields["max_uses"] = *m.max_uses;
  fields["ping_after_ms"] = "never";
  if (m.ping_after) fields["ping_after_ms"] = m.ping_after->count();
  return boost::json::serialize(fields);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const auto manifest = faaskit::code::parse_manifest(text);
  if (!manifest.ok()) {
    FUZZ_CHECK(absl::IsInvalidArgument(manifest.status()));
    FUZZ_CHECK(std::string(manifest.status().message()).starts_with("function.json: "));
    // For a terminal, or a header: nothing of the stranger's unescaped.
    for (const char c : manifest.status().message()) FUZZ_CHECK(static_cast<unsigned char>(c) >= 0x20);
    return 0;
  }
  check_bounds(*manifest);
  const auto again = faaskit::code::parse_manifest(print(*manifest));
  FUZZ_CHECK(again.ok());
  FUZZ_CHECK(print(*again) == print(*manifest));
  FUZZ_CHECK(again->env == manifest->env);
  const auto spec = faaskit::code::make_spec(*manifest, "f", {}, "/code");
  (void)spec;
  return 0;
}
