#include "report.h"

#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <string_view>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace demo {
namespace {

using faaskit::StartKind;
constexpr StartKind kStartKinds[] = {StartKind::cold, StartKind::warm, StartKind::stolen, StartKind::queued};

struct Row {
  std::vector<nanoseconds> waits;
  std::vector<nanoseconds> totals;
};

template <class Want>
Row collect(const FunctionReport& function, Want want) {
  Row row;
  for (const FunctionReport::Call& call : function.calls) {
    if (!want(call.start)) continue;
    row.waits.push_back(call.wait);
    row.totals.push_back(call.total);
  }
  return row;
}

std::string line(std::string_view function, std::string_view start, const Row& row,
                 const std::string& errors) {
  return absl::StrFormat("%-10s  %-6s  %5d  %6s  %10s  %10s  %10s  %10s", function, start, row.waits.size(),
                         errors, to_text(percentile(row.waits, 0.5)), to_text(percentile(row.waits, 0.99)),
                         to_text(percentile(row.totals, 0.5)), to_text(percentile(row.totals, 0.99)));
}

std::int64_t microseconds(nanoseconds time) {
  return std::chrono::duration_cast<std::chrono::microseconds>(time).count();
}

}  // namespace

nanoseconds percentile(std::vector<nanoseconds> times, double share) {
  if (times.empty()) return {};
  std::sort(times.begin(), times.end());
  const auto rank = static_cast<std::size_t>(std::ceil(share * static_cast<double>(times.size())));
  return times[std::max<std::size_t>(rank, 1) - 1];
}

std::uint64_t FunctionReport::count(StartKind start) const {
  return static_cast<std::uint64_t>(
      std::count_if(calls.begin(), calls.end(), [start](const Call& call) { return call.start == start; }));
}

std::string to_text(nanoseconds time) {
  const double ns = static_cast<double>(time.count());
  if (ns < 1e6) return absl::StrFormat("%.1f us", ns / 1e3);
  if (ns < 1e9) return absl::StrFormat("%.1f ms", ns / 1e6);
  return absl::StrFormat("%.2f s", ns / 1e9);
}

Style Style::for_stdout() {
  const char* no_color = std::getenv("NO_COLOR");
  return Style(::isatty(STDOUT_FILENO) == 1 && (no_color == nullptr || *no_color == '\0'));
}

std::string Style::wrap(const char* code, const std::string& text) const {
  return colours_ ? absl::StrCat("\x1b[", code, "m", text, "\x1b[0m") : text;
}

void print_table(std::ostream& out, const std::vector<FunctionReport>& functions, const Style& style) {
  out << style.bold(absl::StrFormat("%-10s  %-6s  %5s  %6s  %10s  %10s  %10s  %10s", "function", "start",
                                    "calls", "errors", "wait p50", "wait p99", "total p50", "total p99"))
      << '\n';
  for (const FunctionReport& function : functions) {
    for (const StartKind start : kStartKinds) {
      const Row row = collect(function, [start](StartKind kind) { return kind == start; });
      if (!row.waits.empty()) out << line(function.name, to_string(start), row, "") << '\n';
    }
    const Row all = collect(function, [](StartKind) { return true; });
    const std::string total = line(function.name, "all", all, absl::StrCat(function.errors));
    out << (function.errors > 0 ? style.bad(total) : style.bold(total)) << '\n';
  }
}

void print_spike(std::ostream& out, const std::vector<SpikeRow>& rows, const Style& style) {
  out << style.bold(absl::StrFormat("%-26s  %6s  %6s  %10s  %10s  %10s", "20 clients, after the step",
                                    "calls", "errors", "p50", "p99", "slowest"))
      << '\n';
  for (const SpikeRow& row : rows) {
    const std::string line =
        absl::StrFormat("%-26s  %6d  %6d  %10s  %10s  %10s", row.name, row.calls, row.errors,
                        to_text(row.p50), to_text(row.p99), to_text(row.max));
    out << (row.errors > 0 ? style.bad(line) : line) << '\n';
  }
}

std::string to_json(const std::vector<FunctionReport>& functions, const std::vector<SpikeRow>& spike) {
  std::string json = "{\"functions\":[";
  std::uint64_t errors = 0;
  const char* separator = "";
  for (const FunctionReport& function : functions) {
    const std::vector<nanoseconds> waits = collect(function, [](StartKind) { return true; }).waits;
    absl::StrAppend(&json, separator, "{\"name\":\"", function.name, "\"");
    for (const StartKind start : kStartKinds)
      absl::StrAppend(&json, ",\"", std::string(to_string(start)), "\":", function.count(start));
    absl::StrAppend(&json, ",\"errors\":", function.errors,
                    ",\"p50_wait_us\":", microseconds(percentile(waits, 0.5)),
                    ",\"p99_wait_us\":", microseconds(percentile(waits, 0.99)), "}");
    errors += function.errors;
    separator = ",";
  }
  absl::StrAppend(&json, "],\"spike\":[");
  separator = "";
  for (const SpikeRow& row : spike) {
    absl::StrAppend(&json, separator, "{\"name\":\"", row.name, "\",\"calls\":", row.calls,
                    ",\"errors\":", row.errors, ",\"p50_us\":", microseconds(row.p50),
                    ",\"p99_us\":", microseconds(row.p99), "}");
    separator = ",";
  }
  absl::StrAppend(&json, "],\"errors\":", errors, "}\n");
  return json;
}

}  // namespace demo
