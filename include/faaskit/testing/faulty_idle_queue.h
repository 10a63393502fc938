// FaultyIdleQueue: an IdleQueue behind a bad network, over any IdleQueue.
//
//   request_lost  it never happened, and the caller is told kUnavailable
//   reply_lost    it *did* happen, and the caller is told kUnavailable; a lease stays granted in the engine
//                 until the request is repeated, cancelled or repaired
//   duplicated    it happens twice in a row; the caller gets one answer
//   late          it happens, is answered, and happens once more when deliver_late() is called
//                 (acquire: as duplicated; who gives back a late grant is the invoker's part)
//
// Every operation may be scripted, one by one, or drawn from a seed. Like a backend that must ask somebody
// else, it answers nullopt to try_acquire() and try_offer(), so that all ways lead over the network.
// Thread safety: every member from any thread.
#pragma once

#include <cstdint>
#include <memory>

#include "faaskit/core/export.h"
#include "faaskit/port/idle_queue_wrapper.h"

namespace faaskit::testing {

enum class Fault : std::uint8_t { none, request_lost, reply_lost, duplicated, late };

enum class Operation : std::uint8_t {
  acquire,
  cancel,
  define,
  remove,
  claim,
  offer,
  settle,
  withdraw,
  start_failed,
  gone,
  announce,
  purge,
  drain,
  take_over,
  repair,
};

class FAASKIT_EXPORT FaultyIdleQueue final : public IdleQueueWrapper {
 public:
  // Out of 1000 operations; what remains is not disturbed.
  struct Rates {
    std::uint32_t request_lost = 0;
    std::uint32_t reply_lost = 0;
    std::uint32_t duplicated = 0;
    std::uint32_t late = 0;
  };

  explicit FaultyIdleQueue(std::shared_ptr<IdleQueue> target);
  ~FaultyIdleQueue() override;

  // Scripted: the next operation of this kind meets `fault`; several are used up in order.
  void on_next(Operation operation, Fault fault);
  // Drawn: every operation without a script. The same seed and the same order of calls give the same faults.
  void disturb(std::uint64_t seed, Rates rates);
  // Sends the repeats that `late` held back; returns how many.
  std::size_t deliver_late();
  // Faults that were injected, of any kind but none.
  std::uint64_t injected() const;

  std::optional<Lease> try_acquire(const TryAcquireParams& params) override;
  std::optional<absl::Status> try_offer(const OfferParams& params) override;

 private:
  struct State;
  template <class Result, class Params, class Forward>
  void send(Operation operation, Params params, asio::any_io_executor home, Handler<Result> done,
            Forward forward);

  void do_acquire(AcquireParams params, asio::any_io_executor home,
                  Handler<absl::StatusOr<Lease>> done) override;
  void do_cancel(CancelParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_define(DefineParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_remove(RemoveParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_claim(ClaimParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_offer(OfferParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_settle(SettleParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_withdraw(WithdrawParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_start_failed(StartFailedParams params, asio::any_io_executor home,
                       Handler<absl::Status> done) override;
  void do_gone(GoneParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_announce(AnnounceParams params, asio::any_io_executor home,
                   Handler<absl::StatusOr<std::vector<HeldSandbox>>> done) override;
  void do_purge(InvokerParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_drain(HostParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_take_over(HostParams params, asio::any_io_executor home, Handler<absl::Status> done) override;
  void do_repair(InvokerParams params, asio::any_io_executor home,
                 Handler<absl::StatusOr<RepairReport>> done) override;

  const std::shared_ptr<State> state_;
};

}  // namespace faaskit::testing
