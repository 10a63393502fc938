// If these failed, a mistyped limit would be no limit, and nobody would be told.
#include "faaskit/code/manifest.h"

#include <string>

#include "catch.hpp"

namespace faaskit::code {
namespace {

std::string refused(std::string_view text) {
  const absl::StatusOr<Manifest> manifest = parse_manifest(text);
  if (manifest.ok()) return "taken";
  CHECK(manifest.status().code() == absl::StatusCode::kInvalidArgument);
  return std::string(manifest.status().message());
}

std::string text_of(const WarmUpPayload& call) {
  return {reinterpret_cast<const char*>(call.payload.data()), call.payload.size()};
}

}  // namespace

TEST_CASE("an empty manifest is all defaults", "[code][manifest]") {
  const auto manifest = parse_manifest("{}");
  REQUIRE(manifest.ok());
  CHECK(manifest->runtime == "python3");
  CHECK(manifest->handler == "main:handler");
  CHECK(manifest->timeout == std::chrono::seconds(30));
  CHECK(manifest->limits.memory_bytes == 256u << 20);
  CHECK(manifest->limits.pids == 64);
  CHECK(manifest->limits.cpu_weight == 100);
  CHECK_FALSE(manifest->limits.cpu_max_milli.has_value());
  CHECK(manifest->caps.max_sandboxes == 16);
  CHECK(manifest->caps.max_waiters == 1024);
  CHECK(manifest->keep_alive == std::chrono::minutes(10));
  CHECK_FALSE(manifest->max_age.has_value());
  CHECK_FALSE(manifest->max_uses.has_value());
  CHECK(manifest->ping_after == std::chrono::minutes(1));
  CHECK(manifest->provisioned == 0);
  CHECK(manifest->start_policy == StartPolicy::race);
  CHECK(manifest->network == Network::none);
  CHECK(manifest->minimum_isolation == Isolation::process);
  CHECK_FALSE(manifest->requires_key);
  CHECK_FALSE(manifest->cancel_on_disconnect);
  CHECK(manifest->env.empty());
  CHECK(manifest->warm_up.empty());
  CHECK(parse_manifest(R"({"runtime": "node"})")->handler == "index:handler");
  CHECK(parse_manifest(R"({"runtime": "exec"})")->handler == "main");
}

TEST_CASE("every field arrives where it belongs, in its unit", "[code][manifest]") {
  const auto manifest = parse_manifest(R"({
    "runtime": "node", "handler": "app:run", "timeout_ms": 1500, "memory_mb": 64, "cpu_weight": 50,
    "cpu_max": 0.5, "pids": 12, "max_sandboxes": 30, "max_waiters": 7, "keep_alive_ms": 2000,
    "max_age_ms": 86400000, "max_uses": 500, "ping_after_ms": 5000, "cancel_on_disconnect": true,
    "provisioned": 30, "start_policy": "wait_only", "network": "loopback", "minimum_isolation": "partial",
    "requires_key": true, "env": {"B": "2", "A": "1"},
    "warmup": ["{}", {"payload": "AAEC", "base64": true, "content_type": "image/png"}]})");
  REQUIRE(manifest.ok());
  CHECK(manifest->runtime == "node");
  CHECK(manifest->handler == "app:run");
  CHECK(manifest->timeout == std::chrono::milliseconds(1500));
  CHECK(manifest->limits.memory_bytes == 64u << 20);
  CHECK(manifest->limits.cpu_weight == 50);
  CHECK(manifest->limits.cpu_max_milli == 500u);
  CHECK(manifest->limits.pids == 12);
  CHECK(manifest->caps.max_sandboxes == 30);
  CHECK(manifest->caps.max_waiters == 7);
  CHECK(manifest->keep_alive == std::chrono::seconds(2));
  CHECK(manifest->max_age == std::chrono::hours(24));
  CHECK(manifest->max_uses == 500u);
  CHECK(manifest->ping_after == std::chrono::seconds(5));
  CHECK_FALSE(parse_manifest(R"({"ping_after_ms": "never"})")->ping_after.has_value());
  CHECK(manifest->provisioned == 30);
  CHECK(manifest->start_policy == StartPolicy::wait_only);
  CHECK(manifest->network == Network::loopback);
  CHECK(manifest->minimum_isolation == Isolation::partial);
  CHECK(manifest->requires_key);
  CHECK(manifest->cancel_on_disconnect);
  CHECK(manifest->env == std::vector<std::pair<std::string, std::string>>{{"B", "2"}, {"A", "1"}});
  REQUIRE(manifest->warm_up.size() == 2);
  CHECK(text_of(manifest->warm_up[0]) == "{}");
  CHECK(text_of(manifest->warm_up[1]) == std::string("\0\1\2", 3));
  CHECK(manifest->warm_up[1].content_type == "image/png");

