// The little JSON that an API speaks: a writer, and a reader of one flat object of texts.
#pragma once

#include <concepts>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include <absl/status/statusor.h>

namespace mini {

std::string json_text(std::string_view text);

// Writes objects and arrays; the commas are its business.
//   Json json; json.object(); json.field("name", "x"); json.end(); json.text()
class Json {
 public:
  Json& object() { return open('{', '}'); }
  Json& array() { return open('[', ']'); }
  Json& object(std::string_view name) { return key(name).open('{', '}'); }
  Json& array(std::string_view name) { return key(name).open('[', ']'); }
  Json& end();
  Json& key(std::string_view name);
  Json& value(std::string_view text) { return raw(json_text(text)); }
  Json& value(const char* text) { return raw(json_text(text)); }
  Json& value(const std::string& text) { return raw(json_text(text)); }
  Json& value(bool truth) { return raw(truth ? "true" : "false"); }
  Json& value(std::integral auto number) { return raw(std::to_string(number)); }
  // Already JSON.
  Json& raw(std::string_view json);
  Json& field(std::string_view name, const auto& what) { return key(name).value(what); }
  const std::string& text() const { return text_; }

 private:
  Json& open(char opening, char closing);
  void comma();

  std::string text_;
  std::string closings_;
  bool first_ = true;
};

// {"path": "x", "kind": "copied"}: names and texts, nothing else. kInvalidArgument says what is wrong.
absl::StatusOr<std::map<std::string, std::string>> parse_texts(std::string_view json);

}  // namespace mini
