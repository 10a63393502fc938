// What happens in a simulation by choice, and can be left out of it: a call that arrives, trouble that
// comes, a fault. Leaving out what does not matter is how a long story becomes a short one.
#pragma once

#include <compare>
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace faaskit::simulation {

// Written "a17" (the 17th arrival), "t3" (the 3rd trouble), "f09ab3c" (a fault, by its name's hash).
struct Choice {
  enum class Kind : char { arrival = 'a', trouble = 't', fault = 'f' };
  Kind kind = Kind::arrival;
  std::uint32_t number = 0;
  friend auto operator<=>(const Choice&, const Choice&) = default;
};
std::string to_string(const Choice& choice);
// Separated by commas; nullopt: not a list of choices.
std::optional<std::vector<Choice>> parse_choices(std::string_view text);
std::string join(const std::vector<Choice>& choices);

// Which of them happen.
class Selection {
 public:
  Selection() = default;  // all
  static Selection only(const std::vector<Choice>& named) { return {Rule::only, named}; }
  static Selection without(const std::vector<Choice>& named) { return {Rule::without, named}; }
  bool allows(const Choice& choice) const {
    return rule_ == Rule::all || named_.contains(choice) == (rule_ == Rule::only);
  }

 private:
  enum class Rule { all, only, without };
  Selection(Rule rule, const std::vector<Choice>& named) : rule_(rule), named_(named.begin(), named.end()) {}
  Rule rule_ = Rule::all;
  std::set<Choice> named_;
};

}  // namespace faaskit::simulation
