#include "cgroup/files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>

#include "support/errno_status.h"

namespace faaskit::cgroup {

std::optional<std::string> read_text(int dir, const std::string& path) {
  UniqueFd file(::openat(dir, path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!file) return std::nullopt;
  std::string text;
  char part[4096];
  for (;;) {
    const ssize_t got = ::read(file.get(), part, sizeof part);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return std::nullopt;
    if (got == 0) return text;
    text.append(part, static_cast<std::size_t>(got));
  }
}

int write_text(int dir, const std::string& path, std::string_view text) {
  UniqueFd file(::openat(dir, path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file) return errno;
  for (;;) {
    if (::write(file.get(), text.data(), text.size()) >= 0) return 0;
    if (errno != EINTR) return errno;
  }
}

absl::Status write_file(int dir, const std::string& path, std::string_view text, const std::string& what) {
  const int error = write_text(dir, path, text);
  if (error == 0) return absl::OkStatus();
  return errno_status(error, "write '" + std::string(text) + "' to " + what + "/" + path);
}

std::optional<std::uint64_t> parse_number(std::string_view text) {
  std::uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return value;
}

std::optional<std::uint64_t> find_value(std::string_view text, std::string_view key) {
  for (const std::string& line : split(text, '\n')) {
    if (line.size() > key.size() + 1 && line.compare(0, key.size(), key) == 0 && line[key.size()] == ' ')
      return parse_number(std::string_view(line).substr(key.size() + 1));
  }
  return std::nullopt;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const std::size_t at = text.find(separator);
    const std::string_view part = text.substr(0, at);
    if (!part.empty()) parts.emplace_back(part);
    if (at == std::string_view::npos) break;
    text.remove_prefix(at + 1);
  }
  return parts;
}

std::string unescape(std::string_view text) {
  std::string out;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == '\\' && i + 3 < text.size()) {
      out.push_back(
          static_cast<char>((text[i + 1] - '0') * 64 + (text[i + 2] - '0') * 8 + (text[i + 3] - '0')));
      i += 3;
    } else {
      out.push_back(text[i]);
    }
  }
  return out;
}

}  // namespace faaskit::cgroup
