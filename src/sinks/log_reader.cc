#include "sinks/log_reader.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include <absl/functional/function_ref.h>
#include <absl/strings/numbers.h>
#include <absl/strings/str_cat.h>
#include <absl/strings/str_format.h>

#include "faaskit/port/unique_fd.h"
#include "sinks/disk.h"
#include "sinks/log_text.h"
#include "support/errno_status.h"

namespace faaskit::sinks {
namespace {

constexpr std::size_t kMaxPageBytes = 16 << 20;
constexpr std::size_t kBlockBytes = 64 << 10;
// Ours are shorter; what somebody else put into the file may be longer, and is cut here.
constexpr std::size_t kMaxLineOnDisk = 256 << 10;

// Which file it is, whatever it is called by now. File systems give the number of a removed file to the next
// one at once, so the first line counts, too: it has the time, the request and the text.
struct FileId {
  std::uint64_t inode = 0;
  std::uint64_t first_line = 0;
  friend bool operator==(const FileId&, const FileId&) = default;
};

struct File {
  UniqueFd fd{};
  FileId id{};
  std::uint64_t size = 0;
};

struct Cursor {
  FileId file{};
  std::uint64_t offset = 0;
};

std::string to_text(const Cursor& cursor) {
  return absl::StrCat(cursor.file.inode, "-", cursor.file.first_line, "-", cursor.offset);
}

// FNV-1a. Not for secrets: it tells files apart that nobody made to collide.
std::uint64_t hash_first_line(int fd) {
  char bytes[256];
  const ssize_t got = ::pread(fd, bytes, sizeof bytes, 0);
  std::uint64_t hash = 0xcbf29ce484222325;
  for (ssize_t i = 0; i < got && bytes[i] != '\n'; ++i)
    hash = (hash ^ static_cast<unsigned char>(bytes[i])) * 0x100000001b3;
  return hash;
}

absl::StatusOr<Cursor> parse_cursor(const std::string& text) {
  Cursor cursor;
  const std::size_t first = text.find('-');
  const std::size_t second = first == std::string::npos ? first : text.find('-', first + 1);
  if (second == std::string::npos || text.size() > 62 ||
      text.find_first_not_of("0123456789-") != std::string::npos ||
      !absl::SimpleAtoi(text.substr(0, first), &cursor.file.inode) ||
      !absl::SimpleAtoi(text.substr(first + 1, second - first - 1), &cursor.file.first_line) ||
      !absl::SimpleAtoi(text.substr(second + 1), &cursor.offset))
    return absl::InvalidArgumentError("before: not a cursor of an earlier page");
  return cursor;
}

// Newest first. Opened in that order: a rotation in between shows a file twice, but hides none.
absl::StatusOr<std::vector<File>> open_all(int folder, const std::string& name, std::size_t max_files) {
  std::vector<File> files;
  for (std::size_t number = 0; number < max_files; ++number) {
    const std::string path = generation(name, number);
    File file;
    file.fd = UniqueFd(::openat(folder, path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC));
    if (!file.fd && errno == ENOENT) continue;
    if (!file.fd) return errno_status(errno, absl::StrCat("open log ", path));
    struct stat info{};
    if (::fstat(file.fd.get(), &info) != 0) return errno_status(errno, absl::StrCat("stat log ", path));
    if (!S_ISREG(info.st_mode)) continue;
    file.id = {info.st_ino, hash_first_line(file.fd.get())};
    file.size = static_cast<std::uint64_t>(info.st_size);
    if (std::any_of(files.begin(), files.end(),
                    [&](const File& other) { return other.id.inode == file.id.inode; }))
      continue;
    files.push_back(std::move(file));
  }
  return files;
}

// Calls `take` with each whole line before `end`, the last one first, and where it begins, until `take` is
// false. What follows the last newline is somebody's line at work: not taken.
absl::Status read_backwards(const File& file, std::uint64_t end,
                            absl::FunctionRef<bool(std::string_view line, std::uint64_t begin)> take) {
  std::string buffer;  // the file's bytes from `from` on, up to the last line not taken yet
  std::uint64_t from = end;
  bool whole = false;  // the buffer ends with a newline, which ends a line
  for (;;) {
    // All the lines whose beginning is in sight.
    for (;;) {
      if (!whole) {
        const std::size_t newline = buffer.rfind('\n');
        if (newline == std::string::npos) {
          buffer.clear();
          break;
        }
        buffer.resize(newline + 1);
        whole = true;
      }
      if (buffer.empty()) break;
      const std::size_t before =
          buffer.size() < 2 ? std::string::npos : buffer.rfind('\n', buffer.size() - 2);
      if (before == std::string::npos && from > 0 && buffer.size() < kMaxLineOnDisk) break;
      const std::size_t begin = before == std::string::npos ? 0 : before + 1;
      if (!take(std::string_view(buffer).substr(begin), from + begin)) return absl::OkStatus();
      buffer.resize(begin);
    }
    if (from == 0) return absl::OkStatus();
    const std::size_t count = static_cast<std::size_t>(std::min<std::uint64_t>(from, kBlockBytes));
    std::string block(count, '\0');
    std::size_t got = 0;
    while (got < count) {
      const ssize_t part =
          ::pread(file.fd.get(), block.data() + got, count - got, static_cast<off_t>(from - count + got));
      if (part < 0 && errno == EINTR) continue;
      if (part < 0) return errno_status(errno, "read log");
      // Shorter than it was: cut by somebody.
      if (part == 0) return absl::OkStatus();
      got += static_cast<std::size_t>(part);
    }
    buffer.insert(0, block);
    from -= count;
  }
}

bool is_of(std::string_view line, std::string_view request) {
  const std::size_t first = line.find(' ');
  const std::size_t second = first == std::string_view::npos ? first : line.find(' ', first + 1);
  if (second == std::string_view::npos) return false;
  return line.substr(second + 1, request.size()) == request &&
         line.substr(second + 1 + request.size(), 1) == " ";
}

}  // namespace

absl::StatusOr<LogPage> read_log(int folder, std::size_t max_files, const LogQuery& query) {
  if (absl::Status status = validate_function_name(query.function); !status.ok()) return status;
  if (query.max_bytes == 0 || query.max_bytes > kMaxPageBytes)
    return absl::InvalidArgumentError(
        absl::StrFormat("max_bytes: %d; 1 to %d are allowed", query.max_bytes, kMaxPageBytes));
  std::optional<Cursor> start;
  if (!query.before.empty()) {
    const absl::StatusOr<Cursor> cursor = parse_cursor(query.before);
    if (!cursor.ok()) return cursor.status();
    start = *cursor;
  }
  absl::StatusOr<std::vector<File>> files = open_all(folder, log_file_name(query.function), max_files);
  if (!files.ok()) return files.status();
  if (files->empty()) return absl::NotFoundError(absl::StrFormat("function '%s' has no log", query.function));

  auto file = files->begin();
  std::uint64_t end = file->size;
  if (start) {
    file = std::find_if(files->begin(), files->end(), [&](const File& one) { return one.id == start->file; });
    if (file == files->end()) return LogPage{};
    end = std::min(start->offset, file->size);
  }
  const std::string request = query.request ? to_string(*query.request) : std::string();
  LogPage page;
  std::vector<std::string> lines;  // newest first
  std::size_t bytes = 0;
  for (; file != files->end() && page.before.empty(); ++file) {
    if (absl::Status status = read_backwards(*file, end,
                                             [&](std::string_view line, std::uint64_t begin) {
                                               if (!request.empty() && !is_of(line, request)) return true;
                                               if (!lines.empty() && bytes + line.size() > query.max_bytes) {
                                                 page.before = to_text({file->id, begin + line.size()});
                                                 return false;
                                               }
                                               bytes += line.size();
                                               lines.emplace_back(line);
                                               return true;
                                             });
        !status.ok())
      return status;
    if (file + 1 != files->end()) end = (file + 1)->size;
  }
  page.text.reserve(bytes);
  for (auto line = lines.rbegin(); line != lines.rend(); ++line) page.text += *line;
  return page;
}

}  // namespace faaskit::sinks
