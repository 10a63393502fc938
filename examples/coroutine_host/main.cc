// An application that has an event loop and threads already, and writes its logic as coroutines.
//
// faaskit brings no thread of its own: the application lends it executors, builds the parts it wants and
// hands each what it needs. This is the composition that faaskit::local::make_platform() makes, by hand;
// here a part can be replaced by another of its kind (a queue on a server, another sandbox).
// As root, from the root of the checkout: build/dev/bin/coroutine_host

#include <unistd.h>

#include <chrono>
#include <cstddef>
#include <exception>
#include <iostream>
#include <memory>
#include <span>
#include <string>
#include <utility>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/co_spawn.hpp>
#include <boost/asio/experimental/awaitable_operators.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/thread_pool.hpp>
#include <boost/asio/use_awaitable.hpp>

#include "faaskit/cgroup/freezer.h"
#include "faaskit/invoke/invoker.h"
#include "faaskit/memory/idle_queue.h"
#include "faaskit/memory/placement.h"
#include "faaskit/process/sandbox_factory.h"
#include "faaskit/provision/local_host.h"
#include "faaskit/uds/channel_factory.h"

namespace asio = boost::asio;

// The parts, each built from those above it; destroyed in the opposite order.
struct Parts {
  std::unique_ptr<faaskit::IdleQueue> idle;
  std::unique_ptr<faaskit::StartQueue> starts;
  std::shared_ptr<faaskit::Freezer> freezer;
  std::shared_ptr<faaskit::SandboxFactory> factory;
  std::shared_ptr<faaskit::ChannelFactory> channels;
  std::unique_ptr<faaskit::LocalHost> host;
  std::unique_ptr<faaskit::SlotDirectory> slots;
  std::unique_ptr<faaskit::Invoker> invoker;
};

absl::StatusOr<Parts> compose(const faaskit::HostExecutors& executors) {
  Parts parts;
  // Where idle sandboxes and callers meet, and how starts travel to the host: in this process.
  auto idle = faaskit::memory::make_idle_queue(executors.shards[0]);
  if (!idle.ok()) return idle.status();
  parts.idle = *std::move(idle);
  parts.starts = faaskit::memory::make_start_queue(executors.shards[0]);

  // What freezes sandboxes, makes them, and speaks with them.
  auto freezer = faaskit::cgroup::make_freezer({.instance = "coroutine-host-" + std::to_string(::getpid())});
  if (!freezer.ok()) return freezer.status();
  parts.freezer = *std::move(freezer);
  auto factory = faaskit::process::make_sandbox_factory();
  if (!factory.ok()) return factory.status();
  parts.factory = *std::move(factory);
  auto channels = faaskit::uds::make_channel_factory();
  if (!channels.ok()) return channels.status();
  parts.channels = *std::move(channels);

  // Who owns the sandboxes, and who sees each invocation through.
  faaskit::LocalHostParts for_host;
  for_host.idle = parts.idle.get();
  for_host.starts = parts.starts.get();
  for_host.freezer = parts.freezer;
  for_host.factory = parts.factory;
  for_host.channels = parts.channels;
  auto host = faaskit::make_local_host(executors, std::move(for_host));
  if (!host.ok()) return host.status();
  parts.host = *std::move(host);
  auto slots = faaskit::memory::make_slot_directory({parts.host->id()});
  if (!slots.ok()) return slots.status();
  parts.slots = *std::move(slots);

  faaskit::InvokerParts for_invoker;
  for_invoker.idle = parts.idle.get();
  for_invoker.starts = parts.starts.get();
  for_invoker.slots = parts.slots.get();
  for_invoker.host = parts.host.get();
  auto invoker = faaskit::make_invoker(executors, std::move(for_invoker));
  if (!invoker.ok()) return invoker.status();
  parts.invoker = *std::move(invoker);
  return parts;
}

// Makes a function known: to the host, which will start it, and to the queue, which hands it out.
asio::awaitable<absl::StatusOr<faaskit::FunctionHandle>> deploy(Parts& parts, faaskit::FunctionSpec spec) {
  absl::StatusOr<faaskit::FunctionHandle> handle = parts.idle->resolve(spec.name);
  if (!handle.ok()) co_return handle.status();
  faaskit::DefineParams rules;
  rules.function = *handle;
  rules.config.version = spec.version;
  faaskit::HostedFunction hosted;
  hosted.handle = *handle;
  hosted.spec = std::move(spec);
  absl::Status known = parts.host->deploy(std::move(hosted));
  if (!known.ok()) co_return known;
  absl::Status defined = co_await parts.idle->async_define(rules, asio::use_awaitable);
  if (!defined.ok()) co_return defined;
  co_return *handle;
}

asio::awaitable<bool> greet(Parts& parts, faaskit::FunctionHandle function, std::string name) {
  faaskit::Invocation invocation;
  invocation.function = function;
  const auto bytes = std::as_bytes(std::span(name));
  invocation.payload.assign(bytes.begin(), bytes.end());
  invocation.timeout = std::chrono::seconds(10);
  // The whole of it runs on this loop, so tell the invoker that we are on shard 0's thread.
  invocation.shard = 0;
  faaskit::InvocationResult result =
      co_await parts.invoker->async_invoke(std::move(invocation), asio::use_awaitable);
  if (result.ok())
    std::cout << result.text() << " (" << to_string(result.start) << ")\n";
  else
    std::cerr << name << ": " << result.status << '\n';
  co_return result.ok();
}

asio::awaitable<int> application(Parts& parts) {
  using namespace asio::experimental::awaitable_operators;
  faaskit::FunctionSpec spec;
  spec.name = "hello";
  spec.version = 1;
  spec.code_path = "examples/minimal_invoker/hello.py";
  spec.handler = "hello:handler";
  absl::StatusOr<faaskit::FunctionHandle> hello = co_await deploy(parts, std::move(spec));
  bool good = hello.ok();
  if (good) {
    good = co_await greet(parts, *hello, "first");
    // Three at once.
    const auto [a, b, c] = co_await (greet(parts, *hello, "one") && greet(parts, *hello, "two") &&
                                     greet(parts, *hello, "three"));
    good = good && a && b && c;
  } else {
    std::cerr << hello.status() << '\n';
  }
  const absl::Status stopped = co_await parts.host->async_stop(asio::use_awaitable);
  if (!stopped.ok()) std::cerr << stopped << '\n';
  co_return good&& stopped.ok() ? 0 : 1;
}

int main() {
  asio::io_context loop(1);       // run by this thread alone: one shard
  asio::thread_pool blocking(2);  // for what blocks: making processes, removing cgroups
  faaskit::HostExecutors executors;
  executors.shards.push_back(loop.get_executor());
  executors.blocking = blocking.get_executor();

  absl::StatusOr<Parts> parts = compose(executors);
  if (!parts.ok()) {
    std::cerr << parts.status() << '\n';
    return 1;
  }
  int result = 1;
  asio::co_spawn(loop, application(*parts), [&](std::exception_ptr failure, int value) {
    result = failure ? 1 : value;
    loop.stop();
  });
  loop.run();
  blocking.join();  // nothing of ours runs any more when the parts go
  return result;
}
