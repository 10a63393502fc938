// Cancellation of a running call, where the loop and the clock stand still: every moment at which it may
// come.
#include <boost/asio/bind_cancellation_slot.hpp>
#include <boost/asio/cancellation_signal.hpp>

#include "provision/host_stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

// One call, and the way to cancel it.
struct Caller {
  explicit Caller(HostStage& on) : stage(on) {}

  void call(const std::string& function, Invocation invocation = {.cancel = Cancel::running_too}) {
    invocation.function = stage.idle->resolve(function).value();
    invocation.timeout = 60s;
    auto keep = [this](InvocationResult result) { results.push_back(std::move(result)); };
    stage.invoker->async_invoke(
        std::move(invocation),
        asio::bind_cancellation_slot(signal.slot(), asio::bind_executor(stage.io.get_executor(), keep)));
  }
  void cancel(asio::cancellation_type_t type = asio::cancellation_type::total) { signal.emit(type); }

  HostStage& stage;
  asio::cancellation_signal signal;
  std::vector<InvocationResult> results;
};

// A sandbox that is idle, and has served once.
void warm(HostStage& stage) {
  stage.deploy("f");
  stage.call("f");
  stage.pass(100ms);
  stage.answer();
  REQUIRE(stage.results.back().ok());
}

Bytes bytes(std::string_view text) {
  Bytes all(text.size());
  std::memcpy(all.data(), text.data(), text.size());
  return all;
}

}  // namespace

TEST_CASE("a running call is cancelled: answered at once, and its sandbox ended", "[provision][cancel]") {
  for (const auto type : {asio::cancellation_type::total, asio::cancellation_type::partial,
                          asio::cancellation_type::terminal}) {
    HostStage stage;
    warm(stage);
    Caller caller(stage);
    caller.call("f");
    stage.run();
    stage.advance(7ms);
    REQUIRE(caller.results.empty());
    stage.write_output("half way\n");
    caller.cancel(type);
    REQUIRE(caller.results.empty());  // never inside the emit
    stage.run();
    REQUIRE(caller.results.size() == 1);
    const InvocationResult& result = caller.results[0];
    CHECK(absl::IsCancelled(result.status));
    CHECK_THAT(std::string(result.status.message()), ContainsSubstring("cancelled by the caller after 7 ms"));
    CHECK(result.log_tail == "half way\n");
    CHECK(result.phases[Phase::run] == 7ms);
    CHECK(result.attempts == 1);
    stage.pass(100ms);
    CHECK(stage.host->sandboxes().empty());
    CHECK(stage.stats("f").live() == 0);
    REQUIRE(stage.records->records.size() == 2);
    CHECK(absl::IsCancelled(stage.records->records[1].status));
    CHECK(stage.records->records[1].phases.has(Phase::acquire));
    CHECK(stage.records->records[0].use == 1);
    CHECK(stage.records->records[1].use == 2);
  }
}

TEST_CASE("cancellation type none changes nothing", "[provision][cancel]") {
  HostStage stage;
  warm(stage);
  Caller caller(stage);
  caller.call("f");
  stage.run();
  caller.cancel(asio::cancellation_type::none);
  stage.run();
  REQUIRE(caller.results.empty());
  stage.script.calls.erase(stage.script.calls.begin(), stage.script.calls.end() - 1);
  stage.answer();
  REQUIRE(caller.results.size() == 1);
  CHECK(caller.results[0].ok());
}

TEST_CASE("a call that only its wait may be cancelled of runs to its end", "[provision][cancel]") {
  HostStage stage;
  warm(stage);
  Caller caller(stage);
  caller.call("f", {.cancel = Cancel::waiting});
  stage.run();
  caller.cancel();
  stage.run();
  REQUIRE(caller.results.empty());
  stage.answer();
  REQUIRE(caller.results.size() == 1);
  CHECK(caller.results[0].ok());
  stage.pass(50ms);
  CHECK(stage.host->sandboxes().size() == 1);
}

