// If these failed, nobody would be told why first calls are slow, or everybody would be, for nothing.
#include "provision/lazy_init.h"

#include "provision/host_stage.h"

using namespace faaskit;
using namespace faaskit::testing;

TEST_CASE("a first call that takes five times as long shows lazy initialisation, once", "[provision][lazy]") {
  LazyInit lazy;
  std::optional<LazyInit::Finding> found;
  const auto steady = [&](int calls, std::chrono::nanoseconds run) {
    for (int i = 0; i < calls && !found; ++i) found = lazy.note(2 + static_cast<std::uint64_t>(i), run);
  };
  SECTION("it does") {
    lazy.note(1, 30ms);
    lazy.note(1, 20ms);
    lazy.note(1, 28ms);
    steady(19, 5ms);
    CHECK_FALSE(found);
    steady(1, 5ms);
    REQUIRE(found);
    CHECK(found->first == 26ms);
    CHECK(found->steady == 5ms);
    CHECK_FALSE(lazy.note(1, 1s));
  }
  SECTION("two first calls show nothing yet") {
    lazy.note(1, 1s);
    lazy.note(1, 1s);
    steady(100, 1ms);
    CHECK_FALSE(found);
    CHECK(lazy.note(1, 1s));
  }
  SECTION("five times is not more than five times") {
    for (int i = 0; i < 3; ++i) lazy.note(1, 25ms);
    steady(100, 5ms);
    CHECK_FALSE(found);
  }
  SECTION("cold caches are not initialisation") {
    for (int i = 0; i < 3; ++i) lazy.note(1, 5ms);
    steady(100, 10us);
    CHECK_FALSE(found);
  }
}

TEST_CASE("a function that initialises itself in its first call is reported, with a cure",
          "[provision][lazy]") {
  HostStage stage;
  stage.deploy("f");
  const auto call = [&](Duration run, CallResult result = {}) {
    stage.call("f");
    stage.pass(20ms);
    stage.advance(run);
    stage.answer(std::move(result));
  };
  for (int i = 0; i < 3; ++i) {
    call(980ms);
    for (int j = 0; j < 7; ++j) call(0ms);
    CallResult raised;
    raised.reply.function_status = absl::UnknownError("raised");
    call(10s, std::move(raised));  // tells nothing
    if (i == 2) break;
    REQUIRE(stage.host->destroy(stage.results.back().sandbox).ok());
    stage.pass(100ms);
  }
  const std::vector<Event> events = stage.events->of("function.lazy_init");
  REQUIRE(events.size() == 1);
  CHECK(events[0].severity == Severity::warning);
  CHECK(events[0].function == "f");
  CHECK(
      events[0].detail ==
      "version 1: a sandbox's first call takes 1000.0 ms, a later one 20.0 ms: initialise while the code is "
      "loaded, or give the function a warm_up payload");
}
