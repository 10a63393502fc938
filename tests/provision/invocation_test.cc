// What travels with an invocation, both ways: if these failed, a door could not speak HTTP with a function.
#include <map>

#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>

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

// ---- output

TEST_CASE("what a left-over child writes between two calls belongs to neither", "[provision][log]") {
  HostStage stage;
  stage.deploy("f");
  stage.call("f");
  stage.write_output("first\n");
  stage.answer();
  stage.write_output("late\n");
  stage.call("f");  // before the loop has seen it
  stage.write_output("second\n");
  stage.answer();
  REQUIRE(stage.results.size() == 2);
  CHECK(stage.logs->of(stage.results[0].request) == "first\n");
  CHECK(stage.logs->of(stage.results[1].request) == "second\n");
  CHECK(stage.logs->of({}) == "late\n");
  CHECK(stage.results[1].log_tail == "second\n");
}

TEST_CASE("output beyond the bound is counted, per invocation, in log and record", "[provision][log]") {
  HostStage stage({.max_log_bytes = 10});
  stage.deploy("f");
  stage.call("f");
  stage.write_output("0123456789abc");
  stage.answer();
  stage.call("f");
  stage.write_output("x");
  stage.answer();
  REQUIRE(stage.results.size() == 2);
  CHECK(stage.logs->of(stage.results[0].request) == "0123456789");
  std::uint64_t lost = 0;
  for (const LogRecord& record : stage.logs->records) {
    if (record.lost_bytes > 0) CHECK(record.request == stage.results[0].request);
    lost += record.lost_bytes;
  }
  CHECK(lost == 3);
  REQUIRE(stage.records->records.size() == 2);
  CHECK(stage.records->records[0].log_bytes == 10);
  CHECK(stage.records->records[0].lost_log_bytes == 3);
  CHECK(stage.records->records[1].log_bytes == 1);
  CHECK(stage.records->records[1].lost_log_bytes == 0);
}

// If it failed: a function of short calls that talk fills the disk, each of them within its own bound.
TEST_CASE("output beyond a sandbox's bound per second is counted, and the next second has room again",
          "[provision][log]") {
  HostStage stage({.max_log_bytes = 10, .max_log_bytes_per_second = 15});
  stage.deploy("f");
  const auto call_and_write = [&](const std::string& text) {
    stage.call("f");
    stage.write_output(text);
    stage.answer();
    return stage.logs->of(stage.results.back().request);
  };
  CHECK(call_and_write("0123456789") == "0123456789");
  CHECK(call_and_write("0123456789abc") == "01234");
  CHECK(call_and_write("x") == "");
  std::map<LogBound, std::uint64_t> lost;
  for (const LogRecord& record : stage.logs->records) lost[record.bound] += record.lost_bytes;
  CHECK(lost[LogBound::invocation] == 3);
  CHECK(lost[LogBound::second] == 6);
  CHECK(stage.records->records[1].lost_log_bytes == 8);
  stage.clock->advance(std::chrono::seconds(1));
  CHECK(call_and_write("x") == "x");
}

// ---- memory

TEST_CASE("the peak is measured anew for every call, or not at all", "[provision][memory]") {
  const bool measured = GENERATE(true, false);
  HostStage stage({.measure_memory = measured});
  stage.script.usage = {.memory_peak_bytes = 5 << 20, .memory_source = "memory.peak"};
  stage.deploy("f");
  stage.call_and_answer("f");
  stage.call_and_answer("f");
  CHECK(stage.script.resets == (measured ? 2 : 0));
  CHECK(stage.results[1].memory_peak_bytes == (measured ? 5u << 20 : 0u));
  CHECK(stage.results[1].memory_source == (measured ? "memory.peak" : ""));
  CHECK(stage.records->records[1].memory_peak_bytes == stage.results[1].memory_peak_bytes);
}

// ---- records

TEST_CASE("one record per invocation, whatever became of it, after the answer", "[provision][record]") {
  HostStage stage;
  stage.deploy("f");
  const auto& records = stage.records->records;
  SECTION("served") {
    stage.call("f", {.payload = bytes("four"), .trace = "00-1", .tenant = "t"});
    CallResult result;
    result.reply.payload = bytes("answer");
    stage.answer(std::move(result));
    REQUIRE(records.size() == 1);
    CHECK(records[0].status.ok());
    CHECK(records[0].request == stage.results[0].request);
    CHECK(records[0].function == "f");
    CHECK(records[0].version == 1);
    CHECK(records[0].sandbox == stage.results[0].sandbox);
    CHECK(records[0].start == StartKind::cold);
    CHECK(records[0].payload_bytes == 4);
    CHECK(records[0].reply_bytes == 6);
    CHECK(records[0].tenant == "t");
    CHECK(records[0].trace == "00-1");
    CHECK(records[0].phases.has(Phase::settle));
    CHECK(records[0].arrived.time_since_epoch().count() > 0);
  }
  SECTION("raised") {
    stage.call("f");
    CallResult result;
    result.reply.function_status = absl::UnknownError("its own words");
    stage.answer(std::move(result));
    REQUIRE(records.size() == 1);
    CHECK(records[0].status == absl::UnknownError("its own words"));
  }
  SECTION("at its deadline") {
    stage.call("f");
    stage.pass(61s, 1s);
    REQUIRE(records.size() == 1);
    CHECK(absl::IsDeadlineExceeded(records[0].status));
    CHECK(records[0].total >= 60s);
  }
  SECTION("of nothing") {
    stage.invoker->async_invoke({}, asio::bind_executor(stage.io.get_executor(), [](InvocationResult) {}));
    stage.run();
    REQUIRE(records.size() == 1);
    CHECK(absl::IsNotFound(records[0].status));
    CHECK(records[0].function.empty());
    CHECK(records[0].sandbox.host == 0);
    CHECK(records[0].phases.has(Phase::acquire));
  }
  SECTION("cancelled") {
    stage.script.hold_hellos = true;
    asio::cancellation_signal signal;
    Invocation invocation{.function = stage.idle->resolve("f").value()};
    stage.invoker->async_invoke(
        std::move(invocation),
        asio::bind_cancellation_slot(signal.slot(),
                                     asio::bind_executor(stage.io.get_executor(), [](InvocationResult) {})));
    stage.run();
    CHECK(records.empty());
    signal.emit(asio::cancellation_type::total);
    stage.run();
    REQUIRE(records.size() == 1);
    CHECK(absl::IsCancelled(records[0].status));
    CHECK(records[0].function == "f");
  }
  SECTION("stopped") {
    stage.invoker->async_stop([](absl::Status) {});
    stage.call("f");
    REQUIRE(records.size() == 1);
    CHECK(absl::IsCancelled(records[0].status));
  }
}