  const FunctionSpec spec = make_spec(*manifest, "f", 3, "/code/f");
  CHECK(spec.name == "f");
  CHECK(spec.version == 3);
  CHECK(spec.runtime == "node");
  CHECK(spec.handler == "app:run");
  CHECK(spec.code_path == "/code/f");
  CHECK(spec.limits.cpu_max_milli == 500u);
  CHECK(spec.network == Network::loopback);
  CHECK(spec.minimum_isolation == Isolation::partial);
  CHECK(spec.env.size() == 2);
}

TEST_CASE("what is unknown is named, with what was probably meant", "[code][manifest]") {
  CHECK(refused(R"({"timeout": 1})") ==
        "function.json: unknown field \"timeout\"; did you mean 'timeout_ms'?");
  CHECK(refused(R"({"memory": 1})") == "function.json: unknown field \"memory\"; did you mean 'memory_mb'?");
  CHECK(refused(R"({"pid": 1})") == "function.json: unknown field \"pid\"; did you mean 'pids'?");
  CHECK(refused(R"({"wholly_other": 1})") == "function.json: unknown field \"wholly_other\"");
  CHECK(refused(R"({"warmup": [{"content-type": "a"}]})") ==
        "function.json: warmup[0]: unknown field \"content-type\"; did you mean 'content_type'?");
  CHECK(refused("{\"" + std::string(5000, 'x') + "\": 1}").size() < 200);
}

