// What a start is made of: code, warm-up, and where its time went.
#include "provision/host_stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

Bytes bytes(std::string_view text) {
  Bytes all(text.size());
  std::memcpy(all.data(), text.data(), text.size());
  return all;
}

std::string text(const Bytes& all) { return {reinterpret_cast<const char*>(all.data()), all.size()}; }

const CodeId kCode{CodeKind::copied, "abc"};

CallResult raised(const char* message) {
  CallResult result;
  result.reply.function_status = absl::UnknownError(message);
  return result;
}

}  // namespace

// ---- code

TEST_CASE("code of a store is opened for every start, and kept until nothing of the sandbox is left",
          "[provision][start]") {
  HostStage stage;
  stage.deploy("f", {.code = kCode});
  REQUIRE(stage.script.code_paths == std::vector<std::string>{"/code/abc"});  // the check's
  CHECK(stage.codes->leased == 0);
  stage.call_and_answer("f");
  CHECK(stage.script.code_paths.back() == "/code/abc");
  CHECK(stage.codes->leased == 1);
  stage.script.removable = false;
  REQUIRE(stage.host->destroy(stage.host->sandboxes()[0].id).ok());
  stage.pass(100ms);
  CHECK(stage.codes->leased == 1);  // killed and reaped; its groups are still there
  stage.script.removable = true;
  stage.pass(200ms);
  CHECK(stage.host->sandboxes().empty());
  CHECK(stage.codes->leased == 0);
}

TEST_CASE("code that cannot be opened fails the start with what the store said", "[provision][start]") {
  HostStage stage;
  stage.deploy("f", {.code = kCode});
  stage.codes->fault = absl::DataLossError("open copied:abc: the digest is another");
  stage.call("f");
  stage.pass(10s, 100ms);
  REQUIRE(stage.results.size() == 1);
  CHECK_THAT(stage.results[0].status.ToString(), ContainsSubstring("the digest is another"));
  CHECK(stage.script.created == 0);
  CHECK(stage.codes->leased == 0);
}

TEST_CASE("code without a store, code twice, code that is not there: no deploy", "[provision][start]") {
  HostStage stage({}, false);
  HostedFunction hosted{
      .handle = stage.idle->resolve("f").value(), .spec = {.name = "f", .version = 1}, .code = kCode};
  CHECK(absl::IsFailedPrecondition(stage.host->deploy(hosted)));
  HostStage with;
  hosted.handle = with.idle->resolve("f").value();
  hosted.spec.code_path = "/somewhere";
  CHECK(absl::IsInvalidArgument(with.host->deploy(hosted)));
  hosted.spec.code_path.clear();
  with.codes->fault = absl::NotFoundError("never admitted");
  CHECK(absl::IsNotFound(with.host->deploy(hosted)));
}

// ---- warm-up

TEST_CASE("warm-up payloads are answered in order before a sandbox serves anybody", "[provision][start]") {
  HostStage stage;
  stage.deploy("f", {.warm_up = {{.payload = bytes("one"), .metadata = {{":path", "/warm"}}},
                                 {.payload = bytes("two"), .content_type = "text/plain"}}});
  stage.call("f", {.payload = bytes("real")});
  REQUIRE(stage.script.sent.size() == 1);
  CHECK(text(stage.script.sent[0].payload) == "one");
  CHECK(stage.script.sent[0].metadata == Metadata{{":path", "/warm"}});
  CHECK(stage.host->sandboxes()[0].state == HostState::starting);
  stage.answer();
  REQUIRE(stage.script.sent.size() == 2);
  CHECK(text(stage.script.sent[1].payload) == "two");
  CHECK(stage.script.sent[1].content_type == "text/plain");
  CHECK(stage.host->sandboxes()[0].state == HostState::starting);
  CHECK(stage.results.empty());
  stage.answer();
  REQUIRE(stage.script.sent.size() == 3);
  CHECK(text(stage.script.sent[2].payload) == "real");
  stage.answer();
  REQUIRE(stage.results.size() == 1);
  CHECK(stage.results[0].ok());
  CHECK(stage.host->sandboxes()[0].uses == 1);
  CHECK(stage.records->records.size() == 1);
  stage.call_and_answer("f");
  CHECK(stage.script.sent.size() == 4);  // warmed up once
}

TEST_CASE("a warm-up that raises, hangs or dies fails the start, and says which", "[provision][start]") {
  HostStage stage;
  stage.deploy("f", {.warm_up = {{}, {.timeout = 2s}, {}}});
  stage.call("f");
  std::string expected;
  stage.answer();
  SECTION("raises") {
    expected = "warm-up 2 of 3: no such table";
    stage.answer(raised("no such table"));
  }
  SECTION("hangs") {
    expected = "warm-up 2 of 3: no answer within 2000 ms";
    stage.pass(2100ms, 50ms);
    stage.script.calls.clear();
  }
  SECTION("loses its line") {
    expected = "warm-up 2 of 3: reset";
    CallResult cut;
    cut.status = absl::UnavailableError("reset");
    stage.answer(std::move(cut));
  }
  SECTION("dies") {
    expected = "warm-up 2 of 3: it ended";
    ::eventfd_write(stage.script.end.get(), 1);
    stage.run();
    stage.script.calls.clear();
  }
  stage.pass(100ms);
  REQUIRE(stage.events->of("start.failed").size() == 1);
  CHECK_THAT(stage.events->of("start.failed")[0].detail,
             ContainsSubstring(expected) && ContainsSubstring("did not start"));
  CHECK(stage.stats("f").cold == 0);
}

