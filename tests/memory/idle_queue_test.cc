#include "catch.hpp"

#include <functional>
#include <string>
#include <utility>
#include <vector>

#include <boost/asio/use_future.hpp>

#include "faaskit/memory/idle_queue.h"
#include "faaskit/port/idle_queue_wrapper.h"
#include "faaskit/testing/idle_queue_contract.h"

using namespace faaskit;
using faaskit::testing::QueueStage;

namespace {

std::unique_ptr<IdleQueue> make(const HostExecutors& executors, std::shared_ptr<Clock> clock) {
  return memory::make_idle_queue(
             executors.shards.front(),
             {.clock = std::move(clock), .shards = static_cast<std::uint32_t>(executors.shards.size())})
      .value();
}

}  // namespace

// Without it nothing that is written against the port can be believed.
TEST_CASE("memory idle queue keeps the IdleQueue contract", "[memory][contract]") {
  testing::check_idle_queue_contract(make);
}

// A decorator that loses one of the operations would lose it for every metric and fault built on it.
TEST_CASE("a wrapped idle queue keeps the IdleQueue contract", "[memory][contract]") {
  testing::check_idle_queue_contract([](const HostExecutors& executors, std::shared_ptr<Clock> clock) {
    return std::make_unique<IdleQueueWrapper>(make(executors, std::move(clock)));
  });
}

TEST_CASE("memory idle queue: a bad option is named", "[memory]") {
  asio::io_context io;
  CHECK(absl::IsInvalidArgument(memory::make_idle_queue({}).status()));
  CHECK_THAT(std::string(memory::make_idle_queue(io.get_executor(), {.shards = 0}).status().message()),
             ContainsSubstring("shards is 0"));
  CHECK_THAT(std::string(memory::make_idle_queue(io.get_executor(), {.max_functions = 0}).status().message()),
             ContainsSubstring("max_functions is 0"));
  auto small = memory::make_idle_queue(io.get_executor(), {.max_functions = 1}).value();
  CHECK(small->resolve("a").ok());
  const absl::Status full = small->resolve("b").status();
  CHECK(absl::IsResourceExhausted(full));
  CHECK(full.message() == "resolve b: 1 functions are known; max_functions is 1");
  // Nor does a host make one known by having sandboxes of it.
  AnnouncedSandbox said;
  said.sandbox = {.id = {.host = 1, .number = 1}, .version = 1};
  said.function = "c";
  auto told = small->async_announce({.host = 1, .sandboxes = {said}}, asio::use_future);
  io.poll();
  CHECK(told.get().status().message() == "resolve c: 1 functions are known; max_functions is 1");
}

// A platform where functions come and go must not run out of names that nobody uses.
TEST_CASE("memory idle queue: what was removed and is gone does not count against max_functions",
          "[memory]") {
  asio::io_context io;
  auto queue = memory::make_idle_queue(io.get_executor(), {.max_functions = 1}).value();
  const auto told = [&](auto operation) {
    absl::Status answer = absl::UnknownError("not told");
    operation([&](absl::Status status) { answer = std::move(status); });
    io.restart();
    io.poll();
    return answer;
  };
  const FunctionHandle a = queue->resolve("a").value();
  const SandboxId sandbox{.host = 1, .number = 1};
  REQUIRE(told([&](auto done) { queue->async_define({.function = a, .config = {}}, done); }).ok());
  AnnouncedSandbox said;
  said.sandbox = {.id = sandbox, .version = 1};
  said.function = "a";
  queue->async_announce({.host = 1, .sandboxes = {said}}, [](const auto&) {});
  REQUIRE(told([&](auto done) { queue->async_remove({.function = a}, done); }).ok());
  CHECK(absl::IsResourceExhausted(queue->resolve("b").status()));
  REQUIRE(told([&](auto done) { queue->async_gone({.function = a, .sandbox = sandbox}, done); }).ok());
  CHECK(queue->resolve("b").ok());
  CHECK(absl::IsResourceExhausted(queue->resolve("c").status()));
  CHECK(queue->resolve("a").value() == a);
  FunctionConfig next;
  next.version = 2;
  CHECK(told([&](auto done) { queue->async_define({.function = a, .config = next}, done); }).ok());
}

// An application that goes down first must not leave callers waiting for ever.
TEST_CASE("memory idle queue: what still waits when it is destroyed ends as cancelled", "[memory]") {
  QueueStage stage(make);
  REQUIRE(stage.define({}).ok());
  auto waiting = stage.acquire(stage.call(1));
  stage.settle_down();
  stage.watches.clear();
  stage.queue.reset();
  CHECK_FALSE(waiting.ready());
  CHECK(absl::IsCancelled(stage.answer(waiting).status()));
}

TEST_CASE("memory idle queue: the warm path is answered without waiting, and counted", "[memory]") {
  QueueStage stage(make);
  REQUIRE(stage.define({}).ok());
  stage.add_idle(1, 1);
  auto lease = stage.queue->try_acquire({.function = stage.f, .request = {1, 1}, .attempt = 1, .shard = 0});
  REQUIRE(lease.has_value());
  CHECK(lease->cross_shard());
  std::move(*lease).release();
  const QueueStats stats = stage.queue->stats(stage.f);
  CHECK((stats.warm == 1 && stats.cross_shard == 1 && stats.idle == 1 && stats.leased == 0));
}

