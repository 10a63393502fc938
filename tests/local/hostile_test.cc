// A sandbox that breaks the protocol, through the whole stack: it is cut off and destroyed, its caller is
// told why, everybody else is served, and the host's memory does not grow.
#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

constexpr auto kShort = 1s;

struct Crime {
  const char* name;
  absl::StatusCode code;
  const char* word;  // in the message
};

std::ostream& operator<<(std::ostream& out, const Crime& crime) { return out << crime.name; }

// Of this process, in KiB.
std::size_t resident() {
  std::ifstream status("/proc/self/status");
  for (std::string word; status >> word;) {
    std::size_t value = 0;
    if (word == "VmRSS:" && status >> value) return value;
  }
  return 0;
}

void deploy(Stage& stage, const std::string& crime = "") {
  stage.deploy_program({.name = "f", .env = {{"CRIME", crime}}, .retry = {.budget = 2, .backoff = 10ms}},
                       FAASKIT_HOSTILE_WORKER);
  stage.deploy_program({.name = "other"});
  REQUIRE(stage.invoke("other", "echo x").ok());
}

bool destroyed(const Stage& stage, const SandboxId& id) {
  return eventually([&] {
    for (const SandboxView& view : stage.platform->sandboxes()) {
      if (view.id == id) return false;
    }
    return true;
  });
}

}  // namespace

TEST_CASE("whatever a sandbox answers with, it is cut off, destroyed, and its caller told why",
          "[local][hostile]") {
  const auto crime = GENERATE(
      Crime{"garbage", absl::StatusCode::kInternal, "magic"},
      Crime{"oversize payload", absl::StatusCode::kInternal, "1073741824"},
      Crime{"oversize envelope", absl::StatusCode::kInternal, "1073741824"},
      Crime{"half a header", absl::StatusCode::kUnavailable, "ended its channel"},
      Crime{"half a frame", absl::StatusCode::kUnavailable, "ended its channel"},
      Crime{"half a frame, and waits", absl::StatusCode::kDeadlineExceeded, "no answer by its deadline"},
      Crime{"another call", absl::StatusCode::kInternal, "for call"},
      Crime{"a body without a head", absl::StatusCode::kInternal, "BODY without a REPLY_HEAD"},
      Crime{"announces too much", absl::StatusCode::kInternal, "the limit is"},
      Crime{"more than announced", absl::StatusCode::kInternal, "announced 10"},
      Crime{"an envelope of nonsense", absl::StatusCode::kInternal, "END"},
      Crime{"floods the channel", absl::StatusCode::kInternal, "the limit is"},
      Crime{"floods stdout", absl::StatusCode::kDeadlineExceeded, "no answer by its deadline"});
  CAPTURE(crime);
  Stage stage;
  deploy(stage);
  const std::size_t before = resident();
  const InvocationResult result = stage.invoke("f", crime.name, kShort);
  CHECK(result.status.code() == crime.code);
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring(crime.word));
  CHECK(result.payload.empty());
  CHECK(result.attempts == 1);
  CHECK(destroyed(stage, result.sandbox));
#ifndef FAASKIT_SANITIZED
  CHECK(resident() < before + (64 << 10));
#else
  (void)before;
#endif
  const InvocationResult next = stage.invoke("f", "honest");
  CHECK(next.text() == "honest");
  CHECK(next.sandbox != result.sandbox);
  CHECK(stage.invoke("other", "echo y").text() == "y");
}

TEST_CASE("who answers twice, or ahead of its call, has answered once: nobody else gets the second",
          "[local][hostile]") {
  for (const std::string crime : {"answers twice", "answers the next one", "stops reading and writes"}) {
    CAPTURE(crime);
    Stage stage;
    deploy(stage);
    const InvocationResult first = stage.invoke("f", crime, kShort);
    if (first.ok())
      CHECK_THAT(std::string(first.text().substr(0, 5)),
                 ContainsSubstring(crime[0] == 's' ? "zzzzz" : "first"));
    // It may be leased once more before its second answer is read; that call is nobody's to answer.
    const InvocationResult second = stage.invoke("f", "mine");
    CHECK((second.text() == "mine" || absl::IsInternal(second.status)));
    CHECK(destroyed(stage, first.sandbox));
    CHECK(stage.invoke("f", "mine").text() == "mine");
    CHECK(stage.platform->stats("f").leased == 0);
  }
}

TEST_CASE("what a sandbox says of its own times is no more than was measured", "[local][hostile]") {
  Stage stage;
  deploy(stage, "lies");
  const InvocationResult result = stage.invoke("f", "lies");
  CHECK(result.text() == "lied");
  CHECK(result.total < 20s);
  CHECK(result.run <= result.total);
  for (const Phase phase : {Phase::runtime, Phase::init}) {
    if (result.phases.has(phase)) CHECK(result.phases[phase] <= result.total);
  }
}

TEST_CASE("what is no hello is no start: the budget ends, and the caller hears what it said instead",
          "[local][hostile]") {
  const auto crime = GENERATE(Crime{"garbage", absl::StatusCode::kUnavailable, "magic"},
                              Crime{"wrong frame", absl::StatusCode::kUnavailable, "HELLO"},
                              Crime{"leaves", absl::StatusCode::kUnavailable, "exited with status 0"},
                              Crime{"future", absl::StatusCode::kUnavailable, "version"});
  CAPTURE(crime);
  Stage stage;
  deploy(stage, crime.name);
  const InvocationResult result = stage.invoke("f", "x");
  CHECK(result.status.code() == crime.code);
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring(crime.word));
  REQUIRE(eventually([&] { return stage.platform->sandboxes().size() == 1; }));
  CHECK(stage.invoke("other", "echo y").text() == "y");
}

TEST_CASE("a sandbox that never says hello is given up after hello_timeout, and its waiter told",
          "[local][hostile]") {
  local::PlatformOptions options;
  options.channel.hello_timeout = 200ms;
  Stage stage(options);
  deploy(stage, "silence");
  const InvocationResult result = stage.invoke("f", "x");
  CHECK(absl::IsUnavailable(result.status));
  CHECK_THAT(std::string(result.status.message()), ContainsSubstring("did not say hello within 200 ms"));
}

TEST_CASE("a second hello ends the sandbox before it harms anybody", "[local][hostile]") {
  Stage stage;
  deploy(stage, "two hellos");
  // Read with the first one, it is a failed start; after it, it ends an idle sandbox or its call.
  const InvocationResult result = stage.invoke("f", "x");
  CHECK((absl::IsUnavailable(result.status) || absl::IsInternal(result.status)));
  CHECK(stage.invoke("other", "echo y").text() == "y");
}

TEST_CASE("a flood of logs in many calls at once is bounded, each by its own limit", "[local][hostile]") {
  local::PlatformOptions options;
  options.host.max_log_bytes = 4096;
  Stage stage(options);
  deploy(stage);
  std::vector<std::future<InvocationResult>> calls;
  for (int i = 0; i < 4; ++i) calls.push_back(stage.start("f", "floods stdout", kShort));
  // Meanwhile the others are served by the same thread.
  for (int i = 0; i < 20; ++i) CHECK(stage.invoke("other", "echo y").text() == "y");
  for (auto& call : calls) {
    const InvocationResult result = call.get();
    CHECK(absl::IsDeadlineExceeded(result.status));
    CHECK(result.log_tail.size() <= 4096);
    CHECK(stage.logs->of(result.request).size() <= 4096);
  }
  CHECK(stage.logs->lost() > 0);
}
