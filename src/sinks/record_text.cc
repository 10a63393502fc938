#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "faaskit/sinks/records.h"
#include "sinks/text.h"

namespace faaskit::sinks {
namespace {

using Time = std::chrono::system_clock::time_point;

// Microseconds with what nanoseconds there are: "1234.567", "12".
void append_micros(std::string& out, std::chrono::nanoseconds time) {
  const std::int64_t nanos = time.count() < 0 ? 0 : time.count();
  absl::StrAppend(&out, nanos / 1000);
  if (nanos % 1000 == 0) return;
  std::string fraction = absl::StrFormat("%03d", nanos % 1000);
  while (fraction.back() == '0') fraction.pop_back();
  absl::StrAppend(&out, ".", fraction);
}

// Exactly `count` digits at `at`; -1 if there are none.
int digits(std::string_view text, std::size_t at, std::size_t count) {
  if (at + count > text.size()) return -1;
  int value = 0;
  for (const char c : text.substr(at, count)) {
    if (c < '0' || c > '9') return -1;
    value = value * 10 + (c - '0');
  }
  return value;
}

}  // namespace

std::string to_json(const ExecutionRecord& record) {
  std::string out = "{\"time\":\"";
  out.reserve(512);
  absl::StrAppend(&out, format_time(record.arrived), "\",\"request\":\"", to_string(record.request),
                  "\",\"function\":");
  append_json_string(out, record.function);
  absl::StrAppend(&out, ",\"version\":", record.version, ",\"code\":\"",
                  absl::StatusCodeToString(record.status.code()), "\"");
  const auto text = [&](const char* name, std::string_view value) {
    absl::StrAppend(&out, ",\"", name, "\":");
    append_json_string(out, value);
  };
  const auto number = [&](const char* name, std::uint64_t value) {
    absl::StrAppend(&out, ",\"", name, "\":", value);
  };
  if (!record.status.ok()) {
    const absl::string_view message = record.status.message();
    text("message", std::string_view(message.data(), message.size()));
  }
  if (record.sandbox.host != 0) {
    text("start", to_string(record.start));
    text("sandbox", to_string(record.sandbox));
    absl::StrAppend(&out, ",\"cross_shard\":", record.cross_shard ? "true" : "false");
  }
  number("attempts", record.attempts);
  if (record.use != 0) number("use", record.use);
  out += ",\"total_us\":";
  append_micros(out, record.total);
  out += ",\"phases\":{";
  bool first = true;
  for (std::size_t i = 0; i < kPhaseCount; ++i) {
    const Phase phase = static_cast<Phase>(i);
    if (!record.phases.has(phase)) continue;
    absl::StrAppend(&out, first ? "\"" : ",\"", std::string(to_string(phase)), "\":");
    append_micros(out, record.phases[phase]);
    first = false;
  }
  out += "}";
  number("payload_bytes", record.payload_bytes);
  number("reply_bytes", record.reply_bytes);
  if (record.memory_peak_bytes != 0) {
    number("memory_peak_bytes", record.memory_peak_bytes);
    if (!record.memory_source.empty()) text("memory_source", record.memory_source);
  }
  number("log_bytes", record.log_bytes);
  number("lost_log_bytes", record.lost_log_bytes);
  if (!record.tenant.empty()) text("tenant", record.tenant);
  if (!record.trace.empty()) text("trace", record.trace);
  out += "}";
  return out;
}

std::string format_time(Time time) {
  const auto millis = std::chrono::floor<std::chrono::milliseconds>(time);
  const auto day = std::chrono::floor<std::chrono::days>(millis);
  const std::chrono::year_month_day date(day);
  const std::chrono::hh_mm_ss clock(millis - day);
  return absl::StrFormat("%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", static_cast<int>(date.year()),
                         static_cast<unsigned>(date.month()), static_cast<unsigned>(date.day()),
                         clock.hours().count(), clock.minutes().count(), clock.seconds().count(),
                         clock.subseconds().count());
}

absl::StatusOr<Time> parse_time(std::string_view text) {
  const auto wrong = [&] {
    return absl::InvalidArgumentError(
        absl::StrFormat("time '%s': must be like 2026-01-02T03:04:05.678Z", text.substr(0, 40)));
  };
  // "2026-01-02T03:04:05", perhaps a fraction, "Z".
  const int year = digits(text, 0, 4), month = digits(text, 5, 2), day = digits(text, 8, 2);
  const int hour = digits(text, 11, 2), minute = digits(text, 14, 2), second = digits(text, 17, 2);
  if (year < 0 || month < 0 || day < 0 || hour < 0 || minute < 0 || second < 0 || text.size() < 20 ||
      text.size() > 40 || text[4] != '-' || text[7] != '-' || text[10] != 'T' || text[13] != ':' ||
      text[16] != ':' || text.back() != 'Z')
    return wrong();
  std::string_view fraction = text.substr(19, text.size() - 20);
  std::int64_t nanos = 0;
  if (!fraction.empty()) {
    if (fraction.front() != '.' || fraction.size() < 2) return wrong();
    fraction.remove_prefix(1);
    std::int64_t unit = 100'000'000;
    for (const char c : fraction) {
      if (c < '0' || c > '9') return wrong();
      nanos += unit * (c - '0');
      unit /= 10;
    }
  }
  const std::chrono::year_month_day date{std::chrono::year(year),
                                         std::chrono::month(static_cast<unsigned>(month)),
                                         std::chrono::day(static_cast<unsigned>(day))};
  // A leap second is the last moment of its minute; years that the clock's nanoseconds do not reach are
  // refused.
  if (!date.ok() || hour > 23 || minute > 59 || second > 60 || year < 1900 || year > 2200) return wrong();
  return Time(std::chrono::duration_cast<Time::duration>(
      std::chrono::sys_days(date).time_since_epoch() + std::chrono::hours(hour) +
      std::chrono::minutes(minute) + std::chrono::seconds(second == 60 ? 59 : second) +
      std::chrono::nanoseconds(nanos)));
}

}  // namespace faaskit::sinks
