#include "catch.hpp"

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
