// The API: from a request's head to the part that answers it.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include <boost/asio/any_io_executor.hpp>

#include "access.h"
#include "errors.h"
#include "faaskit/sinks/log_files.h"
#include "faaskit/sinks/metrics.h"
#include "faaskit/sinks/records.h"
#include "functions.h"
#include "http.h"
#include "listener.h"
#include "router.h"
#include "state.h"

namespace mini {

struct ApiOptions {
  bool open_metrics = false;
  std::uint64_t max_payload_bytes = 6 << 20;
  std::uint64_t max_archive_bytes = 256 << 20;
};

// All outlive it.
struct ApiParts {
  const State* state = nullptr;
  const Access* access = nullptr;
  Functions* functions = nullptr;
  faaskit::local::Platform* platform = nullptr;
  faaskit::CodeStore* codes = nullptr;
  faaskit::sinks::LogFileSink* logs = nullptr;
  faaskit::sinks::RecordFileSink* record_file = nullptr;
  faaskit::sinks::RecordRing* records = nullptr;
  faaskit::sinks::MetricsSink* metrics = nullptr;
  // For what blocks: the registry, files. Not the platform's own: it holds up no start.
  asio::any_io_executor desk{};
  // For deploys, which take long: they hold up neither views nor logs.
  asio::any_io_executor yard{};
};

class Api final : public Application {
 public:
  Api(ApiParts parts, ApiOptions options) : parts_(std::move(parts)), options_(options) {}

  // Once it listens.
  void set_door(const Listener* door) { door_ = door; }
  // New invocations are answered with 503.
  void stop() { stopping_ = true; }

  asio::awaitable<void> serve(Exchange& exchange) override;

 private:
  asio::awaitable<Response> administer(Exchange& exchange, Route route);
  asio::awaitable<absl::StatusOr<Response>> deploy(Exchange& exchange, std::string name, std::string owner);
  absl::StatusOr<Response> act(const Request& request, const Route& route, const std::string& owner);
  absl::Status check_owner(const std::string& name, const std::string& owner) const;

  const ApiParts parts_;
  const ApiOptions options_;
  std::atomic<const Listener*> door_{nullptr};
  std::atomic<bool> stopping_{false};
};

// -- invocation.cc

struct InvocationParts {
  faaskit::local::Platform* platform = nullptr;
  KnownPtr function{};
  Caller caller{};
  bool web = false;
  std::string web_path{};  // with its query
  std::uint64_t max_payload_bytes = 0;
};
asio::awaitable<void> serve_invocation(Exchange& exchange, InvocationParts parts);

// -- views.cc: what GET answers

std::string function_json(const Known& known, const std::vector<faaskit::RegisteredFunction>& versions,
                          const faaskit::QueueStats& stats);
std::string functions_json(const std::vector<KnownPtr>& functions);
std::string keys_json(const Known& known);
std::string sandboxes_json(const std::vector<faaskit::SandboxView>& sandboxes);
std::string stats_json(const ApiParts& parts, const Listener* door);
absl::StatusOr<std::string> records_json(const ApiParts& parts, const Request& request);
absl::StatusOr<Response> logs_response(const ApiParts& parts, const Request& request,
                                       const std::string& function);
std::string metrics_text(const ApiParts& parts, const Listener* door);

}  // namespace mini
