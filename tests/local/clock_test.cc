// The wall clock jumps, by years and both ways, while a platform works with real sandboxes: nothing follows.
// A program of its own, since it puts a clock of its own in the place of the C library's.
#include <sys/syscall.h>
#include <time.h>

#include <atomic>

#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

std::atomic<std::int64_t> jumped{0};  // seconds

}  // namespace

extern "C" int clock_gettime(clockid_t clock, timespec* time) noexcept {
  const int result = static_cast<int>(::syscall(SYS_clock_gettime, clock, time));
  if (result == 0 && clock == CLOCK_REALTIME) time->tv_sec += jumped;
  return result;
}

TEST_CASE("the wall clock jumps by years: deadlines, backoffs, keep-alives and grace times go on as before",
          "[local][clock]") {
  const std::int64_t jump = GENERATE(1, -1) * 10ll * 365 * 24 * 3600;  // ten years
  const auto real = std::chrono::system_clock::now();
  jumped = 0;
  Stage stage;
  stage.deploy_program({.name = "f", .caps = {.max_sandboxes = 2}, .keep_alive = 600s});
  stage.deploy_program({.name = "brief", .keep_alive = 1500ms});
  stage.deploy_program({.name = "broken",
                        .env = {{"INIT", "fail"}},
                        .retry = {.budget = 3, .backoff = 20ms, .max_backoff = 40ms}});
  REQUIRE(stage.invoke("f", "echo x").ok());
  REQUIRE(eventually([&] { return stage.all_frozen(1); }));
  REQUIRE(stage.invoke("brief", "echo x").ok());
  std::future<InvocationResult> running = stage.start("f", "hold 300", 60s);
  std::future<InvocationResult> late = stage.start("f", "hold 60000", 600ms);
  REQUIRE(eventually([&] { return stage.logs->count("holding") >= 1; }));

  jumped = jump;
  const auto off = std::chrono::system_clock::now() - real;
  REQUIRE((jump > 0 ? off : -off) > 24h);  // it does jump
  const auto begun = std::chrono::steady_clock::now();
  // What runs has the time it had; what is late is late when it would have been, and waits for nothing else.
  CHECK(running.get().text() == "held");
  const InvocationResult over = late.get();
  CHECK(absl::IsDeadlineExceeded(over.status));
  CHECK(over.total >= 600ms);
  // Starts are tried again after their backoff; what was short-lived goes, what was not stays.
  CHECK_THAT(std::string(stage.invoke("broken", "x", 60s).status.message()),
             ContainsSubstring("3 starts in a row failed"));
  CHECK(eventually([&] { return stage.platform->stats("brief").live() == 0; }));
  CHECK(stage.platform->stats("f").live() >= 1);
  const InvocationResult warm = stage.invoke("f", "echo on");
  CHECK(warm.start == StartKind::warm);
  CHECK(eventually([&] { return !stage.in_state(HostState::frozen).empty(); }));
  for (const SandboxView& view : stage.platform->sandboxes()) {
    CHECK(view.age >= 0s);
    CHECK(view.age < 1h);
  }
  CHECK(std::chrono::steady_clock::now() - begun < 60s);
  jumped = 0;
  CHECK(stage.invoke("f", "echo back").text() == "back");
}
