// What may stand in the metadata of a call and of a reply. Standard library only: hosts and workers alike
// use it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <string_view>

namespace faaskit::wire {

// Of one call, and of one reply; bytes are those of names and values.
inline constexpr std::size_t kMaxMetadataBytes = 32 << 10;
inline constexpr std::size_t kMaxMetadataPairs = 256;

// A lower-case token of HTTP, or ':' and then one. Names of a function become header lines as they are.
inline constexpr bool is_metadata_name(std::string_view name) {
  if (name.starts_with(':')) name.remove_prefix(1);
  return !name.empty() && std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') ||
           (c != '\0' && std::string_view("!#$%&'*+-.^_`|~").find(c) != std::string_view::npos);
  });
}

// A line break in a value would begin a header line of the function's own.
inline constexpr bool is_metadata_value(std::string_view value) {
  return value.find_first_of(std::string_view("\r\n\0", 3)) == std::string_view::npos;
}

}  // namespace faaskit::wire
