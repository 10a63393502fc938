#include "faaskit/port/clock.h"

#include <utility>

#include <boost/asio/steady_timer.hpp>

namespace faaskit {
namespace {

// Asio's cancel() cannot take back a completion that is already queued, so each arming has a number
// and a late completion finds that it is no longer the current one.
class SteadyTimer final : public Timer {
 public:
  explicit SteadyTimer(asio::any_io_executor executor) : state_(std::make_shared<State>(std::move(executor))) {}
  ~SteadyTimer() override { SteadyTimer::cancel(); }

  void arm(TimePoint when, absl::AnyInvocable<void()> fire) override {
    const std::uint64_t round = ++state_->round;
    state_->fire = std::move(fire);
    state_->timer.expires_at(when);
    state_->timer.async_wait([state = state_, round](const boost::system::error_code&) {
      if (state->round != round || !state->fire) return;
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
