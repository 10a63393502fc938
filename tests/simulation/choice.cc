#include "simulation/choice.h"

#include <absl/strings/str_format.h>
#include <absl/strings/str_split.h>

namespace faaskit::simulation {

std::string to_string(const Choice& choice) {
  const char kind = static_cast<char>(choice.kind);
  return choice.kind == Choice::Kind::fault ? absl::StrFormat("%c%x", kind, choice.number)
                                            : absl::StrFormat("%c%d", kind, choice.number);
}

std::string join(const std::vector<Choice>& choices) {
  std::string text;
  for (const Choice& choice : choices) text += (text.empty() ? "" : ",") + to_string(choice);
  return text;
}

std::optional<std::vector<Choice>> parse_choices(std::string_view text) {
  std::vector<Choice> choices;
  for (const std::string& word :
       std::vector<std::string>(absl::StrSplit(std::string(text), ',', absl::SkipEmpty()))) {
    Choice choice;
    switch (word.front()) {
      case 'a':
      case 't':
      case 'f': choice.kind = static_cast<Choice::Kind>(word.front()); break;
      default: return std::nullopt;
    }
    std::size_t used = 0;
    const bool hex = choice.kind == Choice::Kind::fault;
    const std::string digits = word.substr(1);
    if (digits.empty() || digits.size() > 10 ||
        digits.find_first_not_of(hex ? "0123456789abcdef" : "0123456789") != std::string::npos) {
      return std::nullopt;
    }
    choice.number = static_cast<std::uint32_t>(std::stoull(digits, &used, hex ? 16 : 10));
    choices.push_back(choice);
  }
  return choices;
}

}  // namespace faaskit::simulation
