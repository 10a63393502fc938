// What a host does that only real sandboxes show.
#include <boost/asio/executor_work_guard.hpp>
#include <boost/asio/io_context.hpp>

#include "faaskit/cgroup/freezer.h"
#include "faaskit/memory/idle_queue.h"
#include "faaskit/memory/placement.h"
#include "faaskit/process/sandbox_factory.h"
#include "faaskit/uds/channel_factory.h"
#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

TEST_CASE("at a cap of one, two callers share the warm sandbox, and it stays", "[local][host]") {
  local::PlatformOptions options;
  options.host.limits.max_sandboxes = 1;
  Stage stage(options);
  stage.deploy({.name = "f"});
  const SandboxId warm = stage.invoke("f", "echo x").sandbox;
  std::future<InvocationResult> busy = stage.start("f", "hold 0.3");
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 1; }));
  CHECK(stage.invoke("f", "echo y").sandbox == warm);
  CHECK(busy.get().sandbox == warm);
  REQUIRE(eventually([&] { return stage.all_frozen(1); }));
  CHECK(stage.platform->sandboxes()[0].id == warm);
}

TEST_CASE("a host that is given up without a stop leaves no process", "[local][host]") {
  need_root();
  Folder folder;
  pid_t pid = -1;
  {
    asio::io_context loop{1};
    auto guard = asio::make_work_guard(loop);
    asio::thread_pool blocking{2};
    HostExecutors executors{.shards = {loop.get_executor()}, .blocking = blocking.get_executor()};
    std::unique_ptr<IdleQueue> idle = memory::make_idle_queue(loop.get_executor()).value();
    std::unique_ptr<StartQueue> starts = memory::make_start_queue(loop.get_executor());
    cgroup::FreezerOptions freezer;
    freezer.instance = "given-up-" + std::to_string(::getpid());
    auto made = cgroup::make_freezer(std::move(freezer));
    if (!made.ok()) FAASKIT_SKIP(made.status().ToString());
    LocalHostParts parts;
    parts.idle = idle.get();
    parts.starts = starts.get();
    parts.freezer = *std::move(made);
    parts.factory = process::make_sandbox_factory().value();
    parts.channels = uds::make_channel_factory().value();
    std::unique_ptr<LocalHost> host = make_local_host(executors, std::move(parts)).value();
    const FunctionHandle function = idle->resolve("f").value();
    HostedFunction hosted;
    hosted.handle = function;
    hosted.spec = {
        .name = "f", .version = 1, .code_path = folder.write("f.py", kCommands), .handler = "f:handler"};
    REQUIRE(host->deploy(std::move(hosted)).ToString() == "OK");
    std::thread thread([&] { loop.run(); });
    REQUIRE(
        idle->async_define({.function = function, .config = {.version = 1}}, asio::use_future).get().ok());
    // The queue's watchers are whoever carries starts; here that is this test.
    auto watch = idle->watch_starts(7, loop.get_executor(), [&](std::vector<StartRequest> admitted) {
      for (StartRequest& start : admitted) {
        starts->async_push({.host = host->id(), .start = std::move(start)}, [](absl::Status) {});
      }
    });
    {
      absl::StatusOr<Lease> lease = idle->acquire({.function = function,
                                                   .request = {.invoker = 7, .sequence = 1},
                                                   .deadline = std::chrono::steady_clock::now() + 20s});
      REQUIRE(lease.status().ToString() == "OK");
      pid = host->sandboxes()[0].pid;
      REQUIRE(exists(pid));
      std::move(*lease).release();
    }
    watch.reset();
    // Nobody stops the host; its loop is stopped with whatever is under way.
    blocking.stop();
    blocking.join();
    loop.stop();
    thread.join();
    host.reset();
  }
  CHECK_FALSE(exists(pid));  // not even a zombie
}
