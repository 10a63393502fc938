// MetricsSink: execution records summed up for Prometheus.
//
//   faaskit_invocations_total{function,kind,code}         kind "none": no sandbox was leased
//   faaskit_invocation_duration_seconds{function}         histogram, from arrival to answer
//   faaskit_runs_total{function,use}                      ended well; "first" of its sandbox, or "later"
//   faaskit_run_seconds_total{function,use}               how long those ran
//   faaskit_first_run_ratio{function}                     mean time of the first over the later ones
//   faaskit_phase_duration_seconds{phase}                 histogram, over all functions
//   faaskit_memory_peak_bytes                             histogram, over all functions, where measured
//   faaskit_payload_bytes_total{function}, faaskit_reply_bytes_total{function}
//   faaskit_log_bytes_total{function}, faaskit_lost_log_bytes_total{function}
//   faaskit_retries_total{function}                       attempts beyond the first
//   faaskit_cross_shard_total{function}
// Buckets are 1, 2.5, 5 in each decade: from 10 us to 100 s, and 1 MiB times powers of two up to 64 GiB.
// Functions beyond `max_functions` are summed up as "_other", which no function can be called.
// Thread safety: every member from any thread; write() takes a short lock of one of several shards.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "faaskit/core/export.h"
#include "faaskit/port/record_sink.h"

namespace faaskit::sinks {

struct MetricsOptions {
  // Each costs about 35 lines of text, and 2 KiB of memory.
  std::size_t max_functions = 1000;
};

// A figure that somebody else knows at the time of rendering.
struct Sample {
  enum class Type : std::uint8_t { gauge, counter };
  Type type = Type::gauge;
  // [a-zA-Z_:][a-zA-Z0-9_:]*; other characters become '_'. A sample whose name is one of the above is left
  // out.
  std::string name{};
  std::string help{};  // that of the first sample of a name counts
  std::vector<std::pair<std::string, std::string>> labels{};
  double value = 0;
};

class FAASKIT_EXPORT MetricsSink : public RecordSink {
 public:
  // The text exposition format, version 0.0.4 ("text/plain; version=0.0.4; charset=utf-8").
  virtual std::string render(const std::vector<Sample>& samples = {}) const = 0;
};

// Never null.
FAASKIT_EXPORT std::unique_ptr<MetricsSink> make_metrics_sink(MetricsOptions options = {});

}  // namespace faaskit::sinks
