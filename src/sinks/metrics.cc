#include "faaskit/sinks/metrics.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cmath>
#include <functional>
#include <map>
#include <set>
#include <string_view>
#include <unordered_map>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "support/mutex.h"

namespace faaskit::sinks {
namespace {

constexpr std::size_t kKinds = 5;   // the four, and "none"
constexpr std::size_t kCodes = 17;  // absl's
constexpr std::string_view kOther = "_other";

// Nanoseconds; 1, 2.5, 5 in each decade.
constexpr std::array<std::uint64_t, 22> kTimeBounds = {
    10'000,         25'000,         50'000,         100'000,        250'000,       500'000,
    1'000'000,      2'500'000,      5'000'000,      10'000'000,     25'000'000,    50'000'000,
    100'000'000,    250'000'000,    500'000'000,    1'000'000'000,  2'500'000'000, 5'000'000'000,
    10'000'000'000, 25'000'000'000, 50'000'000'000, 100'000'000'000};
constexpr std::array<std::uint64_t, 17> kByteBounds = [] {
  std::array<std::uint64_t, 17> bounds{};
  for (std::size_t i = 0; i < bounds.size(); ++i) bounds[i] = std::uint64_t{1} << (20 + i);
  return bounds;
}();

template <std::size_t kCount>
struct Histogram {
  std::array<std::uint64_t, kCount + 1> counts{};  // the last: beyond all bounds
  std::uint64_t sum = 0;

  void add(const std::array<std::uint64_t, kCount>& bounds, std::uint64_t value) {
    // A bound belongs to its bucket: "le".
    ++counts[static_cast<std::size_t>(std::lower_bound(bounds.begin(), bounds.end(), value) -
                                      bounds.begin())];
    sum += value;
  }
  void add(const Histogram& other) {
    for (std::size_t i = 0; i < counts.size(); ++i) counts[i] += other.counts[i];
    sum += other.sum;
  }
};
using TimeHistogram = Histogram<kTimeBounds.size()>;
using ByteHistogram = Histogram<kByteBounds.size()>;

// How long calls ran that ended well: a sandbox's first, and its later ones.
struct Runs {
  std::uint64_t count = 0;
  std::uint64_t nanos = 0;
  void add(const Runs& other) {
    count += other.count;
    nanos += other.nanos;
  }
  double mean() const { return static_cast<double>(nanos) / static_cast<double>(count); }
};

struct OfFunction {
  std::array<std::array<std::uint64_t, kCodes>, kKinds> invocations{};
  TimeHistogram duration{};
  Runs first_runs{};
  Runs later_runs{};
  std::uint64_t payload_bytes = 0;
  std::uint64_t reply_bytes = 0;
  std::uint64_t log_bytes = 0;
  std::uint64_t lost_log_bytes = 0;
  std::uint64_t retries = 0;
  std::uint64_t cross_shard = 0;
};

struct OfAll {
  std::array<TimeHistogram, kPhaseCount> phases{};
  ByteHistogram memory{};
};

struct Hash {
  using is_transparent = void;
  std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};

// A value of a label.
std::string escaped(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\' || c == '"') out.push_back('\\');
    if (c == '\n') {
      out += "\\n";
    } else {
      out.push_back(c);
    }
  }
  return out;
}

// A help text knows fewer escapes.
std::string escaped_help(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (c == '\\')
      out += "\\\\";
    else if (c == '\n')
      out += "\\n";
    else
      out.push_back(c);
  }
  return out;
}

std::string name_of(std::string_view text, bool colon) {
  std::string name(text);
  for (char& c : name) {
    if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
          (colon && c == ':')))
      c = '_';
  }
  if (name.empty() || (name.front() >= '0' && name.front() <= '9')) name.insert(name.begin(), '_');
  return name;
}

