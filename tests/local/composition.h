// What local::make_platform() composes, by hand: for tests that put something of their own in the middle.
#pragma once

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include "faaskit/cgroup/freezer.h"
#include "faaskit/memory/idle_queue.h"
#include "faaskit/memory/placement.h"
#include "faaskit/process/sandbox_factory.h"
#include "faaskit/uds/channel_factory.h"
#include "local/stage.h"

namespace faaskit::testing {

// The composition of local::Platform by hand, with a queue of the test's own around the memory queue.
template <class Queue>
struct Composition {
  explicit Composition(std::uint32_t shards, LocalHostOptions options = {}) {
    need_root();
    for (std::uint32_t i = 0; i < shards; ++i) {
      asio::io_context& loop = *loops.emplace_back(std::make_unique<asio::io_context>(1));
      guards.push_back(asio::make_work_guard(loop));
      executors.shards.push_back(loop.get_executor());
      threads.emplace_back([&loop] { loop.run(); });
    }
    executors.blocking = blocking.get_executor();
    idle = std::make_shared<Queue>(
        std::shared_ptr<IdleQueue>(memory::make_idle_queue(executors.shards[0], {.shards = shards}).value()));
    starts = memory::make_start_queue(executors.shards[0]);
    cgroup::FreezerOptions freezer;
    freezer.instance = "composed-" + std::to_string(::getpid());
    auto made = cgroup::make_freezer(std::move(freezer));
    if (!made.ok()) FAASKIT_SKIP(made.status().ToString());
    LocalHostParts parts;
    parts.idle = idle.get();
    parts.starts = starts.get();
    parts.freezer = *std::move(made);
    parts.factory = process::make_sandbox_factory().value();
    parts.channels = uds::make_channel_factory().value();
    host = make_local_host(executors, parts, options).value();
    slots = memory::make_slot_directory({host->id()}).value();
    invoker =
        make_invoker(executors,
                     {.idle = idle.get(), .starts = starts.get(), .slots = slots.get(), .host = host.get()},
                     {.repair_period = 100ms})
            .value();
  }
  ~Composition() {
    CHECK(host->async_stop(asio::use_future).wait_for(20s) == std::future_status::ready);
    blocking.join();
    guards.clear();
    for (auto& loop : loops) loop->stop();
    for (std::thread& thread : threads) thread.join();
  }

  FunctionHandle deploy(FunctionSpec spec, FunctionCaps caps) {
    const FunctionHandle handle = idle->resolve(spec.name).value();
    HostedFunction hosted;
    hosted.handle = handle;
    hosted.spec = std::move(spec);
    REQUIRE(host->deploy(std::move(hosted)).ToString() == "OK");
    DefineParams params{.function = handle, .config = {}};
    params.config.caps = caps;
    REQUIRE(idle->async_define(std::move(params), asio::use_future).get().ok());
    return handle;
  }

  Folder folder;
  std::vector<std::unique_ptr<asio::io_context>> loops;
  std::vector<asio::executor_work_guard<asio::io_context::executor_type>> guards;
  std::vector<std::thread> threads;
  asio::thread_pool blocking{2};
  HostExecutors executors;
  std::shared_ptr<Queue> idle;
  std::unique_ptr<StartQueue> starts;
  std::unique_ptr<LocalHost> host;
  std::unique_ptr<SlotDirectory> slots;
  std::unique_ptr<Invoker> invoker;
};

}  // namespace faaskit::testing
