// What a function's log looks like; see the public header.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>

#include "faaskit/port/log_sink.h"

namespace faaskit::sinks {

inline constexpr std::size_t kMaxLineBytes = 8 << 10;  // of what the function wrote

std::string log_file_name(std::string_view function);
std::string log_lines(const LogRecord& record, std::chrono::system_clock::time_point arrived);
std::string loss_line(std::uint64_t bytes, std::chrono::system_clock::time_point now);

}  // namespace faaskit::sinks
