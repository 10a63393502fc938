#include "faaskit/testing/faulty_idle_queue.h"

#include <array>
#include <deque>
#include <functional>
#include <mutex>
#include <random>
#include <type_traits>
#include <utility>

#include <boost/asio/associated_cancellation_slot.hpp>
#include <boost/asio/bind_cancellation_slot.hpp>

namespace faaskit::testing {

struct FaultyIdleQueue::State {
  static constexpr std::size_t kOperations = static_cast<std::size_t>(Operation::repair) + 1;

  mutable std::mutex mutex;
  std::array<std::deque<Fault>, kOperations> script;
  bool drawing = false;
  std::mt19937_64 random;
  Rates rates;
  std::uint64_t injected = 0;
  std::vector<std::function<void()>> held;
  // Granted, and nobody was told. To drop one here would retire its sandbox, which a lost reply does not.
  std::vector<Lease> lost;

  Fault next(Operation operation) {
    std::lock_guard lock(mutex);
    Fault fault = Fault::none;
    auto& planned = script[static_cast<std::size_t>(operation)];
    if (!planned.empty()) {
      fault = planned.front();
      planned.pop_front();
    } else if (drawing) {
      const std::uint64_t drawn = random() % 1000;
      std::uint64_t below = 0;
      if (drawn < (below += rates.request_lost)) {
        fault = Fault::request_lost;
      } else if (drawn < (below += rates.reply_lost)) {
        fault = Fault::reply_lost;
      } else if (drawn < (below += rates.duplicated)) {
        fault = Fault::duplicated;
      } else if (drawn < (below += rates.late)) {
        fault = Fault::late;
      }
    }
    if (fault != Fault::none) ++injected;
    return fault;
  }

  template <class Result>
  void lose(Result result) {
    if constexpr (std::is_same_v<Result, absl::StatusOr<Lease>>) {
      if (!result.ok()) return;
      std::lock_guard lock(mutex);
      lost.push_back(*std::move(result));
    }
  }
};

FaultyIdleQueue::FaultyIdleQueue(std::shared_ptr<IdleQueue> target)
    : IdleQueueWrapper(std::move(target)), state_(std::make_shared<State>()) {}

FaultyIdleQueue::~FaultyIdleQueue() = default;

void FaultyIdleQueue::on_next(Operation operation, Fault fault) {
  std::lock_guard lock(state_->mutex);
  state_->script[static_cast<std::size_t>(operation)].push_back(fault);
}

void FaultyIdleQueue::disturb(std::uint64_t seed, Rates rates) {
  std::lock_guard lock(state_->mutex);
  state_->drawing = true;
  state_->random.seed(seed);
  state_->rates = rates;
}

std::size_t FaultyIdleQueue::deliver_late() {
  std::vector<std::function<void()>> held;
  {
    std::lock_guard lock(state_->mutex);
    held.swap(state_->held);
  }
  for (const std::function<void()>& repeat : held) repeat();
  return held.size();
}

std::uint64_t FaultyIdleQueue::injected() const {
  std::lock_guard lock(state_->mutex);
  return state_->injected;
}

std::optional<Lease> FaultyIdleQueue::try_acquire(const TryAcquireParams&) { return std::nullopt; }

std::optional<absl::Status> FaultyIdleQueue::try_offer(const OfferParams&) { return std::nullopt; }

// `forward` is the base class's operation, which sends to the target.
template <class Result, class Params, class Forward>
void FaultyIdleQueue::send(Operation operation, Params params, asio::any_io_executor home,
                           Handler<Result> done, Forward forward) {
  Fault fault = state_->next(operation);
  if (fault == Fault::late && operation == Operation::acquire) fault = Fault::duplicated;
  const auto sink = [state = state_](Result result) { state->lose(std::move(result)); };
  switch (fault) {
    case Fault::none: return forward(std::move(params), std::move(home), std::move(done));
    case Fault::request_lost:
      return complete(home, std::move(done), Result(absl::UnavailableError("injected: request lost")));
    case Fault::reply_lost: {
      // What waits in the target stays cancellable.
      const auto slot = asio::get_associated_cancellation_slot(done);
      auto lose = [state = state_, done = std::move(done)](Result result) mutable {
        state->lose(std::move(result));
        std::move(done)(Result(absl::UnavailableError("injected: reply lost")));
      };
      return forward(std::move(params), std::move(home),
                     Handler<Result>(asio::bind_cancellation_slot(slot, std::move(lose))));
    }
    case Fault::duplicated:
      // The copy goes first: the one that has the last word answers the caller.
      forward(params, home, Handler<Result>(sink));
      return forward(std::move(params), std::move(home), std::move(done));
    case Fault::late: {
      {
        std::lock_guard lock(state_->mutex);
        state_->held.emplace_back(
            [forward, params, home, sink] { forward(params, home, Handler<Result>(sink)); });
      }
      return forward(std::move(params), std::move(home), std::move(done));
    }
  }
}

void FaultyIdleQueue::do_acquire(AcquireParams params, asio::any_io_executor home,
                                 Handler<absl::StatusOr<Lease>> done) {
  send(Operation::acquire, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_acquire(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_cancel(CancelParams params, asio::any_io_executor home, Handler<absl::Status> done) {
  send(Operation::cancel, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_cancel(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_define(DefineParams params, asio::any_io_executor home, Handler<absl::Status> done) {
  send(Operation::define, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_define(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_remove(RemoveParams params, asio::any_io_executor home, Handler<absl::Status> done) {
  send(Operation::remove, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_remove(std::forward<decltype(rest)>(rest)...); });
}
void FaultyIdleQueue::do_claim(ClaimParams params, asio::any_io_executor home, Handler<absl::Status> done) {
  send(Operation::claim, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_claim(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_offer(OfferParams params, asio::any_io_executor home, Handler<absl::Status> done) {
  send(Operation::offer, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_offer(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_settle(SettleParams params, asio::any_io_executor home, Handler<absl::Status> done) {
  send(Operation::settle, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_settle(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_withdraw(WithdrawParams params, asio::any_io_executor home,
                                  Handler<absl::Status> done) {
  send(Operation::withdraw, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_withdraw(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_start_failed(StartFailedParams params, asio::any_io_executor home,
                                      Handler<absl::Status> done) {
  send(Operation::start_failed, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_start_failed(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_gone(GoneParams params, asio::any_io_executor home, Handler<absl::Status> done) {
  send(Operation::gone, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_gone(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_announce(AnnounceParams params, asio::any_io_executor home,
                                  Handler<absl::StatusOr<std::vector<HeldSandbox>>> done) {
  send(Operation::announce, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_announce(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_purge(InvokerParams params, asio::any_io_executor home, Handler<absl::Status> done) {
  send(Operation::purge, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_purge(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_drain(HostParams params, asio::any_io_executor home, Handler<absl::Status> done) {
  send(Operation::drain, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_drain(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_take_over(HostParams params, asio::any_io_executor home,
                                   Handler<absl::Status> done) {
  send(Operation::take_over, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_take_over(std::forward<decltype(rest)>(rest)...); });
}

void FaultyIdleQueue::do_repair(InvokerParams params, asio::any_io_executor home,
                                Handler<absl::StatusOr<RepairReport>> done) {
  send(Operation::repair, std::move(params), std::move(home), std::move(done),
       [this](auto&&... rest) { IdleQueueWrapper::do_repair(std::forward<decltype(rest)>(rest)...); });
}

}  // namespace faaskit::testing
