// If these failed: Prometheus would refuse the page, or show what did not happen.
#include "faaskit/sinks/metrics.h"

#include <cctype>
#include <cmath>
#include <set>
#include <thread>

#include "stage.h"

namespace faaskit::sinks {
namespace {

// A strict reader of the text format 0.0.4: families in one piece, declared before they are used, no series
// twice, histograms whole and growing.
class Page {
 public:
  explicit Page(const std::string& text) {
    REQUIRE_FALSE(text.empty());
    REQUIRE(text.back() == '\n');
    for (const std::string& line : lines_of(text)) {
      INFO(line);
      if (line.rfind("# HELP ", 0) == 0) {
        const std::string rest = line.substr(7);
        family_ = rest.substr(0, rest.find(' '));
        check_name(family_);
        REQUIRE(types_.count(family_) == 0);
        types_[family_] = "";
      } else if (line.rfind("# TYPE ", 0) == 0) {
        const std::string rest = line.substr(7);
        REQUIRE(rest.substr(0, rest.find(' ')) == family_);
        REQUIRE(types_[family_].empty());
        types_[family_] = rest.substr(rest.find(' ') + 1);
        const std::set<std::string> known{"counter", "gauge", "histogram"};
        REQUIRE(known.count(types_[family_]) == 1);
      } else {
        sample(line);
      }
    }
    check_histograms();
  }

  double operator[](const std::string& series) const {
    INFO(series);
    const auto found = values_.find(series);
    REQUIRE(found != values_.end());
    return found->second;
  }
  bool has(const std::string& series) const { return values_.count(series) == 1; }
  std::string type(const std::string& family) const { return types_.at(family); }
  std::size_t size() const { return values_.size(); }

 private:
  static void check_name(const std::string& name) {
    REQUIRE_FALSE(name.empty());
    REQUIRE_FALSE(std::isdigit(static_cast<unsigned char>(name[0])));
    for (const char c : name) REQUIRE((std::isalnum(static_cast<unsigned char>(c)) || c == '_' || c == ':'));
  }

  void sample(const std::string& line) {
    std::size_t at = line.find_first_of("{ ");
    REQUIRE(at != std::string::npos);
    const std::string name = line.substr(0, at);
    check_name(name);
    REQUIRE_FALSE(types_[family_].empty());
    if (types_[family_] == "histogram") {
      const std::string suffix = name.substr(std::min(name.size(), family_.size()));
      REQUIRE((suffix == "_bucket" || suffix == "_sum" || suffix == "_count"));
    } else {
      REQUIRE(name == family_);
    }
    std::string others, le;
    if (line[at] == '{') {
      ++at;
      std::set<std::string> labels;
      while (line[at] != '}') {
        const std::size_t equals = line.find('=', at);
        REQUIRE(equals != std::string::npos);
        const std::string label = line.substr(at, equals - at);
        check_name(label);
        REQUIRE(labels.insert(label).second);
        at = equals + 1;
        REQUIRE(line[at] == '"');
        std::string value;
        for (++at; line.at(at) != '"'; ++at) {
          if (line[at] == '\\') {
            ++at;
            REQUIRE((line.at(at) == '\\' || line[at] == '"' || line[at] == 'n'));
          }
          value.push_back(line[at]);
        }
        ++at;
        if (label == "le") {
          le = value;
        } else {
          others += label + "=" + value + ",";
        }
        if (line.at(at) == ',') {
          ++at;
          REQUIRE(line.at(at) != '}');
        } else {
          REQUIRE(line[at] == '}');
        }
      }
      ++at;
    }
    REQUIRE(line.at(at) == ' ');
    const std::string number = line.substr(at + 1);
    char* end = nullptr;
    const double value = std::strtod(number.c_str(), &end);
    REQUIRE_FALSE(number.empty());
    REQUIRE(*end == '\0');
    REQUIRE(values_.emplace(line.substr(0, at), value).second);
    if (types_[family_] != "histogram") return;
    Histogram& histogram = histograms_[family_ + "/" + others];
    const std::string suffix = name.substr(family_.size());
    if (suffix == "_bucket") {
      const double bound = le == "+Inf" ? HUGE_VAL : std::strtod(le.c_str(), nullptr);
      REQUIRE((histogram.buckets.empty() || histogram.buckets.back().first < bound));
      REQUIRE((histogram.buckets.empty() || histogram.buckets.back().second <= value));
      histogram.buckets.emplace_back(bound, value);
    } else {
      (suffix == "_sum" ? histogram.sum : histogram.count) = value;
    }
  }

