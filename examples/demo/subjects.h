// What the demo calls: functions, their inputs, and how to tell whether an answer is right.
#pragma once

#include <chrono>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

#include "faaskit/local/platform.h"
#include "report.h"

namespace demo {

struct Subject {
  // `code_path` is the function's folder beneath functions_folder(); function.json in it says the same.
  faaskit::local::Function function;
  std::string payload;
  std::function<absl::Status(std::string_view payload, std::string_view answer)> check;
  FunctionReport report;
};

// The one that starts slowly, and that bursts; always the last.
inline constexpr std::uint32_t kMaxSandboxes = 8;

// Beside this program, where the build puts them.
std::string program_folder();
std::string functions_folder();

// `input`: a text or an image in place of the demo's own; empty: none.
absl::StatusOr<std::vector<Subject>> make_subjects(const std::string& input);

}  // namespace demo
