// Deploys: what they ask for arrives, and one that is slow holds up nobody but its own function.
#include <condition_variable>

#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

// Code in a folder, whose opening can be held up.
class HeldCodes final : public CodeStore {
 public:
  explicit HeldCodes(std::string folder) : folder_(std::move(folder)) {}

  absl::StatusOr<CodeId> admit(const CodeSource&) override { return absl::UnimplementedError("not here"); }
  absl::StatusOr<std::shared_ptr<CodeLease>> open(const CodeId& id) override {
    std::unique_lock lock(mutex_);
    ++opened_[id.name];
    changed_.notify_all();
    changed_.wait(lock, [&] { return held_ != id.name; });
    return std::make_shared<Opened>(folder_);
  }
  absl::Status forget(const CodeId&) override { return absl::OkStatus(); }
  CodeStats stats() const override { return {}; }

  void hold(const std::string& name) {
    std::lock_guard lock(mutex_);
    held_ = name;
    changed_.notify_all();
  }
  bool wait_for_open(const std::string& name, int times) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, 20s, [&] { return opened_[name] >= times; });
  }
  int opened(const std::string& name) {
    std::lock_guard lock(mutex_);
    return opened_[name];
  }

 private:
  struct Opened final : CodeLease {
    explicit Opened(std::string folder) : folder_(std::move(folder)) {}
    const std::string& path() const override { return folder_; }
    const std::string folder_;
  };
  const std::string folder_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::string held_;
  std::map<std::string, int> opened_;
};

local::Function held(const std::string& name, const std::string& version) {
  local::Function function{.name = name, .code = CodeId{.name = name}, .handler = "main:handler"};
  function.env = {{"VERSION", version}};
  return function;
}

}  // namespace

TEST_CASE("a slow deploy holds up no deploy, removal or call of another function", "[local][deploy]") {
  Folder code;
  code.write("main.py", "import os\ndef handler(payload, context): return os.environ['VERSION']\n");
  REQUIRE(::chmod(code.path().c_str(), 0755) == 0);
  auto codes = std::make_shared<HeldCodes>(code.path());
  local::PlatformOptions options;
  options.codes = codes;
  Stage stage(options);
  codes->hold("slow");
  std::future<absl::Status> first =
      std::async(std::launch::async, [&] { return stage.platform->deploy(held("slow", "1")); });
  REQUIRE(codes->wait_for_open("slow", 1));
  std::future<void> others = std::async(std::launch::async, [&] {
    CHECK(stage.platform->deploy(held("quick", "1")).ToString() == "OK");
    CHECK(stage.invoke("quick", "").text() == "1");
    CHECK(stage.platform->remove("quick").ToString() == "OK");
    CHECK(absl::IsNotFound(stage.platform->remove("slow")));  // not there yet
  });
  const bool went_on = others.wait_for(20s) == std::future_status::ready;
  // The next version of the same function comes after it.
  std::future<absl::Status> second =
      std::async(std::launch::async, [&] { return stage.platform->deploy(held("slow", "2")); });
  codes->hold("");
  CHECK(went_on);
  CHECK(first.get().ToString() == "OK");
  CHECK(second.get().ToString() == "OK");
  const InvocationResult result = stage.invoke("slow", "");
  CHECK(result.text() == "2");
  CHECK(result.version == 2);
}

TEST_CASE("eight threads deploy one function: each version is known once, the last one runs",
          "[local][deploy]") {
  Stage stage;
  const std::string file = stage.folder.write("main.py", kCommands);
  std::vector<std::future<absl::Status>> deploys;
  for (int i = 0; i < 8; ++i) {
    deploys.push_back(std::async(std::launch::async, [&] {
      return stage.platform->deploy({.name = "f", .code_path = file, .handler = "main:handler"});
    }));
  }
  for (auto& deploy : deploys) CHECK(deploy.get().ToString() == "OK");
  CHECK(stage.invoke("f", "echo x").version == 8);
}

TEST_CASE("a sandbox that has served max_uses calls is replaced", "[local][deploy]") {
  Stage stage;
  stage.deploy({.name = "f", .lifetime = {.max_uses = 2}});
  std::vector<InvocationResult> results;
  for (int i = 0; i < 4; ++i) results.push_back(stage.invoke("f", "echo x"));
  for (const InvocationResult& result : results) CHECK(result.text() == "x");
  CHECK(results[0].sandbox == results[1].sandbox);
  CHECK(results[2].sandbox == results[3].sandbox);
  CHECK(results[1].sandbox != results[2].sandbox);
  CHECK(results[0].use == 1);
  CHECK(results[1].use == 2);
  CHECK(results[2].use == 1);
  CHECK(absl::IsInvalidArgument(
      stage.platform->deploy({.name = "g", .code_path = "/", .lifetime = {.max_uses = 0}})));
}

TEST_CASE(
    "a function whose starts all fail: its breaker opens as its deploy says, and calls are told at once",
    "[local][deploy]") {
  Stage stage;
  stage.deploy(
      {.name = "f",
       .retry =
           {.budget = 1, .backoff = 1ms, .max_backoff = 1ms, .breaker_failures = 2, .breaker_open = 60s}},
      "raise RuntimeError('the widget is missing')\n");
  REQUIRE(eventually([&] {
    (void)stage.invoke("f", "");
    return stage.platform->stats("f").breaker == Breaker::open;
  }));
  const std::uint64_t starts = stage.platform->stats("f").starts_admitted;
  const InvocationResult result = stage.invoke("f", "", 30s);
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring("the widget is missing"));
  CHECK(stage.platform->stats("f").starts_admitted == starts);
  CHECK(stage.platform->stats("f").breaker_opened == 1);
  stage.deploy({.name = "f"});
  CHECK(stage.platform->stats("f").breaker == Breaker::closed);
  CHECK(stage.invoke("f", "echo mended").text() == "mended");
}
