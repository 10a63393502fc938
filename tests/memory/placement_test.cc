#include "catch.hpp"

#include <algorithm>
#include <atomic>
#include <map>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include <boost/asio/bind_executor.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/use_future.hpp>

#include "faaskit/memory/placement.h"

using namespace faaskit;

namespace {

StartRequest start(std::uint64_t number) {
  return {.id = {.nonce = 1, .number = number}, .function = "f", .version = 1};
}

struct Carrier {
  asio::io_context io;
  std::unique_ptr<StartQueue> queue;
  explicit Carrier(memory::StartQueueOptions options = {})
      : queue(memory::make_start_queue(io.get_executor(), options)) {}

  absl::Status push(HostId host, std::uint64_t number) {
    absl::Status told = absl::InternalError("no answer");
    bool inline_call = true;
    queue->async_push({.host = host, .start = start(number)}, [&](absl::Status status) {
      CHECK_FALSE(inline_call);
      told = std::move(status);
    });
    inline_call = false;
    run();
    return told;
  }
  void run() {
    io.restart();
    io.poll();
  }
};

}  // namespace

// A start that is lost here leaves a waiter waiting until the next repair.
TEST_CASE("starts reach the host that serves, first in first out", "[memory]") {
  Carrier carrier;
  std::vector<std::uint64_t> served;
  auto watch = carrier.queue->serve(7, carrier.io.get_executor(), [&](std::vector<StartRequest> starts) {
    for (const StartRequest& each : starts) served.push_back(each.id.number);
  });
  for (std::uint64_t i = 1; i <= 3; ++i) CHECK(carrier.push(7, i).ok());
  CHECK(served == std::vector<std::uint64_t>{1, 2, 3});
}

TEST_CASE("nobody serves the host: kNotFound, also after its watch has ended", "[memory]") {
  Carrier carrier;
  const absl::Status nobody = carrier.push(7, 1);
  CHECK(absl::IsNotFound(nobody));
  CHECK(nobody.message() == "push st-1-1: nobody serves host 7");
  int served = 0;
  auto watch =
      carrier.queue->serve(7, carrier.io.get_executor(), [&](std::vector<StartRequest>) { ++served; });
  carrier.queue->async_push({.host = 7, .start = start(2)}, [](absl::Status) {});
  watch.reset();
  carrier.run();
  CHECK(served == 0);
  CHECK(absl::IsNotFound(carrier.push(7, 3)));
}

TEST_CASE("what a host has not taken is bounded, and goes to who serves it next", "[memory]") {
  asio::io_context slow;
  Carrier carrier({.max_queued = 2});
  int lost = 0;
  auto first = carrier.queue->serve(7, slow.get_executor(), [&](std::vector<StartRequest>) { ++lost; });
  CHECK(carrier.push(7, 1).ok());
  CHECK(carrier.push(7, 2).ok());
  const absl::Status full = carrier.push(7, 3);
  CHECK(absl::IsResourceExhausted(full));
  CHECK(full.message() == "push st-1-3: 2 starts wait for host 7; max_queued is 2");
  std::vector<std::uint64_t> served;
  auto second = carrier.queue->serve(7, carrier.io.get_executor(), [&](std::vector<StartRequest> starts) {
    for (const StartRequest& each : starts) served.push_back(each.id.number);
  });
  first.reset();
  slow.poll();
  carrier.run();
  CHECK(lost == 0);
  CHECK(served == std::vector<std::uint64_t>{1, 2});
  CHECK(carrier.push(7, 4).ok());
  CHECK(served == std::vector<std::uint64_t>{1, 2, 4});
}

TEST_CASE("load is the last reported figure plus what was pushed since", "[memory]") {
  Carrier carrier;
  CHECK(carrier.queue->load(7) == 0);
  auto watch = carrier.queue->serve(7, carrier.io.get_executor(), [](std::vector<StartRequest>) {});
  CHECK(carrier.push(7, 1).ok());
  CHECK(carrier.push(7, 2).ok());
  CHECK(carrier.queue->load(7) == 2);
  carrier.queue->report_load(7, 10);
  CHECK(carrier.queue->load(7) == 10);
  CHECK(carrier.push(7, 3).ok());
  CHECK(carrier.queue->load(7) == 11);
  CHECK(carrier.queue->load(8) == 0);
}

// Hosts come and go for as long as a queue lives.
TEST_CASE("a host that nobody serves is forgotten, with its load and what waits for it", "[memory]") {
  asio::io_context slow;
  Carrier carrier;
  carrier.queue->report_load(7, 10);
  CHECK(carrier.queue->load(7) == 0);
  auto watch = carrier.queue->serve(7, slow.get_executor(), [](std::vector<StartRequest>) {});
  carrier.queue->report_load(7, 10);
  CHECK(carrier.push(7, 1).ok());
  CHECK(carrier.queue->load(7) == 11);
  watch.reset();
  CHECK(carrier.queue->load(7) == 0);
  int served = 0;
  watch = carrier.queue->serve(7, carrier.io.get_executor(), [&](std::vector<StartRequest>) { ++served; });
  carrier.run();
  slow.poll();
  CHECK(served == 0);
}

TEST_CASE("four threads push: every start arrives once", "[memory]") {
  asio::io_context io;
  auto work = asio::make_work_guard(io);
  auto queue = memory::make_start_queue(io.get_executor());
  std::atomic<std::uint64_t> sum{0};
  auto watch = queue->serve(7, io.get_executor(), [&](std::vector<StartRequest> starts) {
    for (const StartRequest& each : starts) sum += each.id.number;
  });
  std::vector<std::thread> loops;
  for (int i = 0; i < 2; ++i) loops.emplace_back([&] { io.run(); });
  std::vector<std::thread> pushers;
  for (int t = 0; t < 4; ++t) {
    pushers.emplace_back([&] {
      for (std::uint64_t i = 1; i <= 500; ++i) {
        CHECK_NOTHROW(
            queue->async_push({.host = 7, .start = start(i)}, asio::use_future).get().IgnoreError());
      }
    });
  }
  for (std::thread& pusher : pushers) pusher.join();
  const auto give_up = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (sum < 4 * 125250 && std::chrono::steady_clock::now() < give_up) std::this_thread::yield();
  CHECK(sum == 4 * 125250);
  watch.reset();
  work.reset();
  for (std::thread& loop : loops) loop.join();
}

TEST_CASE("slots are spread evenly, and everybody owns a range", "[memory]") {
  const std::size_t count = GENERATE(1, 2, 3, 7, 100);
  std::vector<HostId> hosts;
  for (std::size_t i = 1; i <= count; ++i) hosts.push_back(i * 11);
  const auto directory = memory::make_slot_directory(hosts);
  REQUIRE(directory.ok());
  const std::shared_ptr<const SlotMap> map = (*directory)->snapshot();
  CHECK(map->epoch == 1);
  std::map<HostId, std::size_t> owned;
  for (const HostId owner : map->owner) ++owned[owner];
  CHECK(owned.size() == count);
  for (const auto& [host, slots] : owned) {
    CHECK(slots >= kSlotCount / count);
    CHECK(slots <= kSlotCount / count + 1);
  }
}

TEST_CASE("a directory without hosts, or with host 0, is refused", "[memory]") {
  CHECK(absl::IsInvalidArgument(memory::make_slot_directory({}).status()));
  CHECK(memory::make_slot_directory({3, 0}).status().message() ==
        "make_slot_directory: host 0 means 'nobody'");
  CHECK(memory::make_slot_directory({3, 3}).ok());
}
