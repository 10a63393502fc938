// Execution records: as JSON lines in a file, in memory, and to several sinks at once.
//
// Thread safety: every member from any thread.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <boost/asio/any_io_executor.hpp>

#include "faaskit/core/export.h"
#include "faaskit/port/record_sink.h"

namespace faaskit::sinks {

namespace asio = boost::asio;

// One JSON object on one line, without a newline:
//   {"time":"2026-01-02T03:04:05.678Z","request":"rq-2a-7","function":"hello","version":3,"code":"OK",
//    "start":"cold","sandbox":"sb-1f-3","cross_shard":false,"attempts":1,"total_us":1234.567,
//    "phases":{"acquire":1.25,...},"payload_bytes":10,"reply_bytes":20,"memory_peak_bytes":4096,
//    "memory_source":"memory.peak","log_bytes":0,"lost_log_bytes":0,"tenant":"...","trace":"..."}
// Times are microseconds. Left out: "message" unless the code is an error; "start", "sandbox" and
// "cross_shard" unless a sandbox was leased; phases that are absent; memory that was not measured; an empty
// tenant or trace. What is not UTF-8 is replaced.
FAASKIT_EXPORT std::string to_json(const ExecutionRecord& record);

// RFC 3339 in UTC, with milliseconds: "2026-01-02T03:04:05.678Z". parse_time() takes any number of digits of
// a second or none, and "Z" only. kInvalidArgument.
FAASKIT_EXPORT std::string format_time(std::chrono::system_clock::time_point time);
FAASKIT_EXPORT absl::StatusOr<std::chrono::system_clock::time_point> parse_time(std::string_view text);

// -- A file

struct RecordFileOptions {
  // Older ones are `path`.1 and so on. Its folder must be there.
  std::string path{};
  asio::any_io_executor blocking{};  // as in LogFileOptions
  std::size_t max_file_bytes = 32 << 20;
  std::size_t max_files = 4;
  std::size_t queue_bytes = 4 << 20;
};

struct RecordFileStats {
  std::uint64_t written = 0;
  std::uint64_t lost = 0;  // said in the file as {"lost_records":N} with the next record written
  std::uint64_t write_errors = 0;
  std::string last_error{};  // may be empty
};

// As LogFileSink: write() never blocks, what cannot be kept is counted and said.
class FAASKIT_EXPORT RecordFileSink : public RecordSink {
 public:
  virtual RecordFileStats stats() const = 0;
  virtual absl::Status flush(std::chrono::milliseconds within) = 0;
  virtual absl::Status close(std::chrono::milliseconds within) = 0;
};

FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<RecordFileSink>> make_record_file_sink(
    RecordFileOptions options);

// -- Memory

struct RecordQuery {
  std::string function{};  // empty: all
  // Only those that were leased a sandbox, in this way.
  std::optional<StartKind> kind{};
  std::optional<absl::StatusCode> code{};
  std::optional<std::chrono::system_clock::time_point> since{};  // arrived then or later
  std::size_t limit = 100;
};

// The last records. Long error messages are kept up to kMaxText bytes.
class FAASKIT_EXPORT RecordRing : public RecordSink {
 public:
  static constexpr std::size_t kMaxText = 1024;
  // Newest first: in the reverse order of write().
  virtual std::vector<ExecutionRecord> query(const RecordQuery& query) const = 0;
};

// Never null. `capacity` is at least 1.
FAASKIT_EXPORT std::unique_ptr<RecordRing> make_record_ring(std::size_t capacity);

// -- Several

// Writes to each in turn. Never null; a null among `sinks` is left out.
FAASKIT_EXPORT std::unique_ptr<RecordSink> make_tee_record_sink(
    std::vector<std::shared_ptr<RecordSink>> sinks);

}  // namespace faaskit::sinks
