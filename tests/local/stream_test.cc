// Replies that come in parts, and what travels beside a payload, with real sandboxes.
#include "local/stage.h"

using namespace faaskit;
using namespace faaskit::testing;

namespace {

class Kept final : public InvocationStream {
 public:
  void head(const InvocationResult& so_far, ReplyHead head) override {
    std::lock_guard lock(mutex_);
    ++heads_;
    sandbox_ = so_far.sandbox;
    metadata_ = std::move(head.metadata);
  }
  void body(Bytes part, ReplyStream::Taken taken) override {
    {
      std::lock_guard lock(mutex_);
      text_.append(reinterpret_cast<const char*>(part.data()), part.size());
    }
    taken();
  }
  int heads() const {
    std::lock_guard lock(mutex_);
    return heads_;
  }
  std::string text() const {
    std::lock_guard lock(mutex_);
    return text_;
  }
  SandboxId sandbox() const {
    std::lock_guard lock(mutex_);
    return sandbox_;
  }
  Metadata metadata() const {
    std::lock_guard lock(mutex_);
    return metadata_;
  }

 private:
  mutable std::mutex mutex_;
  int heads_ = 0;
  SandboxId sandbox_{};
  Metadata metadata_;
  std::string text_;
};

constexpr const char* kParts = R"(
import time
def handler(payload, context):
    def parts():
        yield b"one "
        if payload == b"hang": time.sleep(60)
        if payload == b"raise": raise ValueError("half-way")
        yield b"two"
    return parts(), {"headers": {"x-kind": "parts"}, "status": 206}
)";

std::future<InvocationResult> start(Stage& stage, std::string_view payload, std::shared_ptr<Kept> kept,
                                    std::chrono::milliseconds timeout = 20s) {
  const auto* const first = reinterpret_cast<const std::byte*>(payload.data());
  Bytes bytes(first, first + payload.size());
  local::InvokeOptions options;
  options.timeout = timeout;
  options.stream = std::move(kept);
  return stage.platform->async_invoke("f", std::move(bytes), std::move(options), asio::use_future);
}

}  // namespace

TEST_CASE("metadata reaches the function, and what it says beside its payload comes back",
          "[local][stream]") {
  Stage stage;
  stage.deploy({.name = "f"}, R"(
def handler(payload, context):
    text = ";".join("%s=%s" % (n.decode(), v.decode()) for n, v in context.metadata)
    return text, {"headers": {"x-back": "yes"}, "status": 404}
)");
  local::InvokeOptions options;
  options.metadata = {{":method", "GET"}, {"accept", "*/*"}};
  const InvocationResult result = stage.platform->invoke("f", "", options);
  REQUIRE(result.status.ToString() == "OK");
  CHECK(result.text() == ":method=GET;accept=*/*");
  CHECK(std::find(result.metadata.begin(), result.metadata.end(),
                  std::pair<std::string, std::string>(":status", "404")) != result.metadata.end());
  CHECK(std::find(result.metadata.begin(), result.metadata.end(),
                  std::pair<std::string, std::string>("x-back", "yes")) != result.metadata.end());
}

TEST_CASE("a reply comes in parts, and its sandbox serves on", "[local][stream]") {
  Stage stage;
  stage.deploy({.name = "f"}, kParts);
  for (int i = 0; i < 3; ++i) {
    auto kept = std::make_shared<Kept>();
    const InvocationResult result = start(stage, "", kept).get();
    REQUIRE(result.status.ToString() == "OK");
    CHECK(result.payload.empty());
    CHECK(kept->heads() == 1);
    CHECK(kept->text() == "one two");
    CHECK(kept->sandbox() == result.sandbox);
    CHECK(kept->metadata().size() == 2);
    REQUIRE(eventually([&] { return stage.records->of(result.request).has_value(); }));
    CHECK(stage.records->of(result.request)->reply_bytes == 7);
  }
  CHECK(stage.platform->stats("f").warm == 2);
  // Without a stream it is assembled.
  CHECK(stage.invoke("f", "").text() == "one two");
}

TEST_CASE("a reply that is cut short says so, and no part comes after the end", "[local][stream]") {
  Stage stage;
  stage.deploy({.name = "f"}, kParts);
  SECTION("by its deadline") {
    REQUIRE(start(stage, "", std::make_shared<Kept>()).get().ok());
    auto kept = std::make_shared<Kept>();
    std::future<InvocationResult> call = start(stage, "hang", kept, 1s);
    REQUIRE(eventually([&] { return kept->text() == "one "; }));
    CHECK(absl::IsDeadlineExceeded(call.get().status));
    CHECK(kept.use_count() == 1);  // nobody is left who could
    CHECK(kept->text() == "one ");
  }
  SECTION("by its function") {
    auto kept = std::make_shared<Kept>();
    const InvocationResult result = start(stage, "raise", kept).get();
    CHECK(result.status.code() == absl::StatusCode::kUnknown);
    CHECK(result.attempts == 1);
    CHECK(kept->text() == "one ");
  }
  SECTION("by the death of its sandbox") {
    auto kept = std::make_shared<Kept>();
    std::future<InvocationResult> call = start(stage, "hang", kept);
    REQUIRE(eventually([&] { return kept->text() == "one "; }));
    REQUIRE(stage.platform->host().destroy(kept->sandbox()).ok());
    const InvocationResult result = call.get();
    CHECK_FALSE(result.ok());
    CHECK(result.attempts == 1);
    CHECK(kept->heads() == 1);
  }
}
