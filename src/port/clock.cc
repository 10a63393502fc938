#include "faaskit/port/clock.h"

#include <atomic>
#include <cstdint>
#include <utility>

#include <boost/asio/dispatch.hpp>
#include <boost/asio/steady_timer.hpp>

namespace faaskit {
namespace {

// Asio's cancel() cannot take back a completion that is already queued, so each arming has a number
// and a late completion finds that it is no longer the current one.
class SteadyTimer final : public Timer {
 public:
  explicit SteadyTimer(asio::any_io_executor executor)
      : state_(std::make_shared<State>(std::move(executor))) {}
  // The owner may be on another thread than the executor, whose turn may hold a completion already.
  ~SteadyTimer() override {
    state_->dead.store(true, std::memory_order_release);
    asio::dispatch(state_->timer.get_executor(), [state = state_] {
      state->fire = nullptr;
      state->timer.cancel();
    });
  }

  void arm(TimePoint when, absl::AnyInvocable<void()> fire) override {
    const std::uint64_t round = ++state_->round;
    state_->fire = std::move(fire);
    state_->timer.expires_at(when);
    state_->timer.async_wait([state = state_, round](const boost::system::error_code&) {
      if (state->dead.load(std::memory_order_acquire) || state->round != round || !state->fire) return;
      absl::AnyInvocable<void()> now = std::exchange(state->fire, nullptr);
      now();
    });
  }

  void cancel() override {
    ++state_->round;
    state_->fire = nullptr;
    state_->timer.cancel();
  }

 private:
  struct State {
    explicit State(asio::any_io_executor executor) : timer(std::move(executor)) {}
    asio::steady_timer timer;
    absl::AnyInvocable<void()> fire;
    std::uint64_t round = 0;
    std::atomic<bool> dead{false};
  };
  std::shared_ptr<State> state_;
};

class SteadyClock final : public Clock {
 public:
  TimePoint now() const override { return std::chrono::steady_clock::now(); }
  std::unique_ptr<Timer> make_timer(asio::any_io_executor executor) override {
    return std::make_unique<SteadyTimer>(std::move(executor));
  }
};

}  // namespace

std::shared_ptr<Clock> make_steady_clock() { return std::make_shared<SteadyClock>(); }

}  // namespace faaskit