TEST_CASE("a wrong type or range is refused by name, with the value and the limit", "[code][manifest]") {
  CHECK(refused(R"({"timeout_ms": 0})") == "function.json: timeout_ms is 0, must be 1 to 3600000");
  CHECK(refused(R"({"timeout_ms": 3600001})") ==
        "function.json: timeout_ms is 3600001, must be 1 to 3600000");
  CHECK(refused(R"({"timeout_ms": "30"})") ==
        "function.json: timeout_ms is \"30\", must be a whole number, 1 to 3600000");
  CHECK(refused(R"({"timeout_ms": 1.5})") ==
        "function.json: timeout_ms is 1.5E0, must be a whole number, 1 to 3600000");
  CHECK(refused(R"({"max_waiters": 18446744073709551615})") ==
        "function.json: max_waiters is 18446744073709551615, must be 1 to 1000000");
  CHECK(refused(R"({"pids": null})") == "function.json: pids is null, must be a whole number, 1 to 32768");
  CHECK(refused(R"({"cpu_max": 0})") == "function.json: cpu_max is 0, must be 0.01 to 1024 CPUs");
  CHECK(refused(R"({"cpu_max": "1"})") == "function.json: cpu_max is \"1\", must be 0.01 to 1024 CPUs");
  CHECK(refused(R"({"runtime": "ruby"})") ==
        "function.json: runtime is \"ruby\", must be one of \"python3\", \"node\", \"exec\"");
  CHECK(refused(R"({"network": true})") ==
        "function.json: network is true, must be one of \"none\", \"loopback\", \"host\"");
  CHECK(refused(R"({"handler": ""})") ==
        "function.json: handler is \"\", must be 1 to 256 bytes without control characters");
  CHECK(refused(R"({"handler": "a\nb"})") ==
        "function.json: handler is \"a\\nb\", must be 1 to 256 bytes without control characters");
  CHECK(refused(R"({"requires_key": 1})") == "function.json: requires_key is 1, must be true or false");
  CHECK(refused(R"({"cancel_on_disconnect": "yes"})") ==
        "function.json: cancel_on_disconnect is \"yes\", must be true or false");
  CHECK(refused(R"({"max_age_ms": 0})") == "function.json: max_age_ms is 0, must be 1 to 31536000000");
  CHECK(refused(R"({"max_age_ms": null})") ==
        "function.json: max_age_ms is null, must be a whole number, 1 to 31536000000");
  CHECK(refused(R"({"max_uses": 0})") == "function.json: max_uses is 0, must be 1 to 1000000000");
  for (const char* value : {"0", "604800001", "null", "1.5E0", "\"always\""}) {
    CHECK(refused(std::string(R"({"ping_after_ms": )") + value + "}") ==
          std::string("function.json: ping_after_ms is ") + value + ", must be 1 to 604800000, or \"never\"");
  }
  CHECK(refused(R"({"provisioned": 17})") ==
        "function.json: provisioned is 17, must be at most max_sandboxes, 16");
  CHECK(refused(R"({"env": []})") == "function.json: env is [], must be an object of texts");
  CHECK(refused(R"({"env": {"A": 1}})") == "function.json: env.A is 1, must be text");
  CHECK(refused(R"({"env": {"A=B": "1"}})") ==
        "function.json: env has the name \"A=B\", names must be [A-Za-z_][A-Za-z0-9_]*");
  CHECK(refused(R"({"env": {"A": "x\u0000y"}})") ==
        "function.json: env.A is \"x\\u0000y\", must be without zero bytes");
  CHECK(refused("{\"env\": {\"A\": \"" + std::string(70000, 'x') + "\"}}") ==
        "function.json: env holds 70003 bytes, limit 65536");
  CHECK(refused(R"({"warmup": "x"})") == "function.json: warmup is \"x\", must be an array of payloads");
  CHECK(refused(R"({"warmup": [1]})") == "function.json: warmup[0] is 1, must be text or an object");
  CHECK(refused(R"({"warmup": [{"payload": "?", "base64": true}]})") ==
        "function.json: warmup[0].payload is \"?\", must be base64");
  CHECK(refused(R"({"warmup": ["","","","","","","","","","","","","","","","",""]})") ==
        "function.json: warmup has 17 calls, limit 16");
  CHECK(refused("[]") == "function.json: is [], must be an object");
}

TEST_CASE("what is not one JSON object without repetitions is refused", "[code][manifest]") {
  CHECK_THAT(refused(""), ContainsSubstring("not JSON"));
  CHECK_THAT(refused("{"), ContainsSubstring("not JSON"));
  CHECK_THAT(refused("{} {}"), ContainsSubstring("not JSON"));
  CHECK_THAT(refused(R"({"pids": 1, "pids": 2})"), ContainsSubstring("'pids' comes twice"));
  CHECK_THAT(refused(std::string(100, '[')), ContainsSubstring("not JSON"));
  CHECK_THAT(refused(std::string((1 << 20) + 1, ' ')), ContainsSubstring("limit 1048576"));
}

TEST_CASE("a manifest damaged in any one byte is taken or refused, and never more", "[code][manifest]") {
  const std::string good =
      R"({"runtime":"exec","cpu_max":1.5,"env":{"A":"b"},"warmup":["x",{"payload":"QQ==","base64":true}]})";
  REQUIRE(parse_manifest(good).ok());
  int refusals = 0;
  for (std::size_t i = 0; i < good.size(); ++i) {
    for (const int byte : {0, 0x22, 0x2c, 0x39, 0x5b, 0x7d, 0x80, 0xff}) {
      std::string bad = good;
      bad[i] = static_cast<char>(byte);
      if (!parse_manifest(bad).ok()) ++refusals;
    }
    CHECK_FALSE(parse_manifest(good.substr(0, i)).ok());
  }
  CHECK(refusals > 400);
}

}  // namespace faaskit::code
