// What the demo counted, as a table for people and as JSON for programs.
#pragma once

#include <chrono>
#include <cstdint>
#include <ostream>
#include <string>
#include <vector>

#include "faaskit/core/sandbox.h"

namespace demo {

using std::chrono::nanoseconds;

struct FunctionReport {
  struct Call {
    faaskit::StartKind start = faaskit::StartKind::warm;
    nanoseconds wait{};   // until it had a sandbox
    nanoseconds total{};  // until its answer
  };
  std::string name;
  std::vector<Call> calls;   // those that were answered
  std::uint64_t errors = 0;  // calls without an answer, and wrong answers

  std::uint64_t count(faaskit::StartKind start) const;
};

// "3.1 us", "12.4 ms", "1.20 s".
std::string to_text(nanoseconds time);

// Emphasis, where the terminal understands it.
class Style {
 public:
  explicit Style(bool colours) : colours_(colours) {}
  // For stdout: a terminal, and NO_COLOR is not set.
  static Style for_stdout();
  std::string bold(const std::string& text) const { return wrap("1", text); }
  std::string bad(const std::string& text) const { return wrap("1;31", text); }
  std::string good(const std::string& text) const { return wrap("32", text); }

 private:
  std::string wrap(const char* code, const std::string& text) const;
  bool colours_;
};

// Per function, a row for each start kind that occurred and one for all.
void print_table(std::ostream& out, const std::vector<FunctionReport>& functions, const Style& style);

// What the clients felt of a spike.
struct SpikeRow {
  std::string name;  // "start on demand"
  std::uint64_t calls = 0;
  std::uint64_t errors = 0;
  nanoseconds p50{};
  nanoseconds p99{};
  nanoseconds max{};
};
void print_spike(std::ostream& out, const std::vector<SpikeRow>& rows, const Style& style);

// Nearest rank: a time that was really measured.
nanoseconds percentile(std::vector<nanoseconds> times, double share);

std::string to_json(const std::vector<FunctionReport>& functions, const std::vector<SpikeRow>& spike);

}  // namespace demo
