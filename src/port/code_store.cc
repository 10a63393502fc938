#include "faaskit/port/code_store.h"

#include <algorithm>

#include <absl/strings/str_cat.h>

namespace faaskit {

std::string to_string(const CodeId& id) {
  return absl::StrCat(std::string(to_string(id.kind)), ":", id.name);
}

absl::StatusOr<CodeId> parse_code_id(std::string_view text) {
  constexpr std::string_view kDigest = "sha256:";
  constexpr std::size_t kDigits = 64;
  const auto wrong = [&](const char* why) {
    return absl::InvalidArgumentError(absl::StrCat("code id '", std::string(text), "': ", why));
  };
  const std::size_t colon = text.find(':');
  if (colon == std::string_view::npos) return wrong("must be kind:name");
  const std::string_view kind = text.substr(0, colon);
  const std::string_view name = text.substr(colon + 1);
  if (kind == to_string(CodeKind::mounted)) {
    if (name.empty() || name.find('\0') != std::string_view::npos) return wrong("mounted needs a path");
    return CodeId{CodeKind::mounted, std::string(name)};
  }
  if (kind != to_string(CodeKind::copied)) return wrong("the kind is copied or mounted");
  const std::string_view digits = name.substr(std::min(kDigest.size(), name.size()));
  if (name.substr(0, kDigest.size()) != kDigest || digits.size() != kDigits ||
      digits.find_first_not_of("0123456789abcdef") != std::string_view::npos)
    return wrong("copied needs sha256: and 64 hexadecimal digits");
  return CodeId{CodeKind::copied, std::string(name)};
}

}  // namespace faaskit