TEST_CASE("what is written before the first call is the sandbox's own", "[provision][start]") {
  HostStage stage;
  stage.deploy("f", {.warm_up = {{}}});
  stage.call("f");
  REQUIRE(stage.script.sent.size() == 1);
  stage.write_output("warming\n");
  stage.answer();
  stage.write_output("mine\n");
  stage.answer();
  REQUIRE(stage.results.size() == 1);
  CHECK(stage.logs->of({}) == "warming\n");
  CHECK(stage.logs->of(stage.results[0].request) == "mine\n");
  CHECK(stage.results[0].log_tail == "mine\n");
}

// ---- phases

TEST_CASE("a cold call is told where the time of its start went; a warm one is not", "[provision][phases]") {
  HostStage stage;
  stage.deploy("f", {.code = kCode});
  stage.codes->open_time = 30ms;
  stage.script.create_time = 20ms;
  stage.script.exec_time = 5ms;
  stage.script.hello = {.runtime_time = 8ms, .init_time = 70ms};
  stage.script.hold_hellos = true;
  stage.idle->hold_claims = true;
  Phases before;
  before.set(Phase::auth, 1ms);
  stage.call("f", {.phases = before});
  stage.advance(10ms);
  REQUIRE(stage.idle->held.size() == 1);
  stage.idle->held[0]();
  stage.run();
  REQUIRE(stage.script.hellos.size() == 1);
  stage.advance(40ms);
  stage.script.hellos[0]();
  stage.run();
  REQUIRE(stage.script.calls.size() == 1);
  stage.advance(7ms);
  stage.answer();
  REQUIRE(stage.results.size() == 1);
  const Phases& cold = stage.results[0].phases;
  CHECK(cold[Phase::auth] == 1ms);
  CHECK(cold[Phase::acquire] == 100ms);
  CHECK(cold[Phase::start_queue] == 10ms);
  CHECK(cold[Phase::fetch] == 30ms);
  CHECK(cold[Phase::create] == 20ms);
  CHECK(cold[Phase::exec] == 5ms);
  CHECK(cold[Phase::runtime] == 8ms);
  CHECK(cold[Phase::hello] == 40ms);
  CHECK(cold[Phase::init] == 40ms);  // a claim: no more than was measured
  CHECK(cold[Phase::run] == 7ms);
  CHECK(cold[Phase::settle] == 0ms);
  CHECK_FALSE(cold.has(Phase::thaw));
  CHECK_FALSE(cold.has(Phase::freeze));
  CHECK(stage.results[0].run == 7ms);
  stage.pass(100ms, 5ms);
  REQUIRE(stage.host->sandboxes()[0].state == HostState::frozen);
  CHECK(stage.host->sandboxes()[0].age >= 190ms);
  stage.call_and_answer("f");
  const Phases& warm = stage.results[1].phases;
  CHECK(warm.has(Phase::acquire));
  CHECK(warm.has(Phase::run));
  CHECK(warm.has(Phase::thaw));
  CHECK(warm.has(Phase::freeze));
  CHECK(warm.has(Phase::settle));
  for (Phase phase : {Phase::start_queue, Phase::fetch, Phase::create, Phase::exec, Phase::runtime,
                      Phase::init, Phase::hello}) {
    CHECK_FALSE(warm.has(phase));
  }
  stage.call_and_answer("f");  // not frozen meanwhile
  CHECK_FALSE(stage.results[2].phases.has(Phase::thaw));
  CHECK_FALSE(stage.results[2].phases.has(Phase::freeze));
}

TEST_CASE("the first call of a sandbox that nobody waited for pays for no start", "[provision][phases]") {
  HostStage stage;
  stage.deploy("f");
  stage.call_and_answer("f");
  stage.script.hold_hellos = true;
  stage.call("f");
  stage.call("f");  // a start is admitted for it
  stage.answer();
  stage.answer();
  REQUIRE(stage.script.hellos.size() == 1);
  stage.script.hellos[0]();
  stage.run();
  REQUIRE(stage.stats("f").idle == 2);
  stage.call_and_answer("f");
  const InvocationResult& first = stage.results.back();
  CHECK(first.start == StartKind::warm);
  CHECK(first.sandbox != stage.results[0].sandbox);
  CHECK_FALSE(first.phases.has(Phase::create));
  CHECK_FALSE(first.phases.has(Phase::hello));
}