std::string number(double value) {
  if (std::isnan(value)) return "NaN";
  if (std::isinf(value)) return value > 0 ? "+Inf" : "-Inf";
  // Whole numbers in full; others with all their digits.
  if (std::abs(value) < 1e15 && value == std::floor(value)) return absl::StrFormat("%.0f", value);
  return absl::StrFormat("%.17g", value);
}
// Bounds as people write them: 0.00025, 2.5.
std::string seconds(std::uint64_t nanos) { return absl::StrFormat("%g", static_cast<double>(nanos) / 1e9); }

class Page {
 public:
  void family(const char* name, const char* type, std::string_view help) {
    names_.emplace_back(name);
    absl::StrAppend(&text_, "# HELP ", name, " ", escaped_help(help), "\n# TYPE ", name, " ", type, "\n");
  }
  // `labels` without braces; may be empty.
  void line(const std::string& name, const std::string& labels, const std::string& value) {
    absl::StrAppend(&text_, name);
    if (!labels.empty()) absl::StrAppend(&text_, "{", labels, "}");
    absl::StrAppend(&text_, " ", value, "\n");
  }
  template <std::size_t kCount>
  void histogram(const std::string& name, const std::string& labels, const Histogram<kCount>& data,
                 const std::array<std::uint64_t, kCount>& bounds, bool is_time) {
    const std::string before = labels.empty() ? "" : labels + ",";
    std::uint64_t below = 0;
    for (std::size_t i = 0; i < kCount; ++i) {
      below += data.counts[i];
      line(name + "_bucket",
           absl::StrCat(before, "le=\"", is_time ? seconds(bounds[i]) : absl::StrCat(bounds[i]), "\""),
           absl::StrCat(below));
    }
    below += data.counts[kCount];
    line(name + "_bucket", before + "le=\"+Inf\"", absl::StrCat(below));
    line(name + "_sum", labels,
         is_time ? absl::StrFormat("%.9f", static_cast<double>(data.sum) / 1e9) : absl::StrCat(data.sum));
    line(name + "_count", labels, absl::StrCat(below));
  }
  // Ours, or a name that would read like a part of one of ours.
  bool has(const std::string& name) const {
    return std::any_of(names_.begin(), names_.end(), [&](const std::string& ours) {
      return name == ours || name == ours + "_bucket" || name == ours + "_sum" || name == ours + "_count";
    });
  }
  std::string take() && { return std::move(text_); }

 private:
  std::string text_;
  std::vector<std::string> names_;
};

class Sink final : public MetricsSink {
 public:
  explicit Sink(MetricsOptions options) : max_functions_(options.max_functions) {}

  void write(const ExecutionRecord& record) override {
    const std::size_t hash = Hash()(record.function);
    Shard& shard = shards_[hash % shards_.size()];
    const bool leased = record.sandbox.host != 0;
    const std::size_t kind =
        leased ? std::min<std::size_t>(static_cast<std::size_t>(record.start), kKinds - 2) : kKinds - 1;
    const std::size_t code =
        std::min<std::size_t>(static_cast<std::size_t>(record.status.code()), kCodes - 1);
    MutexLock lock(shard.mutex);
    OfFunction& function = find(shard, record.function);
    ++function.invocations[kind][code];
    function.duration.add(kTimeBounds, nanos(record.total));
    if (record.use > 0 && record.status.ok() && record.phases.has(Phase::run))
      (record.use == 1 ? function.first_runs : function.later_runs)
          .add({1, nanos(record.phases[Phase::run])});
    function.payload_bytes += record.payload_bytes;
    function.reply_bytes += record.reply_bytes;
    function.log_bytes += record.log_bytes;
    function.lost_log_bytes += record.lost_log_bytes;
    if (record.attempts > 1) function.retries += record.attempts - 1;
    if (leased && record.cross_shard) ++function.cross_shard;
    for (std::size_t i = 0; i < kPhaseCount; ++i) {
      if (record.phases.has(static_cast<Phase>(i)))
        shard.all.phases[i].add(kTimeBounds, nanos(record.phases[static_cast<Phase>(i)]));
    }
    if (record.memory_peak_bytes != 0) shard.all.memory.add(kByteBounds, record.memory_peak_bytes);
  }

