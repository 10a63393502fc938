// If these failed: what a function printed could pass for what we say, or reach an operator's terminal.
#include "sinks/text.h"

#include <random>

#include "catch.hpp"
#include "json/json.h"

namespace faaskit::sinks {
namespace {

std::string escaped(std::string_view bytes) {
  std::string out;
  append_escaped(out, bytes);
  return out;
}

TEST_CASE("text stays as it is; control characters and garbage are escaped, and come back", "[sinks]") {
  CHECK(escaped("plain text\twith a tab, \xc3\xbc and \xf0\x9f\x99\x82") ==
        "plain text\twith a tab, \xc3\xbc and \xf0\x9f\x99\x82");
  CHECK(escaped("\x1b[2J\r\n") == "\\x1b[2J\\x0d\\x0a");
  CHECK(escaped(std::string("\0\x7f", 2)) == "\\x00\\x7f");
  CHECK(escaped("\xc2\x9b") == "\\xc2\\x9b");  // CSI, as one character
  CHECK(escaped("\\x41") == "\\x5cx41");
  CHECK(escaped("\xff\xc3") == "\\xff\\xc3");
  CHECK(escaped("\xc0\xaf\xed\xa0\x80\xf4\x90\x80\x80") ==
        "\\xc0\\xaf\\xed\\xa0\\x80\\xf4\\x90\\x80\\x80");  // too long, half a pair, beyond Unicode
  std::mt19937 random(7);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(random() % 40, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    const std::string text = escaped(bytes);
    REQUIRE(unescaped(text) == bytes);
    REQUIRE(text.find_first_of(std::string("\0\n\r\x1b", 4)) == std::string::npos);
  }
}

TEST_CASE("any bytes make a JSON string", "[sinks]") {
  std::mt19937 random(8);
  for (int i = 0; i < 2000; ++i) {
    std::string bytes(random() % 40, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    std::string text;
    append_json_string(text, bytes);
    REQUIRE(json::parse("string", text).ok());
  }
  std::string text;
  append_json_string(text, "a\"b\\c\nd\xff");
  CHECK(text == "\"a\\\"b\\\\c\\nd\xef\xbf\xbd\"");
}

}  // namespace
}  // namespace faaskit::sinks
