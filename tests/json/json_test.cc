#include "json/json.h"

#include <string>

#include "catch.hpp"

using faaskit::json::parse;

TEST_CASE("one value, whole") {
  auto value = parse("function.json", R"({"a": [1, 2.5, "x"], "b": {"a": null}})");
  REQUIRE(value.ok());
  CHECK(value->as_object().at("a").as_array().size() == 3);
}

TEST_CASE("what is refused, and by what name") {
  const auto message = [](std::string_view text) {
    auto value = parse("function.json", text, 100);
    REQUIRE_FALSE(value.ok());
    return std::string(value.status().message());
  };
  CHECK(message(R"({"a": 1, "a": 2})") == "function.json: 'a' comes twice in one object");
  CHECK(message(R"({"x": {"a": 1, "a": 2}})") == "function.json: 'a' comes twice in one object");
  CHECK(message("{} {}").find("function.json: not JSON at byte") == 0);
  CHECK(message("{\"a\": ").find("function.json: not JSON") == 0);
  CHECK(message("").find("function.json: not JSON") == 0);
  CHECK(message(std::string(40, '[') + std::string(40, ']')).find("not JSON") != std::string::npos);
  CHECK(message(std::string(200, ' ')) == "function.json: 200 bytes of JSON, limit 100");
}
