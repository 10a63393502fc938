// A thousand calls at once on a cold function that may have four sandboxes: never more than four are alive or
// starting, everybody is answered, and they are served in the order of their tickets.
#include <atomic>
#include <cstdio>

#include "faaskit/port/idle_queue_wrapper.h"
#include "local/composition.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

constexpr int kCalls = 1000;
constexpr std::uint64_t kCap = 4;

// Notes each lease that is handed to a waiter. On a shard's thread, which gets them in the order in which
// they were granted.
class Noting final : public IdleQueueWrapper {
 public:
  using IdleQueueWrapper::IdleQueueWrapper;
  struct Grant {
    Ticket ticket = 0;
    std::uint64_t sequence = 0;
  };
  std::vector<Grant> grants;  // once all is over

 private:
  void do_acquire(AcquireParams params, asio::any_io_executor home,
                  Handler<absl::StatusOr<Lease>> done) override {
    IdleQueueWrapper::do_acquire(
        std::move(params), home,
        asio::bind_executor(home, [this, done = std::move(done)](absl::StatusOr<Lease> lease) mutable {
          if (lease.ok()) grants.push_back({lease->ticket(), lease->id().request.sequence});
          std::move(done)(std::move(lease));
        }));
  }
};

// Direct children of this process that live in a group of `host`'s, dead ones that nobody has reaped
// included: read from /proc alone.
std::uint64_t sandboxes_by_proc(const std::string& mark) {
  std::uint64_t found = 0;
  for (const auto& task : std::filesystem::directory_iterator("/proc/self/task")) {
    std::ifstream list(task.path() / "children");
    for (pid_t child; list >> child;) {
      const std::string folder = "/proc/" + std::to_string(child);
      std::ifstream groups(folder + "/cgroup");
      bool ours = false;
      for (std::string line; std::getline(groups, line);) ours = ours || line.find(mark) != std::string::npos;
      if (ours) ++found;
    }
  }
  return found;
}

}  // namespace

TEST_CASE("a thousand calls at once, a cap of four: never more, all answered, in ticket order",
          "[local][crowd]") {
  LocalHostOptions options;
  options.parked_seats = 0;  // a parked spare is a process, but no sandbox
  Composition<Noting> made(1, options);
  const FunctionHandle function =
      made.deploy({.name = "f", .version = 1, .runtime = "exec", .code_path = FAASKIT_COMMANDED_WORKER},
                  {.max_sandboxes = kCap, .max_starts = kCap, .max_waiters = kCalls});

  std::atomic<bool> stop{false};
  std::uint64_t samples = 0;
  std::uint64_t most_processes = 0;
  std::uint64_t most_hosted = 0;
  std::uint64_t most_counted = 0;
  std::thread sampler([&] {
    const std::string mark = "/faaskit-composed-" + std::to_string(::getpid()) + "/";
    while (!stop) {
      const QueueStats stats = made.idle->stats(function);
      most_counted = std::max(most_counted, stats.live() + stats.starts_in_flight);
      most_hosted = std::max<std::uint64_t>(most_hosted, made.host->sandboxes().size());
      most_processes = std::max(most_processes, sandboxes_by_proc(mark));
      ++samples;
    }
  });

  std::atomic<int> answered{0};
  std::atomic<int> right{0};
  for (int i = 0; i < kCalls; ++i) {
    const std::string text = "echo " + std::to_string(i);
    Invocation invocation;
    invocation.function = function;
    invocation.payload.resize(text.size());
    std::memcpy(invocation.payload.data(), text.data(), text.size());
    invocation.timeout = 60s;
    made.invoker->async_invoke(std::move(invocation), [&, i](const InvocationResult& result) {
      if (result.text() == std::to_string(i)) ++right;
      ++answered;
    });
  }
  REQUIRE(eventually([&] { return answered == kCalls; }, 60s));
  stop = true;
  sampler.join();

  CHECK(right == kCalls);
  CHECK(most_processes <= kCap);
  CHECK(most_hosted <= kCap);
  CHECK(most_counted <= kCap);
  CHECK(most_processes >= 2);  // it did look
  CHECK(samples > 10);
  const std::vector<Noting::Grant>& grants = made.idle->grants;
  CHECK(grants.size() > kCalls / 2);  // the others found an idle one before anybody waited
  for (std::size_t i = 1; i < grants.size(); ++i) {
    CHECK(grants[i].ticket > grants[i - 1].ticket);
    // All were asked for by one thread: who came first has the smaller ticket.
    CHECK(grants[i].sequence > grants[i - 1].sequence);
  }
  std::printf("%d calls, %llu samples: at most %llu processes, %llu sandboxes, %llu counted; %zu waited\n",
              answered.load(), static_cast<unsigned long long>(samples),
              static_cast<unsigned long long>(most_processes), static_cast<unsigned long long>(most_hosted),
              static_cast<unsigned long long>(most_counted), grants.size());
}

TEST_CASE("a thousand calls at once beyond the bound on waiters: refused at once, and the rest is served",
          "[local][crowd]") {
  Stage stage;
  stage.deploy_program({.name = "f", .caps = {.max_sandboxes = 4, .max_starts = 4, .max_waiters = 100}});
  std::atomic<int> served{0};
  std::atomic<int> refused{0};
  std::atomic<int> other{0};
  for (int i = 0; i < kCalls; ++i) {
    stage.platform->async_invoke("f", {}, {.timeout = 60s}, [&](const InvocationResult& result) {
      ++(result.ok() ? served : absl::IsResourceExhausted(result.status) ? refused : other);
    });
  }
  REQUIRE(eventually([&] { return served + refused + other == kCalls; }, 60s));
  CHECK(other == 0);
  CHECK(served >= 100);
  CHECK(refused > 0);
}
