// Whose output, whose memory, whose time: if these failed, a function's author would read somebody else's.
#include <algorithm>
#include <map>

#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

// "tag mib": prints lines of its own, and so does a child, which touches so many MiB; both at the pace of a
// function that has something else to do.
constexpr const char* kTalker = R"(
import os, sys, time
def handler(payload, context):
    tag, mib = payload.decode().split()
    print(tag, "begins", flush=True)
    child = os.fork()
    if child == 0:
        block = bytearray(int(mib) << 20)
        for i in range(0, len(block), 4096): block[i] = 1
        for i in range(10):
            os.write(2, f"{tag} child {i}\n".encode())
            time.sleep(0.001)
        os._exit(0)
    for i in range(10):
        print(tag, "parent", i, flush=True)
        time.sleep(0.001)
    os.waitpid(child, 0)
    print(tag, "ends")
    return tag
)";

std::vector<std::string> lines(const std::string& text) {
  std::vector<std::string> found;
  std::size_t at = 0;
  for (std::size_t end = text.find('\n'); end != std::string::npos; end = text.find('\n', at)) {
    found.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  std::sort(found.begin(), found.end());
  return found;
}

std::vector<std::string> expected(const std::string& tag) {
  std::vector<std::string> all = {tag + " begins", tag + " ends"};
  for (int i = 0; i < 10; ++i) {
    all.push_back(tag + " child " + std::to_string(i));
    all.push_back(tag + " parent " + std::to_string(i));
  }
  std::sort(all.begin(), all.end());
  return all;
}

// Code that is a folder already.
class FolderCode final : public CodeStore {
 public:
  explicit FolderCode(std::string path) : path_(std::move(path)) {}
  absl::StatusOr<CodeId> admit(const CodeSource&) override { return absl::UnimplementedError("test"); }
  absl::StatusOr<std::shared_ptr<CodeLease>> open(const CodeId& id) override {
    if (id.name != "here") return absl::NotFoundError("open " + id.name + ": never admitted");
    return std::make_shared<Opened>(path_, leased);
  }
  absl::Status forget(const CodeId&) override { return absl::OkStatus(); }
  CodeStats stats() const override { return {}; }

  std::shared_ptr<std::atomic<int>> leased = std::make_shared<std::atomic<int>>(0);

 private:
  class Opened final : public CodeLease {
   public:
    Opened(std::string path, std::shared_ptr<std::atomic<int>> leased)
        : path_(std::move(path)), leased_(std::move(leased)) {
      ++*leased_;
    }
    ~Opened() override { --*leased_; }
    const std::string& path() const override { return path_; }

   private:
    const std::string path_;
    const std::shared_ptr<std::atomic<int>> leased_;
  };
  const std::string path_;
};

}  // namespace

TEST_CASE("three sandboxes that talk at once: each invocation has its own lines, all of them, and its peak",
          "[local][record]") {
  // Beyond what was asked for: pages of a fork, of the interpreter, of per-CPU batches.
  constexpr std::int64_t kTolerance = 6 << 20;
  local::PlatformOptions options;
  options.shards = 2;
  Stage stage(options);
  const std::vector<std::string> names = {"a", "b", "c"};
  std::map<std::string, std::uint64_t> base;
  for (const std::string& name : names) {
    stage.deploy({.name = name}, kTalker);
    InvocationResult first = stage.invoke(name, name + "-zero 0");
    REQUIRE(first.status.ToString() == "OK");
    base[name] = stage.invoke(name, name + "-zero 0").memory_peak_bytes;
  }
  const std::vector<std::vector<int>> mibs = {{64, 8, 32}, {8, 48, 16}, {24, 0, 80}};
  for (std::size_t round = 0; round < mibs.size(); ++round) {
    std::vector<std::future<InvocationResult>> calls;
    std::vector<std::string> tags;
    for (std::size_t i = 0; i < names.size(); ++i) {
      tags.push_back(names[i] + std::to_string(round));
      calls.push_back(stage.start(names[i], tags[i] + " " + std::to_string(mibs[round][i])));
    }
    for (std::size_t i = 0; i < names.size(); ++i) {
      InvocationResult result = calls[i].get();
      INFO(tags[i] << ": " << mibs[round][i] << " MiB above " << base[names[i]] << " by "
                   << result.memory_source);
      REQUIRE(result.text() == tags[i]);
      CHECK(lines(stage.logs->of(result.request)) == expected(tags[i]));
      REQUIRE(eventually([&] { return stage.records->of(result.request).has_value(); }));
      const ExecutionRecord record = *stage.records->of(result.request);
      CHECK(record.log_bytes == stage.logs->of(result.request).size());
      CHECK(record.lost_log_bytes == 0);
      CHECK(record.memory_peak_bytes == result.memory_peak_bytes);
      // What counts children, and anew for every call.
      if (result.memory_source != "memory.max_usage_in_bytes") continue;
      const std::int64_t want =
          static_cast<std::int64_t>(base[names[i]]) + (std::int64_t{mibs[round][i]} << 20);
      CHECK(std::abs(static_cast<std::int64_t>(result.memory_peak_bytes) - want) <= kTolerance);
    }
  }
  CHECK(stage.logs->of({}).empty());
  CHECK(eventually([&] { return stage.records->all().size() == 15; }));
}