  std::string render(const std::vector<Sample>& samples) const override {
    std::map<std::string, OfFunction> functions;
    OfAll all;
    collect(functions, all);
    Page page;
    page.family("faaskit_invocations_total", "counter",
                "Invocations by how they came by their sandbox and how they ended.");
    for (const auto& [name, data] : functions) {
      for (std::size_t kind = 0; kind < kKinds; ++kind) {
        for (std::size_t code = 0; code < kCodes; ++code) {
          if (data.invocations[kind][code] == 0) continue;
          page.line(
              "faaskit_invocations_total",
              absl::StrCat("function=\"", escaped(name), "\",kind=\"",
                           kind == kKinds - 1 ? std::string("none")
                                              : std::string(to_string(static_cast<StartKind>(kind))),
                           "\",code=\"", absl::StatusCodeToString(static_cast<absl::StatusCode>(code)), "\""),
              absl::StrCat(data.invocations[kind][code]));
        }
      }
    }
    page.family("faaskit_invocation_duration_seconds", "histogram", "From a call's arrival to its answer.");
    for (const auto& [name, data] : functions)
      page.histogram("faaskit_invocation_duration_seconds", label(name), data.duration, kTimeBounds, true);
    render_runs(page, functions);
    page.family("faaskit_phase_duration_seconds", "histogram", "Where the time of invocations went.");
    for (std::size_t i = 0; i < kPhaseCount; ++i)
      page.histogram("faaskit_phase_duration_seconds",
                     absl::StrCat("phase=\"", std::string(to_string(static_cast<Phase>(i))), "\""),
                     all.phases[i], kTimeBounds, true);
    page.family("faaskit_memory_peak_bytes", "histogram",
                "Peak memory of a sandbox during a call, where measured.");
    page.histogram("faaskit_memory_peak_bytes", "", all.memory, kByteBounds, false);
    const auto counter = [&](const char* name, const char* help, std::uint64_t OfFunction::* field) {
      page.family(name, "counter", help);
      for (const auto& [function, data] : functions)
        page.line(name, label(function), absl::StrCat(data.*field));
    };
    counter("faaskit_payload_bytes_total", "Bytes of payloads.", &OfFunction::payload_bytes);
    counter("faaskit_reply_bytes_total", "Bytes of replies.", &OfFunction::reply_bytes);
    counter("faaskit_log_bytes_total", "Bytes that functions logged.", &OfFunction::log_bytes);
    counter("faaskit_lost_log_bytes_total", "Bytes logged beyond what an invocation may.",
            &OfFunction::lost_log_bytes);
    counter("faaskit_retries_total", "Attempts beyond an invocation's first.", &OfFunction::retries);
    counter("faaskit_cross_shard_total", "Invocations served by a sandbox of another shard.",
            &OfFunction::cross_shard);
    append(page, samples);
    return std::move(page).take();
  }

 private:
  struct Shard {
    mutable Mutex mutex;
    std::unordered_map<std::string, OfFunction, Hash, std::equal_to<>> functions FAASKIT_GUARDED_BY(mutex);
    OfFunction other FAASKIT_GUARDED_BY(mutex);
    bool has_other FAASKIT_GUARDED_BY(mutex) = false;
    OfAll all FAASKIT_GUARDED_BY(mutex);
  };

  static std::uint64_t nanos(std::chrono::nanoseconds time) {
    return time.count() < 0 ? 0 : static_cast<std::uint64_t>(time.count());
  }
  static void render_runs(Page& page, const std::map<std::string, OfFunction>& functions) {
    const auto both = [&](const char* name, const char* help, const auto& value) {
      page.family(name, "counter", help);
      for (const auto& [function, data] : functions) {
        page.line(name, label(function) + ",use=\"first\"", value(data.first_runs));
        page.line(name, label(function) + ",use=\"later\"", value(data.later_runs));
      }
    };
    both("faaskit_runs_total", "Calls that ended well, by whether they were their sandbox's first.",
         [](const Runs& runs) { return absl::StrCat(runs.count); });
    both("faaskit_run_seconds_total", "Time that such calls ran.",
         [](const Runs& runs) { return absl::StrFormat("%.9f", static_cast<double>(runs.nanos) / 1e9); });
    page.family("faaskit_first_run_ratio", "gauge",
                "Mean run time of first calls over that of later ones: far above 1, a function initialises "
                "itself in its first call.");
    for (const auto& [function, data] : functions) {
      if (data.first_runs.count > 0 && data.later_runs.nanos > 0)
        page.line("faaskit_first_run_ratio", label(function),
                  number(data.first_runs.mean() / data.later_runs.mean()));
    }
  }

