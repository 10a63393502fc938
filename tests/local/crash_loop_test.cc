// A function that crashes at every start: its callers hear why, at once after a while, and it serves again
// when it is well, without anybody's help.
#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

constexpr StartRetry kQuick = {
    .budget = 3, .backoff = 5ms, .max_backoff = 20ms, .breaker_failures = 5, .breaker_open = 500ms};

// A folder with the program, in which a file may appear; inside a sandbox it is /code.
struct Fragile {
  explicit Fragile(Stage& stage) : stage(stage) {
    std::filesystem::create_directory(code());
    std::filesystem::copy_file(FAASKIT_COMMANDED_WORKER, code() + "/program");
  }
  std::string code() const { return stage.folder.path() + "/code"; }
  local::Function function() const {
    return {.name = "f",
            .runtime = "exec",
            .code_path = code(),
            .handler = "program",
            .env = {{"INIT", "wait"}, {"NEEDS", "/code/widget"}},
            .retry = kQuick};
  }
  void deploy(local::Function function) {
    REQUIRE(stage.platform->deploy(std::move(function)).ToString() == "OK");
  }
  void mend() { std::ofstream(code() + "/widget") << "here"; }
  // Calls until the breaker is open.
  void open_breaker() {
    REQUIRE(eventually([&] {
      CHECK(absl::IsUnavailable(stage.invoke("f", "echo x").status));
      return stage.platform->stats("f").breaker_opened == 1;
    }));
  }
  Stage& stage;
};

}  // namespace

TEST_CASE("a function that crashes at every start: its waiters hear how, at the end of the budget",
          "[local][crash]") {
  Stage stage;
  Fragile fragile(stage);
  fragile.deploy(fragile.function());
  const InvocationResult result = stage.invoke("f", "echo x");
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring("3 starts in a row failed") &&
                                                       ContainsSubstring("exited with status 4") &&
                                                       ContainsSubstring("the widget is not there"));
}

TEST_CASE("one that is killed by a signal in its init: the signal is told", "[local][crash]") {
  Stage stage;
  stage.deploy_program({.name = "f", .env = {{"INIT", "segfault"}}, .retry = kQuick});
  const InvocationResult result = stage.invoke("f", "echo x");
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring("killed by signal 11"));
}

TEST_CASE("a memory limit that is too small to start with: that is told", "[local][crash]") {
  Stage stage;
  stage.deploy({.name = "f", .limits = {.memory_bytes = 2ull << 20}, .retry = kQuick});
  const InvocationResult result = stage.invoke("f", "echo x");
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()),
             ContainsSubstring("out of memory: the limit is 2097152 bytes"));
}

TEST_CASE("the breaker opens: calls are answered at once, with the last error, and nothing is started",
          "[local][crash]") {
  Stage stage;
  Fragile fragile(stage);
  local::Function function = fragile.function();
  function.retry.breaker_open = 10min;
  fragile.deploy(function);
  fragile.open_breaker();
  CHECK(stage.platform->stats("f").breaker == Breaker::open);
  REQUIRE(eventually([&] { return stage.platform->sandboxes().empty(); }));
  const std::uint64_t before = stage.platform->stats("f").starts_admitted;
  for (int i = 0; i < 20; ++i) {
    const InvocationResult result = stage.invoke("f", "echo x", 60s);
    CHECK(absl::IsUnavailable(result.status));
    CHECK(result.total < 30s);  // it did not wait for anything
    CHECK_THAT(std::string(result.status.message()),
               ContainsSubstring("exited with status 4") && ContainsSubstring("the widget is not there"));
  }
  CHECK(stage.platform->stats("f").starts_admitted == before);
  CHECK(stage.platform->stats("f").waiters == 0);

  // Its author has mended it, and says so.
  fragile.mend();
  function.retry.breaker_open = 10min;
  fragile.deploy(function);
  CHECK(stage.platform->stats("f").breaker == Breaker::closed);
  CHECK(stage.invoke("f", "echo mended").text() == "mended");
}

TEST_CASE("the breaker closes by itself, once what the function lacked is there", "[local][crash]") {
  Stage stage;
  Fragile fragile(stage);
  fragile.deploy(fragile.function());
  fragile.open_breaker();
  // Half open, one start is tried now and then, and each failure opens it again.
  REQUIRE(eventually([&] {
    CHECK(absl::IsUnavailable(stage.invoke("f", "echo x").status));
    return stage.platform->stats("f").breaker_opened >= 2;
  }));
  fragile.mend();
  REQUIRE(eventually([&] { return stage.invoke("f", "echo back").text() == "back"; }));
  CHECK(stage.platform->stats("f").breaker == Breaker::closed);
  CHECK(stage.invoke("f", "echo x").start == StartKind::warm);
}

TEST_CASE("what is provisioned closes the breaker although nobody calls", "[local][crash]") {
  Stage stage;
  Fragile fragile(stage);
  local::Function function = fragile.function();
  function.provisioned = 2;
  fragile.deploy(function);
  REQUIRE(eventually([&] { return stage.platform->stats("f").breaker_opened >= 1; }));
  fragile.mend();
  REQUIRE(eventually([&] { return stage.platform->stats("f").idle == 2; }));
}

TEST_CASE("fifty starts that failed leave nothing: descriptors, processes, mounts, groups",
          "[local][crash]") {
  const std::string init = GENERATE(as<std::string>{}, "fail", "segfault");
  CAPTURE(init);
  need_own_mounts();
  Stage stage;
  stage.deploy_program({.name = "other"});
  REQUIRE(stage.invoke("other", "echo x").ok());
  const std::string group = groups_of(*stage.platform);
  REQUIRE(eventually([&] { return Belongings::now(group).children >= 6; }));  // its spares are parked
  const Belongings before = settled(group);
  stage.deploy_program(
      {.name = "f",
       .env = {{"INIT", init}},
       .retry = {.budget = 1, .backoff = 1ms, .max_backoff = 1ms, .breaker_failures = 1000}});
  REQUIRE(eventually([&] {
    CHECK(absl::IsUnavailable(stage.invoke("f", "echo x").status));
    return stage.platform->stats("f").starts_failed >= 50;
  }));
  CHECK(as_before(before, group));
  CHECK(stage.platform->stats("f").live() == 0);
}

TEST_CASE("one function's crash loop takes nothing from another", "[local][crash]") {
  Stage stage;
  Fragile fragile(stage);
  fragile.deploy(fragile.function());
  stage.deploy_program({.name = "other"});
  std::vector<std::future<InvocationResult>> calls;
  for (int i = 0; i < 20; ++i) calls.push_back(stage.start("f", "echo x"));
  for (int i = 0; i < 50; ++i) CHECK(stage.invoke("other", "echo y").text() == "y");
  for (auto& call : calls) CHECK(absl::IsUnavailable(call.get().status));
}
