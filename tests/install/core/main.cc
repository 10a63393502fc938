// What a project that links nothing but faaskit::core can do: a call waits, a start is admitted for it, a
// host takes it on and offers a sandbox; the call is served cold, gives the sandbox back, and the next is
// served warm.
#include <chrono>
#include <cstdio>
#include <optional>
#include <vector>

#include <faaskit/memory/idle_queue.h>
#include <boost/asio/io_context.hpp>

int fail(const char* what) {
  std::fprintf(stderr, "%s\n", what);
  return 1;
}

int main() {
  boost::asio::io_context io;
  auto queue = faaskit::memory::make_idle_queue(io.get_executor());
  if (!queue.ok()) return fail("no queue");
  auto handle = (*queue)->resolve("hello");
  if (!handle.ok()) return fail("no handle");

  bool defined = false;
  faaskit::DefineParams rules{.function = *handle, .config = {}};
  (*queue)->async_define(rules, [&](absl::Status status) { defined = status.ok(); });
  io.run();
  if (!defined) return fail("not defined");

  const faaskit::SandboxId sandbox{.host = 1, .number = 1};
  auto starts =
      (*queue)->watch_starts(7, io.get_executor(), [&](std::vector<faaskit::StartRequest> admitted) {
        for (const faaskit::StartRequest& start : admitted) {
          faaskit::ClaimParams claim{.function = *handle, .start = start.id, .sandbox = sandbox};
          (*queue)->async_claim(claim, [&, start](absl::Status claimed) {
            if (!claimed.ok()) return;
            faaskit::OfferParams offer{.function = *handle, .offer = {}};
            offer.offer.sandbox = {.id = sandbox, .version = start.version};
            offer.offer.generation = 1;
            offer.offer.start = start.id;
            (*queue)->async_offer(offer, [](absl::Status) {});
          });
        }
      });

  std::optional<faaskit::Lease> lease;
  faaskit::AcquireParams want{.function = *handle, .request = {.invoker = 7, .sequence = 1}};
  want.deadline = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  (*queue)->async_acquire(want, [&](absl::StatusOr<faaskit::Lease> granted) {
    if (granted.ok()) lease = *std::move(granted);
    starts.reset();
  });
  io.restart();
  io.run();
  if (!lease || lease->start() != faaskit::StartKind::cold) return fail("the first call is not cold");
  std::move(*lease).release();

  lease = (*queue)->try_acquire({.function = *handle, .request = {.invoker = 7, .sequence = 2}});
  if (!lease || lease->start() != faaskit::StartKind::warm) return fail("the second call is not warm");
  std::move(*lease).release();
  return 0;
}
