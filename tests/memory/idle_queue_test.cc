#include "catch.hpp"

#include <boost/asio/use_future.hpp>

#include "faaskit/memory/idle_queue.h"
#include "faaskit/port/idle_queue_wrapper.h"
#include "faaskit/testing/idle_queue_contract.h"

using namespace faaskit;
using faaskit::testing::QueueStage;

namespace {

std::unique_ptr<IdleQueue> make(const HostExecutors& executors, std::shared_ptr<Clock> clock) {
  return memory::make_idle_queue(executors.shards.front(),
                                 {.clock = std::move(clock),
                                  .shards = static_cast<std::uint32_t>(executors.shards.size())})
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
