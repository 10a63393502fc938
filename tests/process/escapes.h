// Attempts to get out of a sandbox, or to take the machine down from inside: what each does, and what must
// come of it. docs/isolation.md shows the same table; a test compares them.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "stage.h"

namespace faaskit::process {

//   blocked  it does not succeed
//   limited  it goes so far and no further, and nobody else feels it
//   open     it succeeds; the note says why that is so
enum class Outcome { blocked, limited, open };

struct Verdict {
  Outcome outcome = Outcome::blocked;
  std::string note{};  // by what; or why not
};

// One column for each kind of host.
enum Column { kRootHost, kOrdinaryHost, kColumns };
inline constexpr const char* kColumnTitles[kColumns] = {"host runs as root", "host is an ordinary user"};

struct Escape {
  std::string what;
  // Python, the body of a function that runs inside. An OSError is a refusal; "blocked: ..." and "limited:
  // ..." say so themselves; any other return value, or none, is success.
  std::string body;
  // What must be seen: errno's name, or the text returned; alternatives separated by '|'.
  std::string evidence;
  // By column; nullopt: no sandboxes are made there.
  std::optional<Verdict> expected[kColumns];
  // Of memory, pids and cpu, the limit that stops it; where no controller enforces that, the row says
  // nothing.
  std::string needs{};
  // Further conditions of the sandbox, and what is true outside afterwards; it may replace the evidence.
  std::function<void(FunctionSpec&)> prepare = nullptr;
  std::function<std::string(Stage&, Sandbox&, const std::string& code)> outside = nullptr;
};

// Everything in Python that the bodies use, and these names filled in.
struct Surroundings {
  pid_t host = 0, neighbour = 0;
  std::string host_file, state_folder, neighbour_code, abstract_socket;
  int host_port = 0, shared_memory_key = 0;
};
std::string probe_code(const Escape& escape, const Surroundings& around);
Outcome outcome_of(const std::string& evidence);

const std::vector<Escape>& all_escapes();

// The lines of a Markdown table.
std::string table();

}  // namespace faaskit::process