TEST_CASE("what a left-over child writes after the reply belongs to no invocation", "[local][record]") {
  local::PlatformOptions options;
  options.host.freeze = FreezePolicy::never;
  Stage stage(options);
  stage.deploy({.name = "f"}, R"(
import os, time
print("init", flush=True)
def handler(payload, context):
    if payload == b"leave" and os.fork() == 0:
        time.sleep(0.2)
        os.write(1, b"late\n")
        os._exit(0)
    print("mine")
)");
  InvocationResult left = stage.invoke("f", "leave");
  REQUIRE(left.status.ToString() == "OK");
  CHECK(stage.logs->of(left.request) == "mine\n");
  REQUIRE(eventually([&] { return stage.logs->count("late") == 1; }));
  InvocationResult next = stage.invoke("f", "");
  CHECK(next.sandbox == left.sandbox);
  CHECK(stage.logs->of(next.request) == "mine\n");
  CHECK(stage.logs->of({}) == "init\nlate\n");
}

TEST_CASE("a cold call's phases are told, and add up; a warm one has none of a start", "[local][record]") {
  Stage stage;
  stage.deploy({.name = "f"}, std::string("import time\ntime.sleep(0.05)\n") + kCommands);
  const InvocationResult cold = stage.invoke("f", "echo x");
  REQUIRE(cold.status.ToString() == "OK");
  for (Phase phase :
       {Phase::acquire, Phase::start_queue, Phase::create, Phase::hello, Phase::run, Phase::settle})
    CHECK(cold.phases.has(phase));
  CHECK_FALSE(cold.phases.has(Phase::fetch));
  CHECK(cold.phases[Phase::hello] >= 50ms);
  CHECK(cold.phases[Phase::start_queue] + cold.phases[Phase::create] + cold.phases[Phase::hello] <=
        cold.phases[Phase::acquire]);
  CHECK(cold.phases[Phase::acquire] + cold.phases[Phase::run] <= cold.total);
  REQUIRE(eventually([&] { return stage.all_frozen(1); }));
  const InvocationResult warm = stage.invoke("f", "echo x");
  CHECK_FALSE(warm.phases.has(Phase::create));
  CHECK(warm.phases.has(Phase::thaw));
  CHECK(warm.phases.has(Phase::freeze));
}

TEST_CASE("code of a store runs, and its lease ends with its last sandbox", "[local][code]") {
  local::PlatformOptions options;
  Folder folder;
  folder.write("main.py", "def handler(payload, context): return 'from the store'\n");
  std::filesystem::permissions(folder.path(), std::filesystem::perms{0755});
  auto codes = std::make_shared<FolderCode>(folder.path());
  options.codes = codes;
  Stage stage(options);
  CHECK(absl::IsNotFound(stage.platform->deploy(
      {.name = "f", .code = CodeId{CodeKind::copied, "elsewhere"}, .handler = "main:handler"})));
  REQUIRE(stage.platform
              ->deploy({.name = "f", .code = CodeId{CodeKind::copied, "here"}, .handler = "main:handler"})
              .ToString() == "OK");
  CHECK(*codes->leased == 0);
  const InvocationResult result = stage.invoke("f", "");
  REQUIRE(result.status.ToString() == "OK");
  CHECK(result.text() == "from the store");
  CHECK(result.phases.has(Phase::fetch));
  CHECK(*codes->leased == 1);
  REQUIRE(stage.platform->stop().ok());
  CHECK(eventually([&] { return *codes->leased == 0; }));
}

TEST_CASE("a sandbox is warmed up before its first call, and not by a payload that fails",
          "[local][warm-up]") {
  Stage stage;
  constexpr const char* kCounter = R"(
seen = []
def handler(payload, context):
    if payload == b"bad": raise ValueError("cannot be warm")
    seen.append(payload.decode())
    return ",".join(seen)
)";
  const auto payload = [](std::string_view text) {
    Bytes bytes(text.size());
    std::memcpy(bytes.data(), text.data(), text.size());
    return bytes;
  };
  stage.deploy({.name = "f", .warm_up = {{.payload = payload("one")}, {.payload = payload("two")}}},
               kCounter);
  CHECK(stage.invoke("f", "real").text() == "one,two,real");
  CHECK(eventually([&] { return stage.records->all().size() == 1; }));
  stage.deploy({.name = "g",
                .retry = {.budget = 1},
                .warm_up = {{.payload = payload("one")}, {.payload = payload("bad")}}},
               kCounter);
  const InvocationResult failed = stage.invoke("g", "real");
  CHECK_THAT(failed.status.ToString(),
             ContainsSubstring("warm-up 2 of 2") && ContainsSubstring("cannot be warm"));
}
