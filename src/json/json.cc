#include "json/json.h"

#include <string>
#include <vector>

#include <absl/status/status.h>
#include <absl/strings/str_cat.h>
#include <boost/json/basic_parser_impl.hpp>
#include <boost/json/src.hpp>

namespace faaskit::json {
namespace {

constexpr std::size_t kMaxDepth = 32;

// boost::json::parse keeps the last of equal names without a word; this keeps none.
class Handler {
 public:
  static constexpr std::size_t max_object_size = std::size_t(-1);
  static constexpr std::size_t max_array_size = std::size_t(-1);
  static constexpr std::size_t max_key_size = std::size_t(-1);
  static constexpr std::size_t max_string_size = std::size_t(-1);
  using error_code = boost::json::error_code;
  using string_view = boost::json::string_view;

  std::string twice;

  bool on_document_begin(error_code&) { return true; }
  bool on_document_end(error_code&) { return true; }
  bool on_object_begin(error_code&) {
    names_.emplace_back();
    return true;
  }
  bool on_object_end(std::size_t, error_code&) {
    names_.pop_back();
    return true;
  }
  bool on_array_begin(error_code&) { return true; }
  bool on_array_end(std::size_t, error_code&) { return true; }
  bool on_key_part(string_view part, std::size_t, error_code&) {
    key_.append(part.data(), part.size());
    return true;
  }
  bool on_key(string_view part, std::size_t, error_code& error) {
    key_.append(part.data(), part.size());
    if (names_.back().contains(key_)) {
      twice = key_;
      error = boost::json::error::syntax;
      return false;
    }
    names_.back().emplace(key_, nullptr);
    key_.clear();
    return true;
  }
  bool on_string_part(string_view, std::size_t, error_code&) { return true; }
  bool on_string(string_view, std::size_t, error_code&) { return true; }
  bool on_number_part(string_view, error_code&) { return true; }
  bool on_int64(std::int64_t, string_view, error_code&) { return true; }
  bool on_uint64(std::uint64_t, string_view, error_code&) { return true; }
  bool on_double(double, string_view, error_code&) { return true; }
  bool on_bool(bool, error_code&) { return true; }
  bool on_null(error_code&) { return true; }
  bool on_comment_part(string_view, error_code&) { return true; }
  bool on_comment(string_view, error_code&) { return true; }

 private:
  std::vector<boost::json::object> names_;
  std::string key_;
};

}  // namespace

absl::StatusOr<boost::json::value> parse(std::string_view what, std::string_view text,
                                         std::size_t max_bytes) {
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(what), ": ", text.size(), " bytes of JSON, limit ", max_bytes));
  }
  boost::json::parse_options options;
  options.max_depth = kMaxDepth;

  boost::json::error_code error;
  boost::json::basic_parser<Handler> checker(options);
  const std::size_t read = checker.write_some(false, text.data(), text.size(), error);
  if (!checker.handler().twice.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(what), ": '", checker.handler().twice, "' comes twice in one object"));
  }
  if (!error && read < text.size()) error = boost::json::error::extra_data;
  if (error) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(what), ": not JSON at byte ", read, ": ", error.message()));
  }
  boost::json::value value =
      boost::json::parse(boost::json::string_view(text.data(), text.size()), error, {}, options);
  if (error)
    return absl::InvalidArgumentError(absl::StrCat(std::string(what), ": not JSON: ", error.message()));
  return value;
}

}  // namespace faaskit::json
