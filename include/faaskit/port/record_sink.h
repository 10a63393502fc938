// RecordSink: one execution record per invocation, whatever became of it.
//
// Thread safety: write() is called from any thread, a shard's mostly, after the caller's answer was posted,
// and must not block: a sink that cannot keep up counts what it drops, and says so.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

#include <absl/status/status.h>

#include "faaskit/core/export.h"
#include "faaskit/core/ids.h"
#include "faaskit/core/phases.h"
#include "faaskit/core/sandbox.h"

namespace faaskit {

struct ExecutionRecord {
  RequestId request{};
  std::string function{};
  Version version = 0;
  std::chrono::system_clock::time_point arrived{};  // wall clock: for people, decides nothing
  absl::Status status{};                            // the caller's answer
  // Meaningful once a sandbox was leased (`sandbox.host` is not 0).
  StartKind start = StartKind::warm;
  SandboxId sandbox{};
  bool cross_shard = false;
  std::uint32_t attempts = 1;
  // Of the sandbox, warm-ups not counted: 1 is its first call; 0: no sandbox was leased, or it is not known.
  std::uint64_t use = 0;
  std::chrono::nanoseconds total{};
  Phases phases{};
  std::uint64_t payload_bytes = 0;
  std::uint64_t reply_bytes = 0;
  // Of the sandbox during this call, children included where the source is a cgroup; 0: not measured.
  std::uint64_t memory_peak_bytes = 0;
  std::string_view memory_source{};  // "memory.peak", "memory.max_usage_in_bytes", "VmHWM"; static text
  std::uint64_t log_bytes = 0;
  std::uint64_t lost_log_bytes = 0;
  std::string tenant{};
  std::string trace{};
};

class FAASKIT_EXPORT RecordSink {
 public:
  RecordSink(const RecordSink&) = delete;
  RecordSink& operator=(const RecordSink&) = delete;
  virtual ~RecordSink() = default;
  virtual void write(const ExecutionRecord& record) = 0;

 protected:
  RecordSink() = default;
};

}  // namespace faaskit
