// base64url as tokens use it (RFC 7515, section 2): no padding, no blanks, no stray bits at the end, so that
// one value has one spelling.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace faaskit::auth {

std::string base64url(std::string_view bytes);
// nullopt: not of this form.
std::optional<std::string> from_base64url(std::string_view text);

inline bool is_base64url(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_';
}

}  // namespace faaskit::auth
