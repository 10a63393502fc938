// What travels with an invocation, both ways: if these failed, a door could not speak HTTP with a function.
#include "provision/host_stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

Bytes bytes(std::string_view text) {
  Bytes all(text.size());
  std::memcpy(all.data(), text.data(), text.size());
  return all;
}

// Keeps what it was given.
class Kept final : public InvocationStream {
 public:
  void head(const InvocationResult& so_far, ReplyHead head) override {
    heads.push_back(std::move(head));
    known = {so_far.start, so_far.sandbox, so_far.version, so_far.attempts};
    acquire = so_far.phases[Phase::acquire];
  }
  void body(Bytes part, ReplyStream::Taken taken) override {
    text.append(reinterpret_cast<const char*>(part.data()), part.size());
    taken();
  }
  struct Known {
    StartKind start = StartKind::warm;
    SandboxId sandbox{};
    Version version = 0;
    std::uint32_t attempts = 0;
  };
  std::vector<ReplyHead> heads;
  Known known;
  std::chrono::nanoseconds acquire = Phases::kAbsent;
  std::string text;
};

}  // namespace

TEST_CASE("metadata goes to the sandbox, and the reply's comes back", "[provision][invocation]") {
  HostStage stage;
  stage.deploy("f");
  stage.call("f", {.content_type = "text/plain", .metadata = {{":method", "GET"}, {"accept", "*/*"}}});
  stage.pass(100ms);
  REQUIRE(stage.script.sent.size() == 1);
  CHECK(stage.script.sent[0].metadata == Metadata{{":method", "GET"}, {"accept", "*/*"}});
  CallResult result;
  result.reply.metadata = {{":status", "404"}};
  stage.answer(std::move(result));
  REQUIRE(stage.results.size() == 1);
  CHECK(stage.results[0].metadata == Metadata{{":status", "404"}});
}

TEST_CASE("a call made again on another sandbox takes its metadata along", "[provision][invocation]") {
  HostStage stage;
  stage.deploy("f");
  stage.call("f", {.metadata = {{"name", "value"}}});
  stage.pass(100ms);
  CallResult lost;
  lost.status = absl::UnavailableError("it died");
  lost.never_began = true;
  lost.payload = std::move(stage.script.sent[0].payload);
  stage.answer(std::move(lost));
  stage.pass(200ms);
  REQUIRE(stage.script.sent.size() == 2);
  CHECK(stage.script.sent[1].metadata == Metadata{{"name", "value"}});
  stage.answer();
  CHECK(stage.results.back().ok());
  CHECK(stage.results.back().attempts == 2);
}

TEST_CASE("a streamed reply: the head with what is known by then, then the parts, then the result",
          "[provision][invocation]") {
  HostStage stage;
  stage.deploy("f");
  auto kept = std::make_shared<Kept>();
  stage.call("f", {.stream = kept});
  stage.pass(100ms);
  REQUIRE(stage.script.sent.size() == 1);
  const std::shared_ptr<ReplyStream> stream = stage.script.sent[0].stream;
  REQUIRE(stream);
  stream->head({.content_type = "text/event-stream"});
  REQUIRE(kept->heads.size() == 1);
  CHECK(kept->heads[0].content_type == "text/event-stream");
  CHECK(kept->known.start == StartKind::cold);
  CHECK(kept->known.sandbox == stage.host->sandboxes()[0].id);
  CHECK(kept->known.version == 1);
  CHECK(kept->known.attempts == 1);
  CHECK(kept->acquire != Phases::kAbsent);
  int taken = 0;
  stream->body(bytes("one "), [&] { ++taken; });
  stream->body(bytes("two"), [&] { ++taken; });
  CHECK(taken == 2);
  CHECK(stage.results.empty());
  CallResult result;
  result.reply.payload_bytes = 7;
  stage.answer(std::move(result));
  REQUIRE(stage.results.size() == 1);
  CHECK(stage.results[0].ok());
  CHECK(stage.results[0].payload.empty());
  CHECK(kept->text == "one two");
}

TEST_CASE("whatever a channel does, nothing reaches a stream once its call has ended",
          "[provision][invocation]") {
  HostStage stage;
  stage.deploy("f");
  auto kept = std::make_shared<Kept>();
  stage.call("f", {.stream = kept});
  stage.pass(100ms);
  REQUIRE(stage.script.sent.size() == 1);
  const std::shared_ptr<ReplyStream> stream = stage.script.sent[0].stream;
  stream->head({});
  SECTION("answered") { stage.answer(); }
  SECTION("at its deadline") { stage.pass(61s, 1s); }
  REQUIRE(stage.results.size() == 1);
  stream->body(bytes("late"), [] {});
  CHECK(kept->text.empty());
}

TEST_CASE("a reply whose head was given is not begun again elsewhere", "[provision][invocation]") {
  HostStage stage;
  stage.deploy("f");
  auto kept = std::make_shared<Kept>();
  stage.call("f", {.stream = kept});
  stage.pass(100ms);
  REQUIRE(stage.script.sent.size() == 1);
  stage.script.sent[0].stream->head({});
  CallResult lost;
  lost.status = absl::UnavailableError("it died");
  lost.never_began = true;  // a channel at fault
  stage.answer(std::move(lost));
  stage.pass(200ms);
  REQUIRE(stage.results.size() == 1);
  CHECK(absl::IsUnavailable(stage.results[0].status));
  CHECK(stage.script.sent.size() == 1);
  CHECK(kept->heads.size() == 1);
}
