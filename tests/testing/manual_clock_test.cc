#include "catch.hpp"

#include <atomic>
#include <memory>
#include <thread>
#include <vector>

#include <boost/asio/io_context.hpp>

#include "faaskit/testing/manual_clock.h"

using namespace faaskit;
using faaskit::testing::ManualClock;
using std::chrono::seconds;

// A clock that fires early, late or inline would make every test that stands on it lie.
TEST_CASE("a manual timer fires when time has come, posted to its executor", "[testing]") {
  asio::io_context io;
  ManualClock clock;
  const TimePoint start = clock.now();
  auto timer = clock.make_timer(io.get_executor());
  int fired = 0;
  timer->arm(start + seconds(2), [&] { ++fired; });
  CHECK(clock.armed() == 1);
  CHECK(clock.next() == start + seconds(2));
  clock.advance(seconds(1));
  io.poll();
  CHECK(fired == 0);
  clock.advance(seconds(1));
  CHECK(fired == 0);
  io.restart();
  io.poll();
  CHECK(fired == 1);
  CHECK(clock.armed() == 0);
  CHECK(clock.next() == kNever);
}

TEST_CASE("a manual timer armed for the past is posted at once", "[testing]") {
  asio::io_context io;
  ManualClock clock;
  auto timer = clock.make_timer(io.get_executor());
  int fired = 0;
  timer->arm(clock.now(), [&] { ++fired; });
  CHECK(fired == 0);
  io.poll();
  CHECK(fired == 1);
}

TEST_CASE("arming again replaces, cancelling and destroying take back what is posted already", "[testing]") {
  asio::io_context io;
  ManualClock clock;
  int first = 0;
  int second = 0;
  auto timer = clock.make_timer(io.get_executor());
  timer->arm(clock.now() + seconds(1), [&] { ++first; });
  timer->arm(clock.now() + seconds(2), [&] { ++second; });
  clock.advance(seconds(5));
  io.poll();
  CHECK((first == 0 && second == 1));

  timer->arm(clock.now() + seconds(1), [&] { ++first; });
  clock.advance(seconds(1));
  timer->cancel();
  io.restart();
  io.poll();
  CHECK(first == 0);

  timer->arm(clock.now() + seconds(1), [&] { ++first; });
  clock.advance(seconds(1));
  timer.reset();
  io.restart();
  io.poll();
  CHECK(first == 0);
}

TEST_CASE("timers fire in the order of their times, and may outlive their clock", "[testing]") {
  asio::io_context io;
  auto clock = std::make_unique<ManualClock>();
  std::vector<int> order;
  std::vector<std::unique_ptr<Timer>> timers;
  for (const int after : {3, 1, 2}) {
    timers.push_back(clock->make_timer(io.get_executor()));
    timers.back()->arm(clock->now() + seconds(after), [&, after] { order.push_back(after); });
  }
  CHECK(clock->advance_to_next());
  io.poll();
  CHECK(order == std::vector<int>{1});
  clock->advance(seconds(10));
  io.restart();
  io.poll();
  CHECK(order == std::vector<int>{1, 2, 3});
  CHECK_FALSE(clock->advance_to_next());
  timers[0]->arm(clock->now() + seconds(1), [] {});
  clock.reset();
  timers.clear();
}

// TSan watches this one.
TEST_CASE("one thread advances a manual clock while others arm and fire", "[testing]") {
  asio::io_context io;
  auto work = asio::make_work_guard(io);
  ManualClock clock;
  std::atomic<int> fired{0};
  std::thread shard([&] { io.run(); });
  std::vector<std::thread> armers;
  constexpr int kEach = 200;
  for (int t = 0; t < 2; ++t) {
    armers.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) {
        std::shared_ptr<Timer> timer = clock.make_timer(io.get_executor());
        Timer& armed = *timer;
        armed.arm(clock.now() + seconds(1), [&fired, timer = std::move(timer)] { ++fired; });
      }
    });
  }
  for (int i = 0; i < 100; ++i) clock.advance(seconds(1));
  for (std::thread& armer : armers) armer.join();
  clock.advance(seconds(2));
  const auto give_up = std::chrono::steady_clock::now() + seconds(20);
  while (fired < 2 * kEach && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  CHECK(fired == 2 * kEach);
  work.reset();
  shard.join();
}
