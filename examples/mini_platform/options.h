// What the command line says.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/statusor.h>

#include "faaskit/local/platform.h"

namespace mini {

extern const std::string_view kUsage;

struct Options {
  std::string address = "127.0.0.1";
  std::uint16_t port = 8080;
  std::string
      functions_dir{};        // empty: the folder `faaskit-mini.functions` beside the program, if it is there
  std::string state_dir{};    // empty: /var/lib/faaskit-mini for root, else ~/.local/state/faaskit-mini
  std::string runtime_dir{};  // empty: /run/faaskit for root, else one in the state folder
  std::string instance{};
  std::vector<std::string> hosts{};
  std::vector<std::string> origins{};
  bool open_metrics = false;
  std::string jwt_hs256_file{}, jwt_rs256_file{}, jwt_eddsa_file{}, jwt_audience{}, jwt_issuer{};
  bool jwt_deploy = false;
  std::uint32_t shards = 1;
  std::uint32_t max_sandboxes = 512;
  std::uint64_t max_memory_mb = 0;  // 0: no budget
  std::uint32_t max_functions = 100'000;
  std::uint32_t max_starts = 0;  // 0: the library's own
  std::uint32_t max_connections = 10000;
  std::uint64_t max_payload_bytes = 6 << 20;
  std::uint64_t max_archive_bytes = 256 << 20;
  std::uint64_t disk_budget_bytes = 4ull << 30;
  std::chrono::milliseconds grace = std::chrono::seconds(10);
  std::chrono::milliseconds head_timeout = std::chrono::seconds(10);
  std::chrono::milliseconds idle_timeout = std::chrono::seconds(60);
  faaskit::local::FreezerChoice freezer = faaskit::local::FreezerChoice::automatic;
  faaskit::FreezePolicy freeze = faaskit::FreezePolicy::after_grace;
  // Functions that ask for process isolation get this where the machine has no more.
  faaskit::Isolation minimum_isolation = faaskit::Isolation::process;
  bool allow_host_network = false;
  // From the start of a function's program until it can be called.
  std::chrono::milliseconds start_timeout = std::chrono::seconds(30);
  std::string port_file{};
  int ready_fd = -1;
  bool stop_on_stdin_eof = false;
  bool verbose = false;
  bool help = false;
};

// kInvalidArgument names the option.
absl::StatusOr<Options> parse_options(int argc, char** argv);

}  // namespace mini
