// Callers go away, at any moment: each is answered once, what they had asked for is not lost, and what ran
// for them is gone.
#include <algorithm>
#include <atomic>
#include <random>

#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

// Calls that can be cancelled, made and answered on one thread, as a signal wants it.
class Callers {
 public:
  explicit Callers(Stage& stage) : stage_(stage) {}
  ~Callers() { thread_.join(); }

  class One {
   public:
    std::future<InvocationResult> answer;

   private:
    friend class Callers;
    asio::cancellation_signal signal_;
    std::promise<InvocationResult> promise_;
    std::atomic<int> answers_{0};
  };
  using OnePtr = std::shared_ptr<One>;

  OnePtr call(std::string_view function, std::string_view payload, Cancel cancel = Cancel::running_too) {
    auto one = std::make_shared<One>();
    one->answer = one->promise_.get_future();
    local::InvokeOptions options;
    options.cancel = cancel;
    const auto* const first = reinterpret_cast<const std::byte*>(payload.data());
    asio::post(thread_, [this, one, function = std::string(function), options = std::move(options),
                         bytes = Bytes(first, first + payload.size())]() mutable {
      stage_.platform->async_invoke(
          function, std::move(bytes), std::move(options),
          asio::bind_cancellation_slot(
              one->signal_.slot(),
              asio::bind_executor(thread_.get_executor(), [one](InvocationResult result) {
                if (one->answers_++ == 0) one->promise_.set_value(std::move(result));
              })));
    });
    return one;
  }
  void cancel(const OnePtr& one, asio::cancellation_type_t type = asio::cancellation_type::total) {
    asio::post(thread_, [one, type] { one->signal_.emit(type); });
  }
  static int answers(const OnePtr& one) { return one->answers_; }

 private:
  Stage& stage_;
  asio::thread_pool thread_{1};
};

bool empty(const local::Platform& platform) { return platform.sandboxes().empty(); }

}  // namespace

TEST_CASE("cancelled while it waits for a start: answered at once, and the start ends as an idle sandbox",
          "[local][cancel]") {
  for (const Cancel cancel : {Cancel::waiting, Cancel::running_too}) {
    Stage stage;
    stage.deploy_program({.name = "f", .env = {{"INIT", "slow 400"}}});
    Callers callers(stage);
    const Callers::OnePtr one = callers.call("f", "echo x", cancel);
    REQUIRE(eventually([&] { return stage.in_state(HostState::starting).size() == 1; }));
    callers.cancel(one);
    const InvocationResult result = one->answer.get();
    CHECK(absl::IsCancelled(result.status));
    CHECK(result.sandbox.host == 0);
    // It did not wait for the start, which is still under way.
    CHECK(stage.in_state(HostState::starting).size() == 1);
    REQUIRE(eventually([&] { return stage.platform->stats("f").idle == 1; }));
    const QueueStats stats = stage.platform->stats("f");
    CHECK(stats.waiters == 0);
    CHECK(stats.surplus_starts == 1);
    CHECK(stats.live() == 1);
    CHECK(stage.invoke("f", "echo on").start == StartKind::warm);
  }
}

TEST_CASE(
    "cancelled while it runs: answered at once, its process is gone, and the next call gets a fresh one",
    "[local][cancel]") {
  for (const auto freezer : {local::FreezerChoice::cgroup_v2, local::FreezerChoice::cgroup_v1}) {
    local::PlatformOptions options;
    options.freezer = freezer;
    Stage stage(options);
    stage.deploy_program({.name = "f"});
    Callers callers(stage);
    // The time is the contract here. The best of a few: a busy machine may keep any one of them waiting.
    auto best = std::chrono::steady_clock::duration::max();
    for (int i = 1; i <= 5; ++i) {
      const Callers::OnePtr one = callers.call("f", "hold 20000");
      REQUIRE(eventually([&] { return stage.logs->count("holding") == i; }));
      const SandboxView victim = stage.in_state(HostState::busy).at(0);
      const auto begun = std::chrono::steady_clock::now();
      callers.cancel(one);
      const InvocationResult result = one->answer.get();
      best = std::min(best, std::chrono::steady_clock::now() - begun);
      CHECK(absl::IsCancelled(result.status));
      CHECK_THAT(std::string(result.status.message()), ContainsSubstring("cancelled by the caller after"));
      CHECK(result.sandbox == victim.id);
      CHECK(result.attempts == 1);
      REQUIRE(eventually([&] { return !exists(victim.pid) && empty(*stage.platform); }));
      REQUIRE(eventually([&] { return stage.platform->stats("f").live() == 0; }));
      REQUIRE(eventually([&] { return stage.records->of(result.request).has_value(); }));
      const ExecutionRecord record = *stage.records->of(result.request);
      CHECK(absl::IsCancelled(record.status));
      CHECK(record.sandbox == victim.id);
      CHECK(record.phases.has(Phase::acquire));
      CHECK(record.phases.has(Phase::run));
    }
    CHECK(best < 50ms);
    const InvocationResult next = stage.invoke("f", "echo on");
    CHECK(next.text() == "on");
    CHECK(next.start == StartKind::cold);
  }
}

