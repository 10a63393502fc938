// The drivers over a queue behind a bad network: what hosts say is repeated until it is known, and when the
// network is well again the queue's view and the host's are the same.
#include <array>
#include <atomic>

#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include "faaskit/cgroup/freezer.h"
#include "faaskit/memory/idle_queue.h"
#include "faaskit/memory/placement.h"
#include "faaskit/process/sandbox_factory.h"
#include "faaskit/testing/faulty_idle_queue.h"
#include "faaskit/uds/channel_factory.h"
#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

// The composition of local::Platform by hand, with a FaultyIdleQueue in the middle.
struct Composition {
  Composition() {
    need_root();
    for (auto& loop : loops) {
      guards.push_back(asio::make_work_guard(loop));
      executors.shards.push_back(loop.get_executor());
      threads.emplace_back([&loop] { loop.run(); });
    }
    executors.blocking = blocking.get_executor();
    idle = std::make_shared<FaultyIdleQueue>(
        std::shared_ptr<IdleQueue>(memory::make_idle_queue(executors.shards[0], {.shards = 2}).value()));
    starts = memory::make_start_queue(executors.shards[0]);
    cgroup::FreezerOptions freezer;
    freezer.instance = "faulty-" + std::to_string(::getpid());
    auto made = cgroup::make_freezer(std::move(freezer));
    if (!made.ok()) FAASKIT_SKIP(made.status().ToString());
    LocalHostParts parts;
    parts.idle = idle.get();
    parts.starts = starts.get();
    parts.freezer = *std::move(made);
    parts.factory = process::make_sandbox_factory().value();
    parts.channels = uds::make_channel_factory().value();
    LocalHostOptions options;
    options.announce_period = 200ms;
    host = make_local_host(executors, parts, options).value();
    slots = memory::make_slot_directory({host->id()}).value();
    invoker =
        make_invoker(executors,
                     {.idle = idle.get(), .starts = starts.get(), .slots = slots.get(), .host = host.get()},
                     {.repair_period = 100ms})
            .value();
  }
  ~Composition() {
    idle->disturb(0, {});
    CHECK(host->async_stop(asio::use_future).wait_for(20s) == std::future_status::ready);
    blocking.join();
    guards.clear();
    for (auto& loop : loops) loop.stop();
    for (std::thread& thread : threads) thread.join();
  }

  FunctionHandle deploy(const std::string& name) {
    const FunctionHandle handle = idle->resolve(name).value();
    const std::string file = folder.write(name + ".py", kCommands);
    HostedFunction hosted;
    hosted.handle = handle;
    hosted.spec = {.name = name, .version = 1, .code_path = file, .handler = name + ":handler"};
    REQUIRE(host->deploy(std::move(hosted)).ToString() == "OK");
    DefineParams params{.function = handle, .config = {}};
    params.config.caps = {.max_sandboxes = 4, .max_starts = 4};
    REQUIRE(idle->async_define(std::move(params), asio::use_future).get().ok());
    return handle;
  }

  Folder folder;
  std::array<asio::io_context, 2> loops;
  std::vector<asio::executor_work_guard<asio::io_context::executor_type>> guards;
  std::vector<std::thread> threads;
  asio::thread_pool blocking{2};
  HostExecutors executors;
  std::shared_ptr<FaultyIdleQueue> idle;
  std::unique_ptr<StartQueue> starts;
  std::unique_ptr<LocalHost> host;
  std::unique_ptr<SlotDirectory> slots;
  std::unique_ptr<Invoker> invoker;
};

}  // namespace

TEST_CASE("requests and replies are lost, doubled and late: each call has one answer, and the pools heal",
          "[local][faults]") {
  Composition made;
  const FunctionHandle function = made.deploy("f");
  made.idle->disturb(20261121, {.request_lost = 60, .reply_lost = 60, .duplicated = 60, .late = 60});
  std::atomic<int> good{0};
  std::atomic<int> unavailable{0};
  std::atomic<int> wrong{0};
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c) {
    callers.emplace_back([&, c] {
      for (int i = 0; i < 100; ++i) {
        const std::string mine = std::to_string(c) + "/" + std::to_string(i);
        const std::string text = "echo " + mine;
        Invocation invocation;
        invocation.function = function;
        invocation.payload.resize(text.size());
        std::memcpy(invocation.payload.data(), text.data(), text.size());
        invocation.timeout = 20s;
        const InvocationResult result = made.invoker->invoke(std::move(invocation));
        if (result.ok() && result.text() == mine) {
          ++good;
        } else if (absl::IsUnavailable(result.status)) {
          ++unavailable;  // its own acquire was lost
        } else {
          UNSCOPED_INFO(result.status.ToString());
          ++wrong;
        }
      }
    });
  }
  for (std::thread& caller : callers) caller.join();
  CHECK(wrong == 0);
  CHECK(good + unavailable == 400);
  CHECK(good > 200);
  CHECK(made.idle->injected() > 20);

  made.idle->disturb(0, {});
  made.idle->deliver_late();
  const auto healed = [&] {
    const QueueStats stats = made.idle->stats(function);
    return stats.leased == 0 && stats.disputed == 0 && stats.retiring == 0 && stats.waiters == 0 &&
           stats.starts_in_flight == 0 && stats.idle == made.host->sandboxes().size();
  };
  CHECK(eventually(healed, 20s));
  const QueueStats stats = made.idle->stats(function);
  INFO("idle " << stats.idle << " leased " << stats.leased << " disputed " << stats.disputed << " retiring "
               << stats.retiring << " starts " << stats.starts_in_flight << " host "
               << made.host->sandboxes().size());
  CHECK(healed());
  CHECK(stats.live() <= 4);
}
