// If these failed: what became of an invocation would be lost without a word, or told wrongly.
#include "faaskit/sinks/records.h"

#include <thread>

#include <boost/asio/io_context.hpp>

#include "json/json.h"
#include "sinks/record_file.h"
#include "stage.h"

namespace faaskit::sinks {
namespace {

using absl::StatusCode;

TEST_CASE("a record as JSON says all there is, and leaves out what there is not", "[sinks][records]") {
  ExecutionRecord record = execution("hello", 7);
  record.start = StartKind::cold;
  record.phases.set(Phase::acquire, 1'250ns);
  record.phases.set(Phase::init, 8s);
  record.phases.set(Phase::thaw, 0ns);
  record.payload_bytes = 10;
  record.reply_bytes = 20;
  record.memory_peak_bytes = 4096;
  record.memory_source = "memory.peak";
  record.log_bytes = 3;
  record.lost_log_bytes = 4;
  record.use = 5;
  record.tenant = "t\"1";
  record.trace = "00-abc";
  CHECK(
      to_json(record) ==
      R"({"time":"2026-01-02T03:04:05.678Z","request":"rq-2a-7","function":"hello","version":3,"code":"OK",)"
      R"("start":"cold","sandbox":"sb-1f-3","cross_shard":false,"attempts":1,"use":5,"total_us":1234.567,)"
      R"("phases":{"acquire":1.25,"init":8000000,"thaw":0},"payload_bytes":10,"reply_bytes":20,)"
      R"("memory_peak_bytes":4096,"memory_source":"memory.peak","log_bytes":3,"lost_log_bytes":4,)"
      R"("tenant":"t\"1","trace":"00-abc"})");
  ExecutionRecord bare;
  bare.function = "f";
  bare.status = absl::UnavailableError("exit status 1:\n\xff");
  const std::string text = to_json(bare);
  CHECK(json::parse("record", text).ok());
  CHECK_THAT(text,
             ContainsSubstring("\"code\":\"UNAVAILABLE\",\"message\":\"exit status 1:\\n\xef\xbf\xbd\""));
  for (const char* absent :
       {"\"start\"", "\"sandbox\"", "\"use\"", "\"cross_shard\"", "\"memory", "\"tenant\"", "\"trace\""})
    CHECK(text.find(absent) == std::string::npos);
  CHECK_THAT(text, ContainsSubstring("\"phases\":{}"));
}

TEST_CASE("times are written and read as RFC 3339 in UTC", "[sinks][records]") {
  using Time = std::chrono::system_clock::time_point;
  CHECK(format_time(Time{}) == "1970-01-01T00:00:00.000Z");
  CHECK(format_time(Time(-1ms)) == "1969-12-31T23:59:59.999Z");
  CHECK(format_time(Time(951'782'400s)) == "2000-02-29T00:00:00.000Z");
  CHECK(parse_time("2026-01-02T03:04:05.678Z").value() == Time(1'767'323'045'678ms));
  CHECK(parse_time("2026-01-02T03:04:05Z").value() == Time(1'767'323'045s));
  CHECK(parse_time("2026-01-02T03:04:05.000000001999Z").value() == Time(1'767'323'045s) + 1ns);
  for (const char* wrong :
       {"", "now", "2026-01-02", "2026-01-02T03:04:05", "2026-01-02T03:04:05+00:00", "2026-02-30T03:04:05Z",
        "2026-01-02T24:04:05Z", "2026-01-02T03:60:05Z", "2026-01-02T03:04:05.Z", "2026-01-02 03:04:05Z",
        "2026-01-02T03:04:05.6x8Z", "9999-01-02T03:04:05Z", "2026-1-02T03:04:05Z", "2026-01-02T03:04:05ZZ"}) {
    INFO(wrong);
    CHECK(parse_time(wrong).status().code() == StatusCode::kInvalidArgument);
  }
}

TEST_CASE("records are lines of JSON in a file that is rotated", "[sinks][records]") {
  Folder folder;
  asio::thread_pool pool(1);
  const std::string path = folder.path() + "/records.jsonl";
  auto sink = make_record_file_sink(
      {.path = path, .blocking = pool.get_executor(), .max_file_bytes = 50'000, .max_files = 2});
  REQUIRE(sink.ok());
  for (std::uint64_t i = 1; i <= 1000; ++i) (*sink)->write(execution("f", i));
  REQUIRE((*sink)->flush(20s).ok());
  CHECK((*sink)->stats().written == 1000);
  CHECK((*sink)->stats().lost == 0);
  CHECK_FALSE(std::filesystem::exists(path + ".2"));
  const auto lines = lines_of(text_of(path + ".1") + text_of(path));
  for (const std::string& line : lines) REQUIRE(json::parse("line", line).ok());
  CHECK_THAT(lines.back(), ContainsSubstring("\"rq-2a-1000\""));
  CHECK_THAT(lines.front(), ContainsSubstring("\"rq-2a-" + std::to_string(1001 - lines.size()) + "\""));
  CHECK(std::filesystem::file_size(path + ".1") < 50'000 + 32 * 1024);
}

TEST_CASE("a blocked or failing disk loses records, counts them and says so", "[sinks][records]") {
  auto disk = std::make_shared<FakeDisk>();
  asio::thread_pool pool(1);
  Unblock unblock(disk);
  auto made = make_record_file_sink(
      {.path = "/x/records", .blocking = pool.get_executor(), .queue_bytes = 1 << 20}, disk);
  REQUIRE(made.ok());
  auto sink = *std::move(made);
  disk->block(true);
  sink->write(execution("f"));
  REQUIRE(disk->wait_until_stuck());
  for (int i = 0; i < 20'000; ++i) sink->write(execution("f"));
  const std::uint64_t lost = sink->stats().lost;
  CHECK(lost > 0);
  CHECK(lost < 20'000);
  disk->block(false);
  REQUIRE(sink->flush(20s).ok());
  CHECK_THAT(disk->text("records"), ContainsSubstring("{\"lost_records\":" + std::to_string(lost) + "}\n"));
  CHECK(sink->stats().written == 20'001 - lost);
  CHECK(lines_of(disk->text("records")).size() == 20'001 - lost + 1);

  disk->fail(true);
  sink->write(execution("f"));
  REQUIRE(sink->flush(20s).ok());
  CHECK(sink->stats().lost == lost + 1);
  CHECK(sink->stats().last_error == "injected: the disk is full");
  disk->fail(false);
  REQUIRE(sink->close(20s).ok());
  CHECK_THAT(disk->text("records"), Catch::Matchers::EndsWith("{\"lost_records\":1}\n"));
  sink->write(execution("f"));
  CHECK(sink->stats().lost == lost + 2);
}

TEST_CASE("the ring keeps the last ones, and finds them newest first", "[sinks][records]") {
  auto ring = make_record_ring(5);
  CHECK(ring->query({}).empty());
  for (std::uint64_t i = 1; i <= 12; ++i) {
    ExecutionRecord record = execution(i % 2 == 0 ? "even" : "odd", i);
    record.start = i % 3 == 0 ? StartKind::cold : StartKind::warm;
    record.arrived += std::chrono::seconds(i);
    if (i == 11) {
      record.sandbox = {};
      record.status = absl::DeadlineExceededError(std::string(5000, 'x'));
    }
    ring->write(record);
  }
  const auto found = [&](const RecordQuery& query) {
    std::vector<std::uint64_t> sequences;
    for (const ExecutionRecord& record : ring->query(query)) sequences.push_back(record.request.sequence);
    return sequences;
  };
  using Sequences = std::vector<std::uint64_t>;
  CHECK(found({}) == Sequences{12, 11, 10, 9, 8});
  CHECK(found({.limit = 2}) == Sequences{12, 11});
  CHECK(found({.function = "odd"}) == Sequences{11, 9});
  CHECK(found({.kind = StartKind::warm}) == Sequences{10, 8});  // 11 was leased no sandbox
  CHECK(found({.kind = StartKind::cold}) == Sequences{12, 9});
  CHECK(found({.code = StatusCode::kDeadlineExceeded}) == Sequences{11});
  CHECK(found({.since = execution("").arrived + 10s}) == Sequences{12, 11, 10});
  CHECK(ring->query({.code = StatusCode::kDeadlineExceeded})[0].status.message().size() ==
        RecordRing::kMaxText);
  auto one = make_record_ring(0);
  one->write(execution("a", 1));
  one->write(execution("b", 2));
  CHECK(one->query({}).size() == 1);
}

TEST_CASE("a tee writes to each of its sinks, from many threads", "[sinks][records]") {
  Folder folder;
  asio::thread_pool pool(2);
  std::shared_ptr<RecordRing> ring = make_record_ring(100);
  std::shared_ptr<RecordFileSink> file =
      make_record_file_sink({.path = folder.path() + "/r", .blocking = pool.get_executor()}).value();
  auto tee = make_tee_record_sink({ring, nullptr, file});
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&] {
        for (std::uint64_t i = 0; i < 200; ++i) {
          tee->write(execution("f", i));
          if (i % 50 == 0) (void)ring->query({.function = "f"});
        }
      });
    }
  }
  REQUIRE(file->flush(20s).ok());
  CHECK(file->stats().written + file->stats().lost == 800);
  CHECK(file->stats().lost == 0);
  CHECK(ring->query({.limit = 1000}).size() == 100);
}

TEST_CASE("wrong options of the record file are refused by name", "[sinks][records]") {
  asio::thread_pool pool(1);
  CHECK_THAT(std::string(make_record_file_sink({.blocking = pool.get_executor()}).status().message()),
             ContainsSubstring("path"));
  CHECK_THAT(std::string(make_record_file_sink({.path = "/x/r"}).status().message()),
             ContainsSubstring("blocking"));
  CHECK(make_record_file_sink({.path = "/nonexistent/r", .blocking = pool.get_executor()}).status().code() ==
        StatusCode::kNotFound);
}

}  // namespace
}  // namespace faaskit::sinks