TEST_CASE("memory idle queue: what a steal saved is measured on its clock", "[memory]") {
  QueueStage stage(make);
  REQUIRE(stage.define({}).ok());
  stage.add_idle(1);
  Lease busy = stage.lease(stage.acquire(stage.call(1)));
  auto caller = stage.acquire(stage.call(2));
  const StartRequest start = stage.next_start();
  std::move(busy).release();
  Lease stolen = stage.lease(caller);
  CHECK(stolen.start() == StartKind::stolen);
  stage.advance(std::chrono::milliseconds(180));
  REQUIRE(stage.make(start, stage.sandbox(2)).ok());
  const QueueStats stats = stage.queue->stats(stage.f);
  CHECK(stats.surplus_starts == 1);
  CHECK(stats.steals_measured == 1);
  CHECK(stats.steal_saved_us == 180'000);
}

// Lease blocks, deadlines and lines are reused or freed: nothing may grow with the number of calls.
TEST_CASE("memory idle queue: twenty thousand waiters come and go, and leave nothing behind", "[memory]") {
  QueueStage stage(make);
  FunctionConfig config;
  config.caps = {.max_sandboxes = 1, .max_starts = 1, .max_waiters = 200'000};
  REQUIRE(stage.define(config).ok());
  constexpr std::uint64_t kCalls = 20'000;
  std::uint64_t cancelled = 0;
  std::uint64_t expired = 0;
  for (std::uint64_t i = 1; i <= kCalls; ++i) {
    stage.queue->async_acquire(stage.call(i),
                               asio::bind_executor(stage.executor(0), [&](absl::StatusOr<Lease> answer) {
                                 cancelled += absl::IsCancelled(answer.status());
                                 expired += absl::IsDeadlineExceeded(answer.status());
                               }));
  }
  CHECK(stage.queue->stats(stage.f).waiters == kCalls);
  for (std::uint64_t i = 2; i <= kCalls; i += 2) {
    stage.queue->async_cancel({.function = stage.f, .request = {QueueStage::kInvoker, i}, .attempt = 1},
                              asio::bind_executor(stage.executor(0), [](absl::Status) {}));
  }
  stage.settle_down();
  CHECK(cancelled == kCalls / 2);
  stage.advance(std::chrono::seconds(10));
  CHECK(expired == kCalls / 2);
  CHECK(stage.queue->stats(stage.f).waiters == 0);
}

namespace {

// An executor that does something else before it takes its first function.
struct Interrupted {
  asio::io_context* io;
  std::function<void()>* first;

  asio::execution_context& query(asio::execution::context_t) const { return *io; }
  static constexpr asio::execution::blocking_t query(asio::execution::blocking_t) {
    return asio::execution::blocking.never;
  }
  template <class F>
  void execute(F f) const {
    if (*first) std::exchange(*first, nullptr)();
    asio::post(*io, std::move(f));
  }
  friend bool operator==(const Interrupted&, const Interrupted&) = default;
};

}  // namespace

// As on two threads: the timer has taken two calls out of its list when the queue is destroyed.
TEST_CASE("memory idle queue: it is destroyed while its timer fires", "[memory]") {
  QueueStage stage(make);
  REQUIRE(stage.define({}).ok());
  asio::io_context io;
  std::function<void()> destroy = [&] {
    stage.watches.clear();
    stage.queue.reset();
  };
  std::vector<absl::StatusCode> told;
  for (std::uint64_t i = 1; i <= 2; ++i) {
    stage.queue->async_acquire(stage.call(i), asio::bind_executor(Interrupted{&io, &destroy},
                                                                  [&](const absl::StatusOr<Lease>& answer) {
                                                                    told.push_back(answer.status().code());
                                                                  }));
  }
  stage.clock->advance(std::chrono::seconds(10));
  stage.poll();
  io.run();
  CHECK(told == std::vector{absl::StatusCode::kCancelled, absl::StatusCode::kDeadlineExceeded});
}

namespace {

// Every visit of a function asks for the time.
class CountingClock final : public Clock {
 public:
  TimePoint now() const override {
    ++asked;
    return clock_.now();
  }
  std::unique_ptr<Timer> make_timer(asio::any_io_executor executor) override {
    return clock_.make_timer(std::move(executor));
  }
  mutable std::size_t asked = 0;

 private:
  testing::ManualClock clock_;
};

}  // namespace

// Invokers ask every second, in a process with a hundred thousand functions.
TEST_CASE("memory idle queue: repair looks only where somebody waits or may have lost a lease", "[memory]") {
  asio::io_context io;
  auto clock = std::make_shared<CountingClock>();
  auto queue = memory::make_idle_queue(io.get_executor(), {.clock = clock}).value();
  std::vector<FunctionHandle> functions;
  for (int i = 0; i < 1000; ++i) {
    functions.push_back(queue->resolve("f" + std::to_string(i)).value());
    queue->async_define({.function = functions.back(), .config = {}},
                        [](const absl::Status& s) { CHECK(s.ok()); });
  }
  const auto repair = [&] {
    RepairReport report;
    const std::size_t before = clock->asked;
    queue->async_repair({.invoker = 1},
                        [&](absl::StatusOr<RepairReport> told) { report = *std::move(told); });
    io.restart();
    io.poll();
    return std::pair(clock->asked - before, report.waiters.size());
  };
  CHECK(repair() == std::pair<std::size_t, std::size_t>(0, 0));
  queue->async_acquire(
      {.function = functions[7], .request = {1, 1}, .deadline = clock->now() + std::chrono::hours(1)},
      [](const absl::StatusOr<Lease>& answer) { CHECK(absl::IsCancelled(answer.status())); });
  CHECK(repair() == std::pair<std::size_t, std::size_t>(1, 1));
  queue->async_cancel({.function = functions[7], .request = {1, 1}, .attempt = 1},
                      [](const absl::Status&) {});
  CHECK(repair() == std::pair<std::size_t, std::size_t>(1, 0));
  CHECK(repair() == std::pair<std::size_t, std::size_t>(0, 0));
}
