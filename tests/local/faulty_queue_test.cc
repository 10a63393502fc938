// The drivers over a queue behind a bad network: what hosts say is repeated until it is known, and when the
// network is well again the queue's view and the host's are the same.
#include <atomic>

#include "faaskit/testing/faulty_idle_queue.h"
#include "local/composition.h"

using namespace faaskit;
using namespace faaskit::testing;

TEST_CASE("requests and replies are lost, doubled and late: each call has one answer, and the pools heal",
          "[local][faults]") {
  Composition<FaultyIdleQueue> made(2, {.announce_period = 200ms});
  const FunctionHandle function = made.deploy(
      {.name = "f", .version = 1, .code_path = made.folder.write("f.py", kCommands), .handler = "f:handler"},
      {.max_sandboxes = 4, .max_starts = 4});
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
