// Logs of functions in files: one per function, rotated by size.
//
// A line of a function's log:
//   2026-01-02T03:04:05.678Z sb-1f-3 rq-2a-7 | what the function wrote, up to its newline
//   2026-01-02T03:04:05.678Z sb-1f-3 rq-2a-7 + the same, but no newline was written yet
//   2026-01-02T03:04:05.678Z sb-1f-3 rq-2a-7 ! [123 bytes lost: ...]
// Time of arrival in UTC; the sandbox, the request ("-" for output outside an invocation); the mark tells
// whose words follow, so that nothing a function prints can pass for ours or for another invocation's. Bytes
// that are not UTF-8, control characters but the tab, and the backslash are written \xNN. Source: the log
// format of Kubernetes' CRI, which marks partial lines in the same way.
//
// Back pressure: there is none. What comes faster than the disk takes it, beyond the bounds below, is lost,
// counted, and said in the log of the function whose bytes they were, as soon as the sink writes again. One
// function fills at most a quarter of the queue.
// Threads: none of its own; at most one job at a time runs on the executor given.
// Lifetime: destroying the sink does not wait; what is queued is still written if the executor runs on. Call
// close() before that to wait for it.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include <absl/status/status.h>
#include <absl/status/statusor.h>
#include <boost/asio/any_io_executor.hpp>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/port/log_sink.h"

namespace faaskit::sinks {

namespace asio = boost::asio;

struct LogFileOptions {
  // Made 0700 if it is not there (but not its parent). A function's file is `<function>.log`; older ones
  // are `<function>.log.1` and so on.
  std::string folder{};
  // Where files are written: HostExecutors::blocking.
  asio::any_io_executor blocking{};
  // A file that has reached this is rotated before the next record.
  std::size_t max_file_bytes = 8 << 20;
  // Of each function, the current one included; at least 1.
  std::size_t max_files = 4;
  // Accepted and not yet written, with what it costs to keep it.
  std::size_t queue_bytes = 8 << 20;
  // Open at once: one descriptor each.
  std::size_t max_open_files = 32;
};

struct LogFileStats {
  std::uint64_t written_bytes = 0;  // of what functions wrote, not of the files
  std::uint64_t lost_bytes = 0;     // by this sink: queue full, disk failed, closed
  std::uint64_t write_errors = 0;
  std::uint64_t queued_bytes = 0;  // now
  std::string last_error{};        // may be empty
};

struct LogQuery {
  std::string function{};
  std::optional<RequestId> request{};  // only this one's lines
  std::size_t max_bytes = 64 << 10;    // of text, but at least one line; at most 16 MiB
  // Continue where an earlier page said so; empty: from the end.
  std::string before{};
};

struct LogPage {
  std::string text{};    // whole lines, oldest first
  std::string before{};  // for the page before this one; empty: there is none
};

class FAASKIT_EXPORT LogFileSink : public LogSink {
 public:
  virtual LogFileStats stats() const = 0;

  // The newest lines before `query.before` that fit. Reads files: call it on the blocking executor. What was
  // written a moment ago may still be queued: flush() first.
  //   kInvalidArgument  not a function name, not a cursor, or max_bytes beyond its limit
  //   kNotFound         the function has no log
  // A function with a log whose cursor has been rotated away has an empty page.
  virtual absl::StatusOr<LogPage> read(const LogQuery& query) const = 0;

  // The function was removed: its files go. What is still queued, or comes later, makes a new one.
  virtual absl::Status remove(std::string_view function) = 0;

  // Waits until what write() was given before is written or counted as lost. Works on a blocking executor's
  // only thread, too: then it writes itself. kDeadlineExceeded: with the bytes still queued.
  virtual absl::Status flush(std::chrono::milliseconds within) = 0;

  // No write() is accepted from now on; then as flush().
  virtual absl::Status close(std::chrono::milliseconds within) = 0;
};

// kInvalidArgument names the option; else what is wrong with the folder.
FAASKIT_EXPORT absl::StatusOr<std::unique_ptr<LogFileSink>> make_log_file_sink(LogFileOptions options);

}  // namespace faaskit::sinks
