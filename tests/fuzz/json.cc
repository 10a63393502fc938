// JSON of strangers: what is taken is bounded, and means the same when it is written and read again. The
// little reader and writer of the mini-platform stand in the same test.
#include "json/json.h"

#include <cmath>
#include <limits>

#include <absl/status/status.h>

#include "examples/mini_platform/json.h"
#include "input.h"

namespace {

int depth_of(const boost::json::value& value) {
  int deepest = 0;
  if (const auto* object = value.if_object()) {
    for (const auto& [name, inner] : *object) deepest = std::max(deepest, depth_of(inner));
    return deepest + 1;
  }
  if (const auto* array = value.if_array()) {
    for (const auto& inner : *array) deepest = std::max(deepest, depth_of(inner));
    return deepest + 1;
  }
  return 0;
}

// Boost reads a double to within a few units in its last place: the same text need not come back.
bool same(const boost::json::value& a, const boost::json::value& b) {
  if (const auto* left = a.if_object()) {
    const auto* right = b.if_object();
    return right != nullptr && left->size() == right->size() &&
           std::all_of(left->begin(), left->end(), [&](const auto& pair) {
             const auto* other = right->if_contains(pair.key());
             return other != nullptr && same(pair.value(), *other);
           });
  }
  if (const auto* left = a.if_array()) {
    const auto* right = b.if_array();
    return right != nullptr && std::equal(left->begin(), left->end(), right->begin(), right->end(), same);
  }
  if (!a.is_double()) return a == b;
  const double scale = std::max(std::abs(a.as_double()), std::numeric_limits<double>::min());
  return b.is_double() && std::abs(a.as_double() - b.as_double()) <= scale * 1e-14;
}

void check_parse(std::string_view text) {
  const auto value = faaskit::json::parse("it", text);
  if (!value.ok()) {
    FUZZ_CHECK(absl::IsInvalidArgument(value.status()));
    FUZZ_CHECK(std::string(value.status().message()).starts_with("it: "));
    return;
  }
  FUZZ_CHECK(depth_of(*value) <= 32);
  const std::string printed = boost::json::serialize(*value);
  const auto again = faaskit::json::parse("it", printed);
  // A number beyond all doubles is read as infinity, which has no text in JSON.
  if (!again.ok() && printed.find("Infinity") != std::string::npos) return;
  FUZZ_CHECK(again.ok());
  FUZZ_CHECK(same(*value, *again));
}

void check_texts(std::string_view text) {
  const auto fields = mini::parse_texts(text);
  if (!fields.ok()) {
    FUZZ_CHECK(absl::IsInvalidArgument(fields.status()));
    return;
  }
  mini::Json json;
  json.object();
  for (const auto& [name, value] : *fields) json.field(name, value);
  json.end();
  // Anybody can read it, whatever bytes were in it.
  const auto read = faaskit::json::parse("it", json.text());
  // Names that differ in bytes that are no UTF-8 are one name now.
  if (!read.ok()) FUZZ_CHECK(read.status().message().find("comes twice") != std::string_view::npos);
  if (read.ok()) FUZZ_CHECK(read->as_object().size() == fields->size());
}

void check_text(std::string_view text) {
  const std::string quoted = mini::json_text(text);
  const auto read = faaskit::json::parse("it", quoted);
  FUZZ_CHECK(read.ok() && read->is_string());
  for (const char c : quoted) FUZZ_CHECK(static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
  const std::string back(read->as_string().data(), read->as_string().size());
  // Once it is UTF-8 it stays as it is.
  FUZZ_CHECK(mini::json_text(back) == quoted);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  check_parse(text);
  check_texts(text);
  check_text(text);
  return 0;
}
