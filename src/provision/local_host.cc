#include "faaskit/provision/local_host.h"

#include <future>
#include <utility>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>
#include <boost/asio/post.hpp>

#include "provision/host.h"

namespace faaskit {
namespace {

class LocalHostImpl final : public LocalHost {
 public:
  explicit LocalHostImpl(std::shared_ptr<Host> host) : host_(std::move(host)) {}
  ~LocalHostImpl() override { host_->give_up(); }

  executor_type get_executor() const override { return host_->control(); }
  HostId id() const override { return host_->id(); }
  absl::Status deploy(HostedFunction function) override { return host_->deploy(std::move(function)); }
  absl::Status remove(std::string_view function) override { return host_->remove(function); }

  std::vector<SandboxView> sandboxes() const override {
    std::vector<SandboxView> views;
    for (const SandboxPtr& sandbox : host_->all()) views.push_back(sandbox->view());
    return views;
  }

  std::optional<KernelCheck> check_kernel(SandboxId id) const override {
    SandboxPtr sandbox = host_->find(id);
    if (!sandbox) return std::nullopt;
    std::promise<std::optional<bool>> promise;
    std::future<std::optional<bool>> answer = promise.get_future();
    KernelCheck check;
    check.before = sandbox->view();
    asio::post(sandbox->shard().executor, [sandbox, promise = std::move(promise)]() mutable {
      promise.set_value(sandbox->kernel_frozen());
    });
    if (answer.wait_for(std::chrono::seconds(2)) != std::future_status::ready) return std::nullopt;
    const std::optional<bool> frozen = answer.get();
    if (!frozen) return std::nullopt;
    check.frozen = *frozen;
    check.after = sandbox->view();
    return check;
  }

  absl::Status destroy(SandboxId id) override {
    SandboxPtr sandbox = host_->find(id);
    if (!sandbox)
      return absl::NotFoundError(absl::StrCat("destroy: no sandbox ", to_string(id), " on this host"));
    asio::post(sandbox->shard().executor,
               [sandbox] { sandbox->dismiss(absl::CancelledError("destroyed by the host application")); });
    return absl::OkStatus();
  }

 private:
  void do_call(HostCall call, asio::any_io_executor home, Handler<HostReply> done) override {
    host_->call(std::move(call), std::move(home), std::move(done));
  }
  void do_stop(StopParams, asio::any_io_executor home, Handler<absl::Status> done) override {
    host_->stop(std::move(home), std::move(done));
  }

  const std::shared_ptr<Host> host_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<LocalHost>> make_local_host(HostExecutors executors, LocalHostParts parts,
                                                           LocalHostOptions options) {
  if (executors.shards.empty() || !executors.blocking) {
    return absl::InvalidArgumentError(
        "make_local_host: at least one shard and a blocking executor are needed");
  }
  if (options.limits.max_sandboxes == 0 || options.limits.max_concurrent_starts == 0) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "make_local_host: max_sandboxes %d, max_concurrent_starts %d: both must be at least 1",
        options.limits.max_sandboxes, options.limits.max_concurrent_starts));
  }
  if (options.limits.max_memory_bytes == 0 || options.limits.room_wait.count() <= 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("make_local_host: max_memory_bytes %d, room_wait %d ms: both must be positive",
                        options.limits.max_memory_bytes, options.limits.room_wait.count()));
  }
  if (options.grace.count() < 0 || options.announce_period.count() <= 0) {
    return absl::InvalidArgumentError(
        "make_local_host: grace must not be negative, announce_period must be positive");
  }
  if (parts.idle == nullptr || parts.starts == nullptr || !parts.freezer || !parts.factory ||
      !parts.channels) {
    return absl::InvalidArgumentError(
        "make_local_host: idle, starts, freezer, factory and channels must be given");
  }
  if (!parts.clock) parts.clock = make_steady_clock();
  auto host = std::make_shared<Host>(std::move(executors), std::move(parts), options);
  host->begin();
  return std::make_unique<LocalHostImpl>(std::move(host));
}

}  // namespace faaskit