TEST_CASE("a caller that may only cancel its wait: what runs, runs to its end", "[local][cancel]") {
  Stage stage;
  stage.deploy_program({.name = "f"});
  Callers callers(stage);
  const Callers::OnePtr one = callers.call("f", "hold 300", Cancel::waiting);
  REQUIRE(eventually([&] { return stage.logs->count("holding") == 1; }));
  callers.cancel(one);
  const InvocationResult result = one->answer.get();
  CHECK(result.status.ToString() == "OK");
  CHECK(result.text() == "held");
  CHECK(stage.invoke("f", "echo on").sandbox == result.sandbox);
}

TEST_CASE("a streamed reply that is cancelled half-way is cut, and its sandbox ends", "[local][cancel]") {
  // Takes nothing, so that the sandbox stands in its write.
  class Slow final : public InvocationStream {
   public:
    void head(const InvocationResult&, ReplyHead) override {}
    void body(Bytes, ReplyStream::Taken taken) override {
      kept.push_back(std::move(taken));
      began = true;
    }
    std::vector<ReplyStream::Taken> kept;
    std::atomic<bool> began{false};
  };
  Stage stage;
  stage.deploy({.name = "f"}, R"(
def handler(payload, context):
    while True: yield b"x" * 65536
)");
  for (const Cancel cancel : {Cancel::running_too, Cancel::streamed_too}) {
    asio::thread_pool thread(1);
    asio::cancellation_signal signal;
    auto slow = std::make_shared<Slow>();
    std::promise<InvocationResult> promise;
    asio::post(thread, [&] {
      local::InvokeOptions options;
      options.stream = slow;
      options.cancel = cancel;
      stage.platform->async_invoke(
          "f", {}, options,
          asio::bind_cancellation_slot(
              signal.slot(), asio::bind_executor(thread.get_executor(), [&](InvocationResult result) {
                promise.set_value(std::move(result));
              })));
    });
    REQUIRE(eventually([&] { return slow->began.load(); }));
    asio::post(thread, [&] { signal.emit(asio::cancellation_type::terminal); });
    const InvocationResult result = promise.get_future().get();
    CHECK(absl::IsCancelled(result.status));
    REQUIRE(eventually([&] { return empty(*stage.platform); }));
    thread.join();
  }
}

TEST_CASE("200 cancels at random moments: one answer each, none runs twice, nothing is left behind",
          "[local][cancel][slow]") {
  constexpr int kCalls = 200;
  const unsigned seed = std::random_device{}();
  INFO("seed " << seed);
  std::mt19937 random(seed);
  local::PlatformOptions options;
  options.shards = 2;
  options.host.parked_seats = 0;
  need_own_mounts();
  Stage stage(options);
  stage.deploy_program({.name = "f", .caps = {.max_sandboxes = 8, .max_starts = 8}});
  REQUIRE(stage.invoke("f", "echo x").ok());
  const std::string group = groups_of(*stage.platform);
  const auto end_all = [&] {
    for (const SandboxView& view : stage.platform->sandboxes()) (void)stage.platform->host().destroy(view.id);
    return eventually([&] { return empty(*stage.platform); });
  };
  REQUIRE(end_all());
  const Belongings before = settled(group);
  int ok = 0;
  int cancelled = 0;
  std::vector<Callers::OnePtr> calls;
  {
    Callers callers(stage);
    for (int i = 0; i < kCalls; ++i) {
      // Most hold for a moment, so that a cancel meets them waiting, running, or done.
      calls.push_back(callers.call("f", "hold " + std::to_string(random() % 4),
                                   random() % 8 == 0 ? Cancel::waiting : Cancel::running_too));
      // One that was made a little earlier; perhaps again.
      const std::size_t back = random() % std::min<std::size_t>(calls.size(), 12);
      if (random() % 4 != 0) callers.cancel(calls[calls.size() - 1 - back]);
      if (random() % 8 == 0) callers.cancel(calls[calls.size() - 1]);
      if (random() % 3 == 0) (void)eventually([&] { return stage.platform->stats("f").waiters < 6; });
    }
    for (const Callers::OnePtr& one : calls) {
      REQUIRE(one->answer.wait_for(30s) == std::future_status::ready);
      const InvocationResult result = one->answer.get();
      const std::string printed = stage.logs->of(result.request);
      int runs = 0;
      for (std::size_t at = printed.find("holding"); at != std::string::npos;
           at = printed.find("holding", at + 1))
        ++runs;
      if (result.ok()) {
        ++ok;
        CHECK(result.text() == "held");
        CHECK(runs == 1);
      } else {
        ++cancelled;
        CHECK(result.status.code() == absl::StatusCode::kCancelled);
        CHECK(runs <= 1);
      }
    }
  }
  for (const Callers::OnePtr& one : calls) CHECK(Callers::answers(one) == 1);
  CHECK(ok + cancelled == kCalls);
  CHECK(ok > 0);
  CHECK(cancelled > 0);
  // The queue, the host and the kernel agree on what is left; and it serves.
  REQUIRE(eventually([&] {
    const QueueStats stats = stage.platform->stats("f");
    return stats.waiters == 0 && stats.leased == 0 && stats.live() == stats.idle &&
           stats.idle == stage.platform->sandboxes().size();
  }));
  CHECK(stage.invoke("f", "echo on").text() == "on");
  CHECK(stage.records->all().size() >= kCalls);
  REQUIRE(end_all());
  CHECK(as_before(before, group));
  std::printf("%d calls: %d answered, %d cancelled\n", kCalls, ok, cancelled);
}
