// Private: JSON, parsed strictly and with bounds.
#pragma once

#include <cstddef>
#include <string_view>

#include <absl/status/statusor.h>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <boost/json/value.hpp>

namespace faaskit::json {

namespace json = boost::json;

// One JSON value and nothing after it; at most 32 levels deep; a name that comes twice in an object is
// refused (readers disagree on which one counts). kInvalidArgument says where and what; `what` names the
// document.
absl::StatusOr<boost::json::value> parse(std::string_view what, std::string_view text,
                                         std::size_t max_bytes = 1 << 20);

}  // namespace faaskit::json
