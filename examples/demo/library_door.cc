#include <iostream>

#include <absl/strings/str_format.h>
#include <boost/asio/use_future.hpp>

#include "door.h"

namespace demo {
namespace {

using namespace std::chrono_literals;

class PrintEvents final : public faaskit::EventSink {
 public:
  void emit(faaskit::Event event) override {
    // One insertion per line: any thread may be here.
    std::cerr << absl::StrFormat("event: %s %s %s\n", event.name, event.function, event.detail);
  }
};

class LibraryDoor final : public Door {
 public:
  explicit LibraryDoor(std::unique_ptr<faaskit::local::Platform> platform) : platform_(std::move(platform)) {}

  std::string machine() override {
    return absl::StrFormat("through the library; freezer %s; limits %s; isolation %s",
                           to_string(platform_->freezer().kind()), platform_->freezer().limits_source(),
                           to_string(platform_->factory().isolation()));
  }
  absl::Status deploy(const faaskit::local::Function& function) override {
    faaskit::local::Function ours = function;
    // These functions are our own: whatever isolation the machine has will do, and the demo says which.
    ours.minimum_isolation = platform_->factory().isolation();
    return platform_->deploy(std::move(ours));
  }
  absl::Status remove(const std::string& function) override { return platform_->remove(function); }
  std::future<faaskit::InvocationResult> begin(const std::string& function,
                                               std::string_view payload) override {
    const auto bytes = std::as_bytes(std::span(payload));
    return platform_->async_invoke(function, {bytes.begin(), bytes.end()}, {.timeout = 120s},
                                   boost::asio::use_future);
  }
  absl::StatusOr<faaskit::QueueStats> stats(const std::string& function) override {
    return platform_->stats(function);
  }
  absl::StatusOr<std::optional<Frozen>> frozen() override {
    if (platform_->freezer().kind() == faaskit::FreezerKind::none) return std::nullopt;
    Frozen count;
    for (const faaskit::SandboxView& sandbox : platform_->sandboxes()) {
      ++count.idle;
      const auto check = platform_->host().check_kernel(sandbox.id);
      // An answer counts only for a sandbox that stood still while the question was asked.
      if (check && check->frozen && check->before.generation == check->after.generation) ++count.frozen;
    }
    return count;
  }
  void give_up() override {
    platform_->invoker().async_stop([](const absl::Status&) {});
  }
  absl::Status stop() override { return platform_->stop(); }

 private:
  const std::unique_ptr<faaskit::local::Platform> platform_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Door>> open_library(const Options& options) {
  faaskit::local::PlatformOptions wanted;
  wanted.instance = options.instance;
  if (!options.runtime_dir.empty()) wanted.runtime_dir = options.runtime_dir;
  // Eight slow starts at once on a small, busy machine.
  wanted.channel.hello_timeout = 60s;
  if (options.verbose) wanted.events = std::make_shared<PrintEvents>();
  absl::StatusOr<std::unique_ptr<faaskit::local::Platform>> platform = faaskit::local::make_platform(wanted);
  if (!platform.ok()) return platform.status();
  return std::make_unique<LibraryDoor>(*std::move(platform));
}

}  // namespace demo