TEST_CASE("a cancel that overtakes the call: it never began, and its sandbox is idle as before",
          "[provision][cancel]") {
  HostStage stage;
  warm(stage);
  const std::size_t sent = stage.script.sent.size();
  Caller caller(stage);
  caller.call("f");  // not begun yet: its shard has not run
  caller.cancel();
  stage.run();
  REQUIRE(caller.results.size() == 1);
  CHECK(absl::IsCancelled(caller.results[0].status));
  if (stage.script.sent.size() == sent) {
    CHECK(stage.host->sandboxes().size() == 1);
    CHECK(stage.stats("f").idle == 1);
  }
  // Either way somebody is served next.
  stage.call("f");
  stage.pass(100ms);
  REQUIRE(stage.script.sent.size() > sent);
  while (!stage.script.calls.empty()) stage.answer();
  CHECK(stage.results.back().ok());
}

TEST_CASE("the host alone: a cancel before admission leaves the sandbox untouched", "[provision][cancel]") {
  HostStage stage;
  warm(stage);
  const SandboxView before = stage.host->sandboxes()[0];
  asio::cancellation_signal signal;
  std::vector<HostReply> replies;
  // From a thread that is not the shard's the call is posted; here the loop does not run, which is the same.
  HostCall call{
      .sandbox = before.id, .token = 1000, .deadline = stage.clock->now() + 1s, .payload = bytes("x")};
  stage.host->async_call(
      std::move(call), asio::bind_cancellation_slot(
                           signal.slot(), asio::bind_executor(stage.io.get_executor(), [&](HostReply reply) {
                             replies.push_back(std::move(reply));
                           })));
  signal.emit(asio::cancellation_type::terminal);
  stage.run();
  REQUIRE(replies.size() == 1);
  CHECK(absl::IsCancelled(replies[0].status));
  CHECK_THAT(std::string(replies[0].status.message()), ContainsSubstring("before it began"));
  CHECK(replies[0].never_began);
  CHECK(replies[0].clean);
  CHECK(replies[0].payload == bytes("x"));
  REQUIRE(stage.host->sandboxes().size() == 1);
  CHECK(stage.host->sandboxes()[0].generation == before.generation);
  CHECK(stage.host->sandboxes()[0].uses == before.uses);
}

TEST_CASE("a cancel that comes after the reply changes nothing", "[provision][cancel]") {
  HostStage stage;
  warm(stage);
  Caller caller(stage);
  caller.call("f");
  stage.run();
  REQUIRE(stage.script.calls.size() == 1);
  SECTION("it is on its way to the caller") {
    Channel::CallHandler done = std::move(stage.script.calls[0]);
    stage.script.calls.clear();
    asio::post(stage.io, [&] { done(CallResult{}); });
    asio::post(stage.io, [&] { caller.cancel(); });
    stage.run();
  }
  SECTION("it was given") {
    stage.answer();
    caller.cancel();
    stage.run();
  }
  REQUIRE(caller.results.size() == 1);
  CHECK(caller.results[0].ok());
  stage.pass(50ms);
  REQUIRE(stage.host->sandboxes().size() == 1);
  // Nor does it end the next call on the same sandbox.
  stage.call("f");
  caller.cancel();
  stage.run();
  stage.answer();
  CHECK(stage.results.back().ok());
}

