// Door: how the demo reaches its functions. The scenes are the same through the library and over HTTP.
#pragma once

#include <future>
#include <memory>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/core/queue_types.h"
#include "faaskit/invoke/invoker.h"
#include "faaskit/local/platform.h"

namespace demo {

struct Options {
  bool library = false;
  std::string input;
  std::string json;
  std::string instance;
  std::string runtime_dir;
  std::string spike_init = "sleep";
  int spike_seconds = 8;
  bool spike = true;
  bool verbose = false;
};

struct Frozen {
  std::size_t idle = 0;    // sandboxes there are
  std::size_t frozen = 0;  // of those, the ones that the kernel says are frozen
};

// Thread safety: begin() and give_up() from any thread.
class Door {
 public:
  virtual ~Door() = default;
  // What this machine gives; one line.
  virtual std::string machine() = 0;
  virtual absl::Status deploy(const faaskit::local::Function& function) = 0;
  virtual absl::Status remove(const std::string& function) = 0;
  virtual std::future<faaskit::InvocationResult> begin(const std::string& function,
                                                       std::string_view payload) = 0;
  virtual absl::StatusOr<faaskit::QueueStats> stats(const std::string& function) = 0;
  // nullopt: nothing here freezes.
  virtual absl::StatusOr<std::optional<Frozen>> frozen() = 0;
  // Ends what waits.
  virtual void give_up() = 0;
  virtual absl::Status stop() = 0;
};

absl::StatusOr<std::unique_ptr<Door>> open_library(const Options& options);
// Starts the mini-platform beside this program, on a port of its own.
absl::StatusOr<std::unique_ptr<Door>> open_http(const Options& options);

}  // namespace demo