  void check_histograms() const {
    for (const auto& [name, histogram] : histograms_) {
      INFO(name);
      REQUIRE_FALSE(histogram.buckets.empty());
      REQUIRE(std::isinf(histogram.buckets.back().first));
      REQUIRE(histogram.buckets.back().second == histogram.count);
      REQUIRE(histogram.sum >= 0);
    }
  }

  struct Histogram {
    std::vector<std::pair<double, double>> buckets{};
    double sum = -1;
    double count = -1;
  };
  std::string family_;
  std::map<std::string, std::string> types_;
  std::map<std::string, double> values_;
  std::map<std::string, Histogram> histograms_;
};

TEST_CASE("nothing has happened yet: a page that can be read", "[sinks][metrics]") {
  const Page page(make_metrics_sink()->render());
  CHECK(page["faaskit_memory_peak_bytes_count"] == 0);
  CHECK(page["faaskit_phase_duration_seconds_count{phase=\"thaw\"}"] == 0);
}

TEST_CASE("invocations are counted by function, kind and code, with times and bytes", "[sinks][metrics]") {
  auto sink = make_metrics_sink();
  ExecutionRecord record = execution("f");
  record.start = StartKind::cold;
  record.total = 2500us;
  record.phases.set(Phase::init, 10us);
  record.payload_bytes = 10;
  record.reply_bytes = 20;
  record.log_bytes = 30;
  record.lost_log_bytes = 40;
  record.memory_peak_bytes = (1 << 20) + 1;
  record.attempts = 3;
  record.cross_shard = true;
  sink->write(record);
  sink->write(record);
  ExecutionRecord refused = execution("f");
  refused.sandbox = {};
  refused.status = absl::ResourceExhaustedError("too many waiters");
  refused.total = 200s;
  sink->write(refused);
  const Page page(sink->render());
  CHECK(page[R"(faaskit_invocations_total{function="f",kind="cold",code="OK"})"] == 2);
  CHECK(page[R"(faaskit_invocations_total{function="f",kind="none",code="RESOURCE_EXHAUSTED"})"] == 1);
  CHECK(page[R"(faaskit_invocation_duration_seconds_bucket{function="f",le="0.001"})"] == 0);
  CHECK(page[R"(faaskit_invocation_duration_seconds_bucket{function="f",le="0.0025"})"] == 2);
  CHECK(page[R"(faaskit_invocation_duration_seconds_bucket{function="f",le="100"})"] == 2);
  CHECK(page[R"(faaskit_invocation_duration_seconds_bucket{function="f",le="+Inf"})"] == 3);
  CHECK(page[R"(faaskit_invocation_duration_seconds_sum{function="f"})"] == Approx(200.005));
  CHECK(page[R"(faaskit_phase_duration_seconds_bucket{phase="init",le="1e-05"})"] == 2);
  CHECK(page[R"(faaskit_phase_duration_seconds_count{phase="thaw"})"] == 0);
  CHECK(page[R"(faaskit_memory_peak_bytes_bucket{le="1048576"})"] == 0);
  CHECK(page[R"(faaskit_memory_peak_bytes_bucket{le="2097152"})"] == 2);
  CHECK(page[R"(faaskit_payload_bytes_total{function="f"})"] == 20);
  CHECK(page[R"(faaskit_reply_bytes_total{function="f"})"] == 40);
  CHECK(page[R"(faaskit_log_bytes_total{function="f"})"] == 60);
  CHECK(page[R"(faaskit_lost_log_bytes_total{function="f"})"] == 80);
  CHECK(page[R"(faaskit_retries_total{function="f"})"] == 4);
  CHECK(page[R"(faaskit_cross_shard_total{function="f"})"] == 2);
}

TEST_CASE("first calls of sandboxes are told from later ones", "[sinks][metrics]") {
  auto sink = make_metrics_sink();
  const auto write = [&](const char* function, std::uint64_t use, std::chrono::nanoseconds run,
                         absl::Status status = {}) {
    ExecutionRecord record = execution(function);
    record.use = use;
    record.status = std::move(status);
    record.phases.set(Phase::run, run);
    sink->write(record);
  };
  write("lazy", 1, 80ms);
  write("lazy", 1, 100ms);
  write("lazy", 2, 10ms);
  write("lazy", 9, 20ms);
  write("lazy", 1, 50s, absl::DeadlineExceededError("tells nothing"));
  write("lazy", 0, 50s);  // of no known sandbox
  write("young", 1, 1ms);
  const Page page(sink->render());
  CHECK(page[R"(faaskit_runs_total{function="lazy",use="first"})"] == 2);
  CHECK(page[R"(faaskit_runs_total{function="lazy",use="later"})"] == 2);
  CHECK(page[R"(faaskit_run_seconds_total{function="lazy",use="first"})"] == Approx(0.18));
  CHECK(page[R"(faaskit_run_seconds_total{function="lazy",use="later"})"] == Approx(0.03));
  CHECK(page[R"(faaskit_first_run_ratio{function="lazy"})"] == Approx(6));
  CHECK(page.type("faaskit_first_run_ratio") == "gauge");
  CHECK_FALSE(page.has(R"(faaskit_first_run_ratio{function="young"})"));
}

TEST_CASE("functions beyond the bound are summed up", "[sinks][metrics]") {
  auto sink = make_metrics_sink({.max_functions = 2});
  for (int i = 0; i < 50; ++i) sink->write(execution("f" + std::to_string(i)));
  sink->write(execution("f0"));
  const Page page(sink->render());
  CHECK(page[R"(faaskit_invocations_total{function="f0",kind="warm",code="OK"})"] == 2);
  CHECK(page[R"(faaskit_invocations_total{function="f1",kind="warm",code="OK"})"] == 1);
  CHECK(page[R"(faaskit_invocations_total{function="_other",kind="warm",code="OK"})"] == 48);
  CHECK_FALSE(page.has(R"(faaskit_invocations_total{function="f2",kind="warm",code="OK"})"));
}

TEST_CASE("samples of others are added, whatever is in them", "[sinks][metrics]") {
  auto sink = make_metrics_sink();
  const Page page(sink->render({
      {.name = "faaskit_sandboxes",
       .help = "Sandboxes\nby \\state.",
       .labels = {{"state", "idle"}},
       .value = 3},
      {.type = Sample::Type::counter, .name = "lost records-total", .help = "", .labels = {}, .value = 1e18},
      {.name = "faaskit_sandboxes", .help = "another", .labels = {{"state", "busy"}}, .value = 1.5},
      {.name = "faaskit_sandboxes", .help = "", .labels = {{"state", "busy"}}, .value = 9},
      {.name = "7up", .help = "", .labels = {{"a-b", "q\"uo\\te\n"}, {"le:x", ""}}, .value = -HUGE_VAL},
      {.name = "", .help = "", .labels = {}, .value = std::nan("")},
      {.name = "faaskit_invocations_total", .help = "", .labels = {}, .value = 7},
      {.name = "faaskit_memory_peak_bytes_count", .help = "", .labels = {}, .value = 7},
  }));
  CHECK(page[R"(faaskit_sandboxes{state="idle"})"] == 3);
  CHECK(page[R"(faaskit_sandboxes{state="busy"})"] == 1.5);
  CHECK(page.type("faaskit_sandboxes") == "gauge");
  CHECK(page["lost_records_total"] == 1e18);
  CHECK(page.type("lost_records_total") == "counter");
  CHECK(page["_7up{a_b=\"q\\\"uo\\\\te\\n\",le_x=\"\"}"] == -HUGE_VAL);
  CHECK_FALSE(page.has("faaskit_invocations_total"));
  CHECK(page["faaskit_memory_peak_bytes_count"] == 0);
}

TEST_CASE("many threads write while a page is rendered, and every invocation is counted",
          "[sinks][metrics]") {
  auto sink = make_metrics_sink();
  {
    std::vector<std::jthread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        for (int i = 0; i < 500; ++i) {
          ExecutionRecord record = execution("f" + std::to_string((i + thread) % 10));
          record.phases.set(Phase::run, 1ms);
          sink->write(record);
          if (i % 100 == 0) (void)sink->render();
        }
      });
    }
  }
  const Page page(sink->render());
  double all = 0;
  for (int i = 0; i < 10; ++i)
    all +=
        page["faaskit_invocations_total{function=\"f" + std::to_string(i) + "\",kind=\"warm\",code=\"OK\"}"];
  CHECK(all == 2000);
  CHECK(page[R"(faaskit_phase_duration_seconds_count{phase="run"})"] == 2000);
}

}  // namespace
}  // namespace faaskit::sinks
