#include "json.h"

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

namespace mini {
namespace {

// Length of the UTF-8 sequence at the front of `text`; 0: it is none. Output of functions may be anything.
std::size_t sequence(std::string_view text) {
  const auto byte = [&](std::size_t i) { return static_cast<unsigned char>(text[i]); };
  const unsigned char first = byte(0);
  const std::size_t length = first < 0x80                    ? 1
                             : first >= 0xc2 && first < 0xe0 ? 2
                             : first >= 0xe0 && first < 0xf0 ? 3
                             : first >= 0xf0 && first < 0xf5 ? 4
                                                             : 0;
  if (length == 0 || length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte(i) & 0xc0) != 0x80) return 0;
  }
  if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) ||
      (first == 0xf0 && byte(1) < 0x90) || (first == 0xf4 && byte(1) > 0x8f)) {
    return 0;
  }
  return length;
}

class Reader {
 public:
  explicit Reader(std::string_view text) : rest_(text) {}

  absl::StatusOr<std::map<std::string, std::string>> object() {
    std::map<std::string, std::string> fields;
    if (!take('{')) return bad("an object");
    if (!take('}')) {
      do {
        std::string name, value;
        skip();
        if (!string(name)) return bad("a name in quotes");
        if (!take(':')) return bad("':'");
        skip();
        if (!string(value)) return bad("a text in quotes");
        if (!fields.emplace(name, std::move(value)).second) {
          return absl::InvalidArgumentError(absl::StrCat("the body: '", name, "' comes twice"));
        }
      } while (take(','));
      if (!take('}')) return bad("'}'");
    }
    skip();
    if (!rest_.empty()) return bad("nothing more");
    return fields;
  }

 private:
  absl::Status bad(const char* wanted) const {
    return absl::InvalidArgumentError(absl::StrFormat(
        "the body must be a JSON object of texts: expected %s, found '%s'", wanted, rest_.substr(0, 20)));
  }
  void skip() { rest_.remove_prefix(std::min(rest_.size(), rest_.find_first_not_of(" \t\r\n"))); }
  bool take(char c) {
    skip();
    if (!rest_.starts_with(c)) return false;
    rest_.remove_prefix(1);
    return true;
  }
  // Escapes of characters beyond ASCII are not for paths and names: refused.
  bool string(std::string& out) {
    if (!rest_.starts_with('"')) return false;
    for (std::size_t i = 1; i < rest_.size(); ++i) {
      char c = rest_[i];
      if (c == '"') {
        rest_.remove_prefix(i + 1);
        return true;
      }
      if (static_cast<unsigned char>(c) < 0x20) return false;
      if (c == '\\') {
        if (++i == rest_.size()) return false;
        c = rest_[i];
        if (c != '"' && c != '\\' && c != '/') return false;
      }
      out += c;
    }
    return false;
  }

  std::string_view rest_;
};

}  // namespace

std::string json_text(std::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const std::size_t length = sequence(text);
    const char c = text[0];
    if (length == 0) {
      out += "\xef\xbf\xbd";  // U+FFFD
      text.remove_prefix(1);
      continue;
    }
    if (length > 1) {
      out += text.substr(0, length);
    } else if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (c == '\n') {
      out += "\\n";
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      out += absl::StrFormat("\\u%04x", static_cast<unsigned char>(c));
    } else {
      out += c;
    }
    text.remove_prefix(length);
  }
  out += '"';
  return out;
}

Json& Json::open(char opening, char closing) {
  comma();
  text_ += opening;
  closings_ += closing;
  first_ = true;
  return *this;
}

Json& Json::end() {
  text_ += closings_.back();
  closings_.pop_back();
  first_ = false;
  return *this;
}

Json& Json::key(std::string_view name) {
  comma();
  text_ += json_text(name);
  text_ += ':';
  first_ = true;
  return *this;
}

Json& Json::raw(std::string_view json) {
  comma();
  text_ += json;
  return *this;
}

void Json::comma() {
  if (!first_) text_ += ',';
  first_ = false;
}

absl::StatusOr<std::map<std::string, std::string>> parse_texts(std::string_view json) {
  return Reader(json).object();
}

}  // namespace mini
