#include "sinks/text.h"

#include <cstdint>

namespace faaskit::sinks {
namespace {

constexpr char kDigits[] = "0123456789abcdef";

unsigned char byte_at(std::string_view text, std::size_t i) { return static_cast<unsigned char>(text[i]); }

int digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

}  // namespace

std::size_t utf8_length(std::string_view text) {
  if (text.empty()) return 0;
  const unsigned char first = byte_at(text, 0);
  if (first < 0x80) return 1;
  const std::size_t length = first >= 0xf0 ? 4 : first >= 0xe0 ? 3 : 2;
  if (first < 0xc2 || first > 0xf4 || text.size() < length) return 0;
  std::uint32_t code = first & (0x7fu >> length);
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte_at(text, i) & 0xc0) != 0x80) return 0;
    code = (code << 6) | (byte_at(text, i) & 0x3fu);
  }
  // Longer than needed, half of a pair, or beyond Unicode.
  if ((length == 3 && code < 0x800) || (length == 4 && code < 0x10000) || (code >= 0xd800 && code < 0xe000) ||
      code > 0x10ffff)
    return 0;
  return length;
}

void append_escaped(std::string& out, std::string_view bytes) {
  for (std::size_t i = 0; i < bytes.size();) {
    const unsigned char first = byte_at(bytes, i);
    const std::size_t length = utf8_length(bytes.substr(i, 4));
    const bool control = (first < 0x20 && first != '\t') || first == 0x7f ||
                         (length == 2 && first == 0xc2 && byte_at(bytes, i + 1) < 0xa0);
    if (length == 0 || control || first == '\\') {
      for (std::size_t end = i + (length == 0 ? 1 : length); i < end; ++i) {
        out += "\\x";
        out.push_back(kDigits[byte_at(bytes, i) >> 4]);
        out.push_back(kDigits[byte_at(bytes, i) & 15]);
      }
      continue;
    }
    out.append(bytes.substr(i, length));
    i += length;
  }
}

std::string unescaped(std::string_view text) {
  std::string bytes;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size() && text[i + 1] == 'x' && digit(text[i + 2]) >= 0 &&
        digit(text[i + 3]) >= 0) {
      bytes.push_back(static_cast<char>(digit(text[i + 2]) * 16 + digit(text[i + 3])));
      i += 3;
    } else {
      bytes.push_back(text[i]);
    }
  }
  return bytes;
}

void append_json_string(std::string& out, std::string_view bytes) {
  out.push_back('"');
  for (std::size_t i = 0; i < bytes.size();) {
    const unsigned char first = byte_at(bytes, i);
    const std::size_t length = utf8_length(bytes.substr(i, 4));
    if (length == 0) {
      out += "\xef\xbf\xbd";
      ++i;
      continue;
    }
    if (first == '"' || first == '\\') {
      out.push_back('\\');
      out.push_back(bytes[i]);
    } else if (first == '\n') {
      out += "\\n";
    } else if (first < 0x20 || first == 0x7f) {
      out += "\\u00";
      out.push_back(kDigits[first >> 4]);
      out.push_back(kDigits[first & 15]);
    } else {
      out.append(bytes.substr(i, length));
    }
    i += length;
  }
  out.push_back('"');
}

}  // namespace faaskit::sinks
