// IdleQueueWrapper: an IdleQueue that forwards everything to another one. Metrics, rate limits and faults
// derive from it and override what they are about.
//
// Contract: that of IdleQueue, kept by the target. Handles and leases are the target's own.
#pragma once

#include <cassert>
#include <memory>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "faaskit/core/export.h"
#include "faaskit/port/idle_queue.h"

namespace faaskit {

class FAASKIT_EXPORT IdleQueueWrapper : public IdleQueue {
 public:
  // REQUIRES: `target` is not null.
  explicit IdleQueueWrapper(std::shared_ptr<IdleQueue> target) : target_(std::move(target)) {
    assert(target_);
  }

  executor_type get_executor() const override { return target_->get_executor(); }
  absl::StatusOr<FunctionHandle> resolve(std::string_view function) override {
    return target_->resolve(function);
  }
  std::string_view name(FunctionHandle function) const override { return target_->name(function); }
  std::optional<Lease> try_acquire(const TryAcquireParams& params) override {
    return target_->try_acquire(params);
  }
  std::optional<absl::Status> try_offer(const OfferParams& params) override {
    return target_->try_offer(params);
  }
  [[nodiscard]] std::unique_ptr<Watch> watch_starts(InvokerId invoker, asio::any_io_executor executor,
                                                    StartsHandler starts) override {
    return target_->watch_starts(invoker, std::move(executor), std::move(starts));
  }
  [[nodiscard]] std::unique_ptr<Watch> watch_host(HostId host, asio::any_io_executor executor,
                                                  NoticeHandler notices) override {
    return target_->watch_host(host, std::move(executor), std::move(notices));
  }
  QueueStats stats(FunctionHandle function) const override { return target_->stats(function); }

 protected:
  IdleQueue& target() const { return *target_; }

  void do_acquire(AcquireParams params, asio::any_io_executor home,
                  Handler<absl::StatusOr<Lease>> done) override {
    target_->do_acquire(std::move(params), std::move(home), std::move(done));
  }
  void do_cancel(CancelParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_cancel(std::move(params), std::move(home), std::move(done));
  }
  void do_define(DefineParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_define(std::move(params), std::move(home), std::move(done));
  }
  void do_remove(RemoveParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_remove(std::move(params), std::move(home), std::move(done));
  }
  void do_claim(ClaimParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_claim(std::move(params), std::move(home), std::move(done));
  }
  void do_offer(OfferParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_offer(std::move(params), std::move(home), std::move(done));
  }
  void do_settle(SettleParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_settle(std::move(params), std::move(home), std::move(done));
  }
  void do_withdraw(WithdrawParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_withdraw(std::move(params), std::move(home), std::move(done));
  }
  void do_start_failed(StartFailedParams params, asio::any_io_executor home,
                       Handler<absl::Status> done) override {
    target_->do_start_failed(std::move(params), std::move(home), std::move(done));
  }
  void do_gone(GoneParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_gone(std::move(params), std::move(home), std::move(done));
  }
  void do_announce(AnnounceParams params, asio::any_io_executor home,
                   Handler<absl::StatusOr<std::vector<HeldSandbox>>> done) override {
    target_->do_announce(std::move(params), std::move(home), std::move(done));
  }
  void do_purge(InvokerParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_purge(std::move(params), std::move(home), std::move(done));
  }
  void do_drain(HostParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_drain(std::move(params), std::move(home), std::move(done));
  }
  void do_take_over(HostParams params, asio::any_io_executor home, Handler<absl::Status> done) override {
    target_->do_take_over(std::move(params), std::move(home), std::move(done));
  }
  void do_repair(InvokerParams params, asio::any_io_executor home,
                 Handler<absl::StatusOr<RepairReport>> done) override {
    target_->do_repair(std::move(params), std::move(home), std::move(done));
  }

 private:
  const std::shared_ptr<IdleQueue> target_;
};

}  // namespace faaskit
