#include "faaskit/core/ids.h"

#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace faaskit {

std::string to_string(const SandboxId& id) { return absl::StrFormat("sb-%x-%d", id.host, id.number); }

std::string to_string(const RequestId& id) { return absl::StrFormat("rq-%x-%d", id.invoker, id.sequence); }

std::string to_string(const LeaseId& id) { return absl::StrCat(to_string(id.request), ".", id.attempt); }

std::string to_string(const StartId& id) { return absl::StrFormat("st-%x-%d", id.nonce, id.number); }

absl::Status validate_function_name(std::string_view name) {
  constexpr std::size_t kMaxLength = 63;
  if (name.empty() || name.size() > kMaxLength) {
    return absl::InvalidArgumentError(
        absl::StrFormat("function name '%s' has %d characters; 1 to %d are allowed", name.substr(0, 80),
                        name.size(), kMaxLength));
  }
  const auto lower_or_digit = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9'); };
  if (!lower_or_digit(name.front())) {
    return absl::InvalidArgumentError(
        absl::StrFormat("function name '%s' must begin with a lower-case letter or a digit", name));
  }
  for (std::size_t i = 0; i < name.size(); ++i) {
    const char c = name[i];
    if (!lower_or_digit(c) && c != '.' && c != '_' && c != '-') {
      return absl::InvalidArgumentError(absl::StrFormat(
          "function name has byte 0x%02x at %d; allowed are [a-z0-9._-]", static_cast<unsigned char>(c), i));
    }
  }
  if (name.find("..") != std::string_view::npos) {
    return absl::InvalidArgumentError(absl::StrFormat("function name '%s' contains '..'", name));
  }
  return absl::OkStatus();
}

}  // namespace faaskit