TEST_CASE("the host alone: a cancel that comes late ends no later call on the same sandbox",
          "[provision][cancel]") {
  HostStage stage;
  warm(stage);
  const SandboxId id = stage.host->sandboxes()[0].id;
  asio::cancellation_signal signal;
  std::vector<HostReply> replies;
  const auto call = [&](Token token) {
    HostCall call{.sandbox = id, .token = token, .deadline = stage.clock->now() + 1s};
    call.lease.request.sequence = token;
    auto keep = asio::bind_executor(stage.io.get_executor(),
                                    [&](HostReply reply) { replies.push_back(std::move(reply)); });
    if (token == 1000)
      stage.host->async_call(std::move(call), asio::bind_cancellation_slot(signal.slot(), std::move(keep)));
    else
      stage.host->async_call(std::move(call), std::move(keep));
  };
  call(1000);
  stage.run();
  REQUIRE(stage.script.calls.size() == 1);
  Channel::CallHandler done = std::move(stage.script.calls[0]);
  stage.script.calls.clear();
  asio::post(stage.io, [&] {
    done(CallResult{});
    call(1001);  // begins in the same turn
    signal.emit(asio::cancellation_type::total);
  });
  stage.run();
  REQUIRE(replies.size() == 1);
  CHECK(replies[0].status.ok());
  REQUIRE(stage.script.calls.size() == 1);
  stage.answer();
  REQUIRE(replies.size() == 2);
  CHECK(replies[1].status.ok());
  CHECK(stage.host->sandboxes().size() == 1);
}

TEST_CASE("a signal may outlive everything, and speak", "[provision][cancel]") {
  asio::cancellation_signal of_host;
  asio::cancellation_signal of_invoker;
  {
    HostStage stage;
    warm(stage);
    Invocation invocation{.function = stage.idle->resolve("f").value(), .cancel = Cancel::running_too};
    stage.invoker->async_invoke(
        std::move(invocation),
        asio::bind_cancellation_slot(of_invoker.slot(),
                                     asio::bind_executor(stage.io.get_executor(), [](InvocationResult) {})));
    stage.run();
    stage.answer();
    HostCall call{
        .sandbox = stage.host->sandboxes()[0].id, .token = 1000, .deadline = stage.clock->now() + 1s};
    stage.host->async_call(
        std::move(call), asio::bind_cancellation_slot(
                             of_host.slot(), asio::bind_executor(stage.io.get_executor(), [](HostReply) {})));
    stage.run();
    stage.answer();
  }
  // Their loop is gone: whatever still pointed there would be found by a sanitizer.
  of_invoker.emit(asio::cancellation_type::total);
  of_host.emit(asio::cancellation_type::total);
}

TEST_CASE("a call that died and waits for its cause is answered when it is cancelled",
          "[provision][cancel]") {
  HostStage stage;
  warm(stage);
  stage.script.mortal = false;
  Caller caller(stage);
  caller.call("f");
  stage.run();
  CallResult died;
  died.status = absl::UnavailableError("end of stream");
  stage.answer(std::move(died));
  REQUIRE(caller.results.empty());
  caller.cancel();
  stage.run();
  REQUIRE(caller.results.size() == 1);
  CHECK(absl::IsCancelled(caller.results[0].status));
  stage.pass(100ms);
  CHECK(caller.results.size() == 1);
  REQUIRE(::eventfd_write(stage.script.end.get(), 1) == 0);
  stage.pass(100ms);
  CHECK(stage.host->sandboxes().empty());
}

TEST_CASE("a cancel during the ping before a call: answered at once, nothing of the call was sent",
          "[provision][cancel]") {
  HostStage stage;
  stage.script.hold_pings = true;
  warm(stage);
  const std::size_t sent = stage.script.sent.size();
  stage.pass(2min, 10s);  // longer than Lifetime::ping_after
  Caller caller(stage);
  caller.call("f");
  stage.run();
  REQUIRE(stage.script.pings == 1);
  caller.cancel();
  stage.run();
  REQUIRE(caller.results.size() == 1);
  CHECK(absl::IsCancelled(caller.results[0].status));
  CHECK(caller.results[0].attempts == 1);
  stage.script.held_pings[0](absl::OkStatus());  // too late
  stage.pass(100ms);
  CHECK(caller.results.size() == 1);
  CHECK(stage.script.sent.size() == sent);
  CHECK(stage.host->sandboxes().empty());
}

