// Manifest: function.json, what a function asks for, read strictly.
//
// One JSON object, at most 1 MiB. Every field may be left out:
//
//   field              default         what it may be
//   runtime            "python3"       "python3", "node", "exec"
//   handler            by the runtime  1 to 256 bytes of text; its form is FunctionSpec's. Defaults:
//                                      python3 "main:handler", node "index:handler", exec "main"
//   timeout_ms         30000           1 to 3600000: an invocation's, where its caller names none
//   memory_mb          256             1 to 1048576 MiB, of the whole sandbox
//   cpu_weight         100             1 to 10000: the share where CPUs are short
//   cpu_max            no limit        0.01 to 1024 CPUs: 0.5 is half of one
//   pids               64              1 to 32768: processes and threads of a sandbox
//   max_sandboxes      16              1 to 10000
//   max_waiters        1024            1 to 1000000 calls that wait; more are refused
//   keep_alive_ms      600000          1 to 604800000: an idle sandbox's life
//   max_age_ms         no limit        1 to 31536000000: an idle sandbox that is older is replaced
//   max_uses           no limit        1 to 1000000000 calls of one sandbox; then it is replaced
//   ping_after_ms      60000           1 to 604800000, or "never": a call that finds its sandbox idle for
//                                      longer asks first whether it still lives
//   provisioned        0               0 to max_sandboxes: kept live whether anybody calls or not
//   start_policy       "race"          "race", "wait_only"
//   network            "none"          "none", "loopback", "host"
//   minimum_isolation  "process"       "none", "partial", "process", "container", "microvm"
//   requires_key       false           whether a call needs one of the function's access keys
//   cancel_on_disconnect
//                      false           whether a caller that goes away ends its running call, and with it the
//                                      sandbox; one that waits is cancelled in any case
//   env                {}              names [A-Za-z_][A-Za-z0-9_]*, values text; 64 KiB in all
//   warmup             []              at most 16 calls made to a fresh sandbox before it serves: each the
//                                      payload as text, or
//                                      {"payload": text, "base64": true, "content_type": "image/png"}
//
// What is unknown, of the wrong type or out of range is refused by name, with its value and the limit.
// Pure: nothing is looked up, nothing is thrown for what the text holds.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <absl/status/statusor.h>

#include "faaskit/core/export.h"
#include "faaskit/core/function_config.h"
#include "faaskit/core/ids.h"
#include "faaskit/port/freezer.h"
#include "faaskit/port/sandbox_factory.h"

namespace faaskit::code {

struct WarmUpPayload {
  std::vector<std::byte> payload{};
  std::string content_type{};
};

struct Manifest {
  std::string runtime = "python3";
  std::string handler = "main:handler";
  std::chrono::milliseconds timeout = std::chrono::seconds(30);
  ResourceLimits limits = {};  // memory_mb, cpu_weight, cpu_max, pids
  FunctionCaps caps = {};      // max_sandboxes, max_waiters
  std::chrono::milliseconds keep_alive = std::chrono::minutes(10);
  std::optional<std::chrono::milliseconds> max_age{};
  std::optional<std::uint64_t> max_uses{};
  std::optional<std::chrono::milliseconds> ping_after = std::chrono::minutes(1);
  std::uint32_t provisioned = 0;
  StartPolicy start_policy = StartPolicy::race;
  Network network = Network::none;
  Isolation minimum_isolation = Isolation::process;
  bool requires_key = false;
  bool cancel_on_disconnect = false;
  std::vector<std::pair<std::string, std::string>> env{};  // in the file's order
  std::vector<WarmUpPayload> warm_up{};
};

// kInvalidArgument: "function.json: timeout_ms is 0, must be 1 to 3600000".
FAASKIT_EXPORT absl::StatusOr<Manifest> parse_manifest(std::string_view text);

// What is to run, as the manifest says it, with the code at `code_path`.
FAASKIT_EXPORT FunctionSpec make_spec(const Manifest& manifest, std::string name, Version version,
                                      std::string code_path);

}  // namespace faaskit::code
