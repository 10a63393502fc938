// LogSink: where a function's stdout and stderr go. The host reads the sandbox's pipe, so that output of
// C extensions and of child processes is caught too.
//
// Thread safety: write() is called from any shard and must not block; it owns what it is given.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"

namespace faaskit {

// Which bound on a sandbox's output was reached: LocalHostOptions::max_log_bytes or max_log_bytes_per_second.
enum class LogBound : std::uint8_t { invocation, second };

struct LogRecord {
  std::string function{};
  SandboxId sandbox{};
  // Set if the bytes were written during an invocation; late output and init belong to the sandbox.
  RequestId request{};
  std::string bytes{};
  // Bytes beyond `bound`, counted and not kept.
  std::uint64_t lost_bytes = 0;
  LogBound bound = LogBound::invocation;
};

class FAASKIT_EXPORT LogSink {
 public:
  LogSink(const LogSink&) = delete;
  LogSink& operator=(const LogSink&) = delete;
  virtual ~LogSink() = default;
  virtual void write(LogRecord record) = 0;

 protected:
  LogSink() = default;
};

}  // namespace faaskit