TEST_CASE("a streamed reply that is cancelled is cut short with the error", "[provision][cancel]") {
  class Kept final : public InvocationStream {
   public:
    void head(const InvocationResult&, ReplyHead) override { ++heads; }
    void body(Bytes part, ReplyStream::Taken) override { bytes += part.size(); }
    int heads = 0;
    std::size_t bytes = 0;
  };
  HostStage stage;
  warm(stage);
  Caller caller(stage);
  auto kept = std::make_shared<Kept>();
  caller.call("f", {.stream = kept, .cancel = Cancel::running_too});
  stage.run();
  const std::shared_ptr<ReplyStream> stream = stage.script.sent.back().stream;
  stream->head({});
  stream->body(bytes("one"), [] {});
  caller.cancel();
  stage.run();
  REQUIRE(caller.results.size() == 1);
  CHECK(absl::IsCancelled(caller.results[0].status));
  stream->body(bytes("late"), [] {});
  CHECK(kept->heads == 1);
  CHECK(kept->bytes == 3);
}

TEST_CASE("streamed_too: the call is ended once its reply streams, and not before", "[provision][cancel]") {
  class Heads final : public InvocationStream {
   public:
    void head(const InvocationResult&, ReplyHead) override { ++heads; }
    void body(Bytes, ReplyStream::Taken) override { ++parts; }
    int heads = 0;
    int parts = 0;
  };
  HostStage stage;
  warm(stage);
  Caller caller(stage);
  auto heads = std::make_shared<Heads>();
  caller.call("f", {.stream = heads, .cancel = Cancel::streamed_too});
  stage.run();
  const std::shared_ptr<ReplyStream> stream = stage.script.sent.back().stream;
  SECTION("before the head: it goes on, and ends with the head") {
    caller.cancel();
    stage.run();
    REQUIRE(caller.results.empty());
    stream->head({});
    stream->body(bytes("one"), [] {});  // of the same frame's read
    stage.run();
    CHECK(heads->heads == 0);  // nobody takes it
    CHECK(heads->parts == 0);
  }
  SECTION("after the head: at once") {
    stream->head({});
    CHECK(heads->heads == 1);
    caller.cancel();
    stage.run();
  }
  SECTION("before a reply of one piece: it is a reply like any other") {
    caller.cancel();
    stage.run();
    stage.answer();
    REQUIRE(caller.results.size() == 1);
    CHECK(caller.results[0].ok());
    stage.pass(50ms);
    CHECK(stage.host->sandboxes().size() == 1);
    return;
  }
  SECTION("without a stream it runs to its end") {
    stage.answer();
    caller.results.clear();
    Caller plain(stage);
    plain.call("f", {.cancel = Cancel::streamed_too});
    stage.run();
    plain.cancel();
    stage.run();
    stage.answer();
    REQUIRE(plain.results.size() == 1);
    CHECK(plain.results[0].ok());
    return;
  }
  REQUIRE(caller.results.size() == 1);
  CHECK(absl::IsCancelled(caller.results[0].status));
  stage.pass(100ms);
  CHECK(stage.host->sandboxes().empty());
}

TEST_CASE("a call that never got a sandbox has its wait in the record", "[provision][cancel]") {
  HostStage stage;
  stage.deploy("f");
  stage.script.hold_hellos = true;
  Caller caller(stage);
  caller.call("f");
  stage.run();
  stage.advance(30ms);
  caller.cancel();
  stage.run();
  REQUIRE(caller.results.size() == 1);
  CHECK(absl::IsCancelled(caller.results[0].status));
  REQUIRE(stage.records->records.size() == 1);
  CHECK(stage.records->records[0].phases[Phase::acquire] == 30ms);
  CHECK(stage.records->records[0].use == 0);
  CHECK_FALSE(stage.records->records[0].phases.has(Phase::run));
}
