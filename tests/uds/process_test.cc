// If these failed, real functions would not run: each worker runtime, as a real process, against the real
// channel. C++ and Python keep the same promises.
#include <fstream>

#include "harness.h"

namespace faaskit::uds {
namespace {

enum class Runtime { cpp, python };

std::vector<std::string> command(Runtime runtime) {
  if (runtime == Runtime::cpp) return {FAASKIT_ECHO_WORKER};
  const std::string python = FAASKIT_PYTHON;
  if (::access(python.c_str(), X_OK) != 0) FAASKIT_SKIP("no python3 at " + python);
  return {python, "-I", FAASKIT_PYTHON_RUNTIME, FAASKIT_FUNCTIONS, "functions:handler"};
}

struct Sandbox {
  explicit Sandbox(Runtime runtime, ChannelLimits limits = {}) : Sandbox(command(runtime), limits) {}
  explicit Sandbox(std::vector<std::string> argv, ChannelLimits limits = {}, Ends ends = make_ends())
      : process(std::move(argv), std::move(ends.peer)), host(std::move(ends.host), limits) {}
  Sandbox& ready() {
    const absl::StatusOr<Hello> hello = host.hello();
    INFO(hello.status().message());
    REQUIRE(hello.ok());
    return *this;
  }
  // The reply's text, for calls that must succeed.
  std::string ask(std::string_view payload, std::string content_type) {
    const CallResult& result = host.call(call_of(payload, std::move(content_type)));
    INFO(result.status.message());
    REQUIRE(result.status.ok());
    INFO(result.reply.function_status.message());
    REQUIRE(result.reply.function_status.ok());
    return to_text(result.reply.payload);
  }
  Process process;
  Host host;
};

std::string pattern(std::size_t size) {
  std::string out(size, '\0');
  std::uint32_t x = 1;
  for (char& c : out) c = static_cast<char>((x = x * 1664525 + 1013904223) >> 24);
  return out;
}

Runtime both() { return GENERATE(Runtime::cpp, Runtime::python); }

}  // namespace

TEST_CASE("a worker says hello, and answers calls one after another", "[uds][process]") {
  const Runtime runtime = both();
  Sandbox t(runtime);
  const absl::StatusOr<Hello> hello = t.host.hello();
  REQUIRE(hello.ok());
  CHECK_THAT(hello->runtime, ContainsSubstring(runtime == Runtime::cpp ? "c++" : "python 3."));
  CHECK(t.ask("", "cold") == "cold");
  CHECK(t.ask("", "cold") == "warm");
  CHECK(t.ask("some text", "text/plain") == "some text");
  CHECK(t.host.result->reply.content_type == "text/plain");
  CHECK(t.host.result->reply.claimed_run_time < std::chrono::seconds(5));
  ChannelCall traced = call_of("", "trace");
  traced.trace = std::string("\x00\xff trace", 8);
  CHECK(to_text(t.host.call(std::move(traced)).reply.payload) == std::string("\x00\xff trace", 8));
}

TEST_CASE("payloads and replies of every size arrive unchanged", "[uds][process]") {
  Sandbox t(both());
  t.ready();
  for (const std::size_t size :
       {0, 1, 64, 4071, 4072, 4096, 65536, 65537, 200000, 1 << 20, (1 << 20) + 1, 6 << 20}) {
    CAPTURE(size);
    const std::string payload = pattern(size);
    CHECK((t.ask(payload, "echo") == payload));
  }
  CHECK(t.ask(std::to_string(6 << 20), "size") == std::string(6 << 20, 'z'));
}

TEST_CASE("odd limits on frames are kept by both sides", "[uds][process]") {
  ChannelLimits limits;
  limits.max_frame_payload_bytes = 1000;
  limits.max_reply_bytes = 300000;
  Sandbox t(both(), limits);
  t.ready();
  for (const std::size_t size : {999, 1000, 1001, 250000}) {
    CAPTURE(size);
    const std::string payload = pattern(size);
    CHECK((t.ask(payload, "echo") == payload));
  }
}

TEST_CASE("a reply over the limit is the function's error, and the sandbox serves on", "[uds][process]") {
  ChannelLimits limits;
  limits.max_reply_bytes = 1000;
  Sandbox t(both(), limits);
  t.ready();
  const CallResult& result = t.host.call(call_of("1001", "size"));
  REQUIRE(result.status.ok());
  CHECK_THAT(std::string(result.reply.function_status.message()),
             ContainsSubstring("reply has 1001 bytes, the limit is 1000"));
  CHECK(t.ask("1000", "size").size() == 1000);
}

TEST_CASE("a long content type is the function's error, and the sandbox serves on", "[uds][process]") {
  Sandbox t(both());
  t.ready();
  // Both functions answer with the content type they were called with.
  const CallResult& result = t.host.call(call_of("x", std::string(1025, 'c')));
  REQUIRE(result.status.ok());
  CHECK_THAT(std::string(result.reply.function_status.message()),
             ContainsSubstring("content type has 1025 bytes, the limit is 1024"));
  CHECK(result.reply.payload.empty());
  CHECK(t.ask("x", std::string(1024, 'c')) == "x");
  CHECK(t.host.result->reply.content_type == std::string(1024, 'c'));
}

TEST_CASE("a function that raises fails its call, not its sandbox", "[uds][process]") {
  const Runtime runtime = both();
  Sandbox t(runtime);
  t.ready();
  const CallResult& result = t.host.call(call_of("no such thing", "raise"));
  REQUIRE(result.status.ok());
  CHECK(result.reply.function_status ==
        absl::UnknownError(runtime == Runtime::cpp ? "no such thing" : "ValueError: no such thing"));
  CHECK(result.reply.payload.empty());
  CHECK(t.ask("still here", "echo") == "still here");
  if (runtime == Runtime::python) {
    CHECK_THAT(t.process.read_until("ValueError: no such thing"), ContainsSubstring("functions.py"));
    CHECK(t.host.call(call_of("7", "leave")).reply.function_status == absl::UnknownError("SystemExit: 7"));
    CHECK_THAT(std::string(t.host.call(call_of("", "object")).reply.function_status.message()),
               ContainsSubstring("TypeError: handler returned object"));
  } else {
    CHECK(t.host.call(call_of("", "error")).reply.function_status == absl::UnknownError("returned"));
  }
  CHECK(t.ask("still here", "echo") == "still here");
}

TEST_CASE("on_thaw runs before a call that follows an idle spell, and only then", "[uds][process]") {
  const Runtime runtime = both();
  Sandbox t(runtime);
  t.ready();
  CHECK(t.ask("", "thaw") == (runtime == Runtime::cpp ? "0" : ""));
  ChannelCall call = call_of("", "thaw");
  call.idle_for = std::chrono::milliseconds(1500);
  CHECK(to_text(t.host.call(std::move(call)).reply.payload) ==
        (runtime == Runtime::cpp ? "1500000" : "module 1.500, registered 1.500"));
}

TEST_CASE("what a function prints is out before its answer", "[uds][process]") {
  Sandbox t(both());
  t.ready();
  t.ask("no newline here", "print");
  CHECK(t.process.read_until("here") == "no newline here");
}

TEST_CASE("a function that leaves in mid-call", "[uds][process]") {
  Sandbox t(both());
  t.ready();
  const CallResult& result = t.host.call(call_of("", "exit"));
  CHECK(absl::IsUnavailable(result.status));
  CHECK_FALSE(result.never_began);
  CHECK(WEXITSTATUS(t.process.wait()) == 3);
}

TEST_CASE("killed in mid-call: unavailable, and it may have run", "[uds][process]") {
  Sandbox t(both());
  t.ready();
  t.host.begin(call_of("", "hang"));
  t.process.read_until("hanging");
  t.process.signal(SIGKILL);
  CHECK(absl::IsUnavailable(t.host.finish().status));
  CHECK_FALSE(t.host.result->never_began);
}

TEST_CASE("an idle worker answers a ping, between calls and before the first", "[uds][process]") {
  Sandbox t(both());
  t.ready();
  CHECK(t.host.ping().ok());
  CHECK(t.host.ping().ok());
  CHECK(t.ask("x", "echo") == "x");
  CHECK(t.host.ping().ok());
  CHECK(t.ask("y", "echo") == "y");
}

TEST_CASE("a ping to a stopped worker waits, and is answered when it goes on", "[uds][process]") {
  Sandbox t(both());
  t.ready();
  t.process.stop();
  t.host.begin_ping();
  t.host.loop.drain();
  CHECK_FALSE(t.host.pinged.has_value());
  SECTION("it goes on") {
    t.process.signal(SIGCONT);
    CHECK(t.host.finish_ping().ok());
    CHECK(t.ask("x", "echo") == "x");
  }
  SECTION("it dies") {
    t.process.signal(SIGKILL);
    CHECK(absl::IsUnavailable(t.host.finish_ping()));
    CHECK_FALSE(t.host.channel->is_open());
  }
}

TEST_CASE("killed before it read the call: it never began", "[uds][process]") {
  Sandbox t(both());
  t.ready();
  CHECK(t.ask("warm", "echo") == "warm");
  // A ping that was answered was read: it does not weaken the proof.
  if (GENERATE(false, true)) REQUIRE(t.host.ping().ok());
  t.process.stop();
  SECTION("a small call") {
    const std::size_t sent = t.host.begin(call_of("x", "echo"));
    CHECK(sent > 0);
  }
  SECTION("a call that the socket cannot hold") {
    const std::size_t sent = t.host.begin(call_of(std::string(5 << 20, 'x'), "echo"));
    CHECK(sent > 0);
    CHECK(sent < (5 << 20));
  }
  t.process.signal(SIGKILL);
  CHECK(absl::IsUnavailable(t.host.finish().status));
  CHECK(t.host.result->never_began);
}

TEST_CASE("a worker whose host is gone leaves cleanly", "[uds][process]") {
  Sandbox t(both());
  t.ready();
  t.ask("x", "echo");
  t.host.channel.reset();
  const int status = t.process.wait();
  CHECK(WIFEXITED(status));
  CHECK(WEXITSTATUS(status) == 0);
}

TEST_CASE("an init that fails is seen by the host as an end before hello", "[uds][process]") {
  SECTION("c++") {
    Sandbox t(std::vector<std::string>{FAASKIT_ECHO_WORKER, "fail"});
    CHECK(absl::IsUnavailable(t.host.hello().status()));
    CHECK(WEXITSTATUS(t.process.wait()) == 7);
  }
  SECTION("python: an exception") {
    std::vector<std::string> argv = command(Runtime::python);
    argv[4] = "functions:missing";
    Sandbox t(argv);
    CHECK(absl::IsUnavailable(t.host.hello().status()));
    CHECK_THAT(t.process.read_until("missing"), ContainsSubstring("Traceback"));
    CHECK(WEXITSTATUS(t.process.wait()) == 1);
  }
  SECTION("python: no such file") {
    std::vector<std::string> argv = command(Runtime::python);
    argv[3] += ".nowhere.py";
    Sandbox t(argv);
    CHECK(absl::IsUnavailable(t.host.hello().status()));
    CHECK(WEXITSTATUS(t.process.wait()) == 1);
  }
}

TEST_CASE("python: code may be a folder, and json is one return away", "[uds][process]") {
  std::vector<std::string> argv = command(Runtime::python);
  argv[3] = argv[3].substr(0, argv[3].rfind('/'));
  Sandbox t(argv);
  t.ready();
  CHECK(t.ask("", "json") == R"({"id": "rq-abcdef-5", "in_time": true})");
  CHECK(t.host.result->reply.content_type == "application/json");
}

TEST_CASE("python: a function that closes its own channel harms itself alone", "[uds][process]") {
  Sandbox t(Runtime::python);
  t.ready();
  const CallResult& result = t.host.call(call_of("", "close"));
  CHECK(absl::IsUnavailable(result.status));
  CHECK_FALSE(result.never_began);
  CHECK(WIFEXITED(t.process.wait()));
}

}  // namespace faaskit::uds