  static std::string label(const std::string& function) {
    return absl::StrCat("function=\"", escaped(function), "\"");
  }

  OfFunction& find(Shard& shard, const std::string& name) FAASKIT_REQUIRES(shard.mutex) {
    const auto found = shard.functions.find(std::string_view(name));
    if (found != shard.functions.end()) return found->second;
    // The bound is on all shards together.
    std::size_t count = function_count_.load(std::memory_order_relaxed);
    while (count < max_functions_ && !function_count_.compare_exchange_weak(count, count + 1)) {
    }
    if (count < max_functions_) return shard.functions[name];
    shard.has_other = true;
    return shard.other;
  }

  void collect(std::map<std::string, OfFunction>& functions, OfAll& all) const {
    for (const Shard& shard : shards_) {
      MutexLock lock(shard.mutex);
      for (const auto& [name, data] : shard.functions) functions.emplace(name, data);
      if (shard.has_other) add(functions[std::string(kOther)], shard.other);
      for (std::size_t i = 0; i < kPhaseCount; ++i) all.phases[i].add(shard.all.phases[i]);
      all.memory.add(shard.all.memory);
    }
  }

  static void add(OfFunction& to, const OfFunction& from) {
    for (std::size_t kind = 0; kind < kKinds; ++kind)
      for (std::size_t code = 0; code < kCodes; ++code)
        to.invocations[kind][code] += from.invocations[kind][code];
    to.duration.add(from.duration);
    to.first_runs.add(from.first_runs);
    to.later_runs.add(from.later_runs);
    to.payload_bytes += from.payload_bytes;
    to.reply_bytes += from.reply_bytes;
    to.log_bytes += from.log_bytes;
    to.lost_log_bytes += from.lost_log_bytes;
    to.retries += from.retries;
    to.cross_shard += from.cross_shard;
  }

  // All lines of a name together, in the order in which the names come first; a set of labels once.
  static void append(Page& page, const std::vector<Sample>& samples) {
    std::vector<std::pair<std::string, std::vector<const Sample*>>> families;
    for (const Sample& sample : samples) {
      const std::string name = name_of(sample.name, true);
      if (page.has(name)) continue;
      auto family =
          std::find_if(families.begin(), families.end(), [&](const auto& one) { return one.first == name; });
      if (family == families.end()) family = families.insert(families.end(), {name, {}});
      family->second.push_back(&sample);
    }
    for (const auto& [name, members] : families) {
      page.family(name.c_str(), members.front()->type == Sample::Type::gauge ? "gauge" : "counter",
                  members.front()->help);
      std::set<std::string> seen;  // there may be one for each function
      for (const Sample* sample : members) {
        std::string labels;
        for (const auto& [label, value] : sample->labels)
          absl::StrAppend(&labels, labels.empty() ? "" : ",", name_of(label, false), "=\"", escaped(value),
                          "\"");
        if (!seen.insert(labels).second) continue;
        page.line(name, labels, number(sample->value));
      }
    }
  }

  const std::size_t max_functions_;
  std::atomic<std::size_t> function_count_{0};
  std::array<Shard, 16> shards_;
};

}  // namespace

std::unique_ptr<MetricsSink> make_metrics_sink(MetricsOptions options) {
  return std::make_unique<Sink>(options);
}

}  // namespace faaskit::sinks
