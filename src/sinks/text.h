// Bytes of strangers as text of ours.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace faaskit::sinks {

// Length of the UTF-8 sequence that `text` begins with; 0: it does not begin with a valid one.
std::size_t utf8_length(std::string_view text);

// Control characters but the tab, what is not UTF-8, and the backslash as \xNN. C1 controls too: a terminal
// obeys them.
void append_escaped(std::string& out, std::string_view bytes);
// The inverse; for tests and tools.
std::string unescaped(std::string_view text);

// A JSON string with its quotes; what is not UTF-8 becomes U+FFFD.
void append_json_string(std::string& out, std::string_view bytes);

}  // namespace faaskit::sinks
