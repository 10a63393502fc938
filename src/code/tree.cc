#include "code/tree.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <vector>

#include <absl/strings/str_cat.h>

#include "code/files.h"
#include "code/sha256.h"
#include "support/errno_status.h"

namespace faaskit::code {
namespace {

constexpr std::size_t kMaxPartBytes = 255;      // NAME_MAX
constexpr std::uint64_t kRatioFloor = 1 << 20;  // below it nobody is bombed
constexpr std::uint64_t kTarTime = 315532800;   // 1980-01-01: the oldest that zip knows, too
constexpr std::size_t kBlock = 512;
constexpr std::size_t kChunk = 128 << 10;

absl::Status refused(std::string_view name, const char* why) {
  return absl::InvalidArgumentError(absl::StrCat(shown_name(name), ": ", why));
}

bool utf8(std::string_view s) {
  for (std::size_t i = 0; i < s.size();) {
    const auto byte = [&](std::size_t at) -> unsigned { return static_cast<unsigned char>(s[at]); };
    const unsigned first = byte(i);
    const std::size_t length = first < 0x80         ? 1
                               : (first >> 5) == 6  ? 2
                               : (first >> 4) == 14 ? 3
                               : (first >> 3) == 30 ? 4
                                                    : 0;
    if (length == 0 || i + length > s.size()) return false;
    std::uint32_t code = length == 1 ? first : first & (0xffu >> (length + 1));
    for (std::size_t k = 1; k < length; ++k) {
      if ((byte(i + k) & 0xc0) != 0x80) return false;
      code = code << 6 | (byte(i + k) & 0x3f);
    }
    constexpr std::array<std::uint32_t, 5> kLeast{0, 0, 0x80, 0x800, 0x10000};
    if (code < kLeast[length] || code > 0x10ffff || (code >= 0xd800 && code < 0xe000)) return false;
    i += length;
  }
  return true;
}

}  // namespace

std::string shown_name(std::string_view name) {
  constexpr std::size_t kLongest = 200;
  std::string text = "'";
  for (const char c : name.substr(0, kLongest)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x20 && byte < 0x7f && c != '\\') {
      text += c;
    } else {
      text += "\\x";
      text += "0123456789abcdef"[byte >> 4];
      text += "0123456789abcdef"[byte & 15];
    }
  }
  return text + (name.size() > kLongest ? "...'" : "'");
}

absl::StatusOr<std::string> plain_name(std::string_view name, const ArchiveLimits& limits) {
  if (name.empty()) return refused(name, "a name is empty");
  if (name.size() > limits.max_name_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(shown_name(name), ": a name of ", name.size(), " bytes, limit ", limits.max_name_bytes));
  }
  if (name.front() == '/') return refused(name, "names must be relative");
  if (std::any_of(name.begin(), name.end(), [](unsigned char c) { return c < 0x20 || c == 0x7f; }))
    return refused(name, "control characters in a name");
  if (!utf8(name)) return refused(name, "names must be UTF-8");

  std::string plain;
  std::uint32_t depth = 0;
  std::string_view rest = name;
  if (rest.back() == '/') rest.remove_suffix(1);  // a folder's
  while (true) {
    const std::size_t slash = rest.find('/');
    const std::string_view part = rest.substr(0, slash);
    if (part.empty()) return refused(name, "a part of the name is empty");
    if (part == "..") return refused(name, "'..' in a name");
    if (part.size() > kMaxPartBytes) return refused(name, "a part of the name has more than 255 bytes");
    if (part != ".") {
      if (++depth > limits.max_depth) {
        return absl::InvalidArgumentError(
            absl::StrCat(shown_name(name), ": more than ", limits.max_depth, " folders deep"));
      }
      absl::StrAppend(&plain, plain.empty() ? "" : "/", std::string(part));
    }
    if (slash == std::string_view::npos) return plain;
    rest.remove_prefix(slash + 1);
  }
}

absl::Status TreeWriter::count_entry() {
  if (++entries_ <= limits_.max_entries) return absl::OkStatus();
  return absl::OutOfRangeError(absl::StrCat("more than max_entries, ", limits_.max_entries));
}

absl::StatusOr<UniqueFd> TreeWriter::open_folder(const std::string& name) {
  UniqueFd at = open_beneath(top_, ".", O_PATH | O_DIRECTORY);
  if (!at) return errno_status(errno, "open the folder to unpack into");
  std::size_t begin = 0;
  while (begin < name.size()) {
    const std::size_t end = std::min(name.find('/', begin), name.size());
    const std::string part = name.substr(begin, end - begin);
    UniqueFd next = open_beneath(at.get(), part, O_PATH | O_DIRECTORY);
    if (!next && errno == ENOENT) {
      if (absl::Status status = count_entry(); !status.ok()) return status;
      if (::mkdirat(at.get(), part.c_str(), 0755) != 0)
        return errno_status(errno, absl::StrCat("make folder ", shown_name(name)));
      next = open_beneath(at.get(), part, O_PATH | O_DIRECTORY);
    }
    if (!next && errno == ENOTDIR) return refused(name, "is a file, and a folder");
    if (!next) return errno_status(errno, absl::StrCat("open folder ", shown_name(name)));
    at = std::move(next);
    begin = end + 1;
  }
  return at;
}

absl::Status TreeWriter::folder(const std::string& name) {
  file_.reset();
  const std::uint32_t before = entries_;
  absl::Status status = open_folder(name).status();
  // One that was there takes no room, but time: a small archive can name it a million times.
  if (status.ok() && entries_ == before && !name.empty()) status = count_entry();
  return status;
}

absl::Status TreeWriter::file(const std::string& name, bool executable) {
  file_.reset();
  file_name_ = name;
  file_bytes_ = 0;
  const std::size_t slash = name.rfind('/');
  const std::string parent = slash == std::string::npos ? "" : name.substr(0, slash);
  const std::string leaf = slash == std::string::npos ? name : name.substr(slash + 1);
  if (!last_folder_fd_ || parent != last_folder_) {
    absl::StatusOr<UniqueFd> opened = open_folder(parent);
    if (!opened.ok()) return opened.status();
    last_folder_fd_ = *std::move(opened);
    last_folder_ = parent;
  }
  if (absl::Status status = count_entry(); !status.ok()) return status;
  // O_EXCL: never over, nor through, what is there. The mode says who may execute it; settle() says the rest.
  file_ = open_beneath(last_folder_fd_.get(), leaf, O_WRONLY | O_CREAT | O_EXCL, executable ? 0700 : 0600);
  if (file_) return absl::OkStatus();
  if (errno == EEXIST) return refused(name, "comes twice");
  return errno_status(errno, absl::StrCat("make ", shown_name(name)));
}

absl::Status TreeWriter::write(const void* data, std::size_t size) {
  file_bytes_ += size;
  bytes_ += size;
  if (file_bytes_ > limits_.max_file_bytes) {
    return absl::OutOfRangeError(
        absl::StrCat(shown_name(file_name_), ": larger than max_file_bytes, ", limits_.max_file_bytes));
  }
  if (bytes_ > limits_.max_bytes) {
    return absl::OutOfRangeError(
        absl::StrCat(shown_name(file_name_), ": files together exceed max_bytes, ", limits_.max_bytes));
  }
  if (packed_bytes_ != 0 && bytes_ > kRatioFloor && bytes_ / limits_.max_ratio > packed_bytes_) {
    return absl::OutOfRangeError(absl::StrCat(shown_name(file_name_), ": ", packed_bytes_,
                                              " bytes unpack to more than max_ratio, ", limits_.max_ratio,
                                              ", times as many"));
  }
  absl::Status status = write_all(file_.get(), data, size);
  if (status.ok()) return status;
  return absl::Status(status.code(),
                      absl::StrCat(shown_name(file_name_), ": ", std::string(status.message())));
}

absl::Status settle(int top) {
  const timespec time{.tv_sec = kTarTime, .tv_nsec = 0};
  const std::array<timespec, 2> times{time, time};
  const auto one = [&](int parent, const std::string& leaf, const std::string& path, mode_t mode) {
    const bool well = ::fchownat(parent, leaf.c_str(), ::geteuid(), ::getegid(), AT_SYMLINK_NOFOLLOW) == 0 &&
                      ::fchmodat(parent, leaf.c_str(), mode, 0) == 0 &&
                      ::utimensat(parent, leaf.c_str(), times.data(), AT_SYMLINK_NOFOLLOW) == 0;
    return well ? absl::OkStatus() : errno_status(errno, absl::StrCat("settle ", path));
  };
  absl::Status status = walk(top, ~std::size_t{0}, [&](const FoundEntry& entry) {
    const bool folder = S_ISDIR(entry.info.st_mode);
    // Nothing else was made; chmod follows links, so be sure.
    if (!folder && !S_ISREG(entry.info.st_mode))
      return absl::InternalError(absl::StrCat("settle ", entry.path, ": neither file nor folder"));
    return one(entry.parent, entry.leaf, entry.path,
               folder || (entry.info.st_mode & S_IXUSR) != 0 ? 0755 : 0644);
  });
  if (!status.ok()) return status;
  return one(top, ".", ".", 0755);
}

absl::Status copy_folder(int source, const ArchiveLimits& limits, TreeWriter& out) {
  std::vector<char> chunk(kChunk);
  return walk(source, limits.max_depth, [&](const FoundEntry& entry) -> absl::Status {
    const absl::StatusOr<std::string> name = plain_name(entry.path, limits);
    if (!name.ok()) return name.status();
    if (S_ISDIR(entry.info.st_mode)) return out.folder(*name);
    if (S_ISLNK(entry.info.st_mode)) return refused(*name, "a symbolic link");
    if (!S_ISREG(entry.info.st_mode)) return refused(*name, "neither a file nor a folder");
    // Non-blocking: it may have become a fifo meanwhile.
    const UniqueFd in = open_beneath(entry.parent, entry.leaf, O_RDONLY | O_NONBLOCK);
    struct stat info = {};
    if (!in || ::fstat(in.get(), &info) != 0) return errno_status(errno, absl::StrCat("open ", *name));
    if (!S_ISREG(info.st_mode)) return refused(*name, "neither a file nor a folder");
    if (absl::Status status = out.file(*name, (info.st_mode & S_IXUSR) != 0); !status.ok()) return status;
    while (true) {
      const ssize_t n = ::read(in.get(), chunk.data(), chunk.size());
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) return errno_status(errno, absl::StrCat("read ", *name));
      if (n == 0) return absl::OkStatus();
      if (absl::Status status = out.write(chunk.data(), static_cast<std::size_t>(n)); !status.ok())
        return status;
    }
  });
}

// -- The canonical tar file: POSIX.1-1988 ustar; a name that does not fit its header has a pax one before.

namespace {

class TarWriter {
 public:
  explicit TarWriter(int out) : out_(out) { buffer_.reserve(kChunk + 4 * kBlock); }

  void header(const std::string& name, char type, std::uint64_t size, unsigned mode) {
    std::array<char, kBlock> block{};
    const auto octal = [&](std::size_t at, std::size_t digits, std::uint64_t value) {
      for (std::size_t i = digits; i-- > 0; value >>= 3) block[at + i] = static_cast<char>('0' + (value & 7));
    };
    std::memcpy(block.data(), name.data(), std::min<std::size_t>(name.size(), 100));
    octal(100, 7, mode);
    octal(108, 7, 0);
    octal(116, 7, 0);
    octal(124, 11, size);
    octal(136, 11, kTarTime);
    block[156] = type;
    std::memcpy(&block[257], "ustar\00000", 8);
    std::fill_n(&block[148], 8, ' ');
    std::uint64_t sum = 0;
    for (const char c : block) sum += static_cast<unsigned char>(c);
    octal(148, 6, sum);
    block[154] = '\0';
    data(block.data(), block.size());
  }
  void entry(const std::string& name, char type, std::uint64_t size, unsigned mode) {
    if (name.size() > 100) {
      // "<length> path=<name>\n", where the length counts its own digits.
      const std::size_t base = name.size() + std::strlen(" path=\n");
      std::size_t length = base + 1;
      while (length != base + std::to_string(length).size()) length = base + std::to_string(length).size();
      const std::string record = absl::StrCat(length, " path=", name, "\n");
      header("pax", 'x', record.size(), 0644);
      data(record.data(), record.size());
      pad();
    }
    header(name, type, size, mode);
  }
  void data(const void* bytes, std::size_t size) {
    const char* at = static_cast<const char*>(bytes);
    buffer_.insert(buffer_.end(), at, at + size);
    written_ += size;
    if (buffer_.size() >= kChunk) flush();
  }
  void pad() {
    static constexpr std::array<char, kBlock> kZeros{};
    if (written_ % kBlock != 0) data(kZeros.data(), kBlock - written_ % kBlock);
  }
  absl::StatusOr<std::string> finish() {
    constexpr std::array<char, 2 * kBlock> kEnd{};
    data(kEnd.data(), kEnd.size());
    flush();
    if (!status_.ok()) return status_;
    std::string digest = hash_.finish();
    if (digest.empty()) return absl::InternalError("pack: OpenSSL has no SHA-256");
    return digest;
  }
  const absl::Status& status() const { return status_; }

 private:
  void flush() {
    hash_.update(buffer_.data(), buffer_.size());
    if (status_.ok()) status_ = write_all(out_, buffer_.data(), buffer_.size());
    buffer_.clear();
  }

  int out_;
  std::vector<char> buffer_;
  std::uint64_t written_ = 0;
  Sha256 hash_;
  absl::Status status_;
};

}  // namespace

absl::StatusOr<std::string> pack(int top, int out) {
  TarWriter tar(out);
  std::vector<char> chunk(kChunk);
  absl::Status status = walk(top, ~std::size_t{0}, [&](const FoundEntry& entry) -> absl::Status {
    if (S_ISDIR(entry.info.st_mode)) {
      tar.entry(entry.path + "/", '5', 0, 0755);
      return tar.status();
    }
    const UniqueFd in = open_beneath(entry.parent, entry.leaf, O_RDONLY);
    if (!in) return errno_status(errno, absl::StrCat("pack ", entry.path));
    std::uint64_t left = static_cast<std::uint64_t>(entry.info.st_size);
    tar.entry(entry.path, '0', left, (entry.info.st_mode & S_IXUSR) != 0 ? 0755 : 0644);
    while (left > 0) {
      const ssize_t n = ::read(in.get(), chunk.data(), std::min<std::uint64_t>(chunk.size(), left));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return errno_status(n < 0 ? errno : EIO, absl::StrCat("pack ", entry.path));
      tar.data(chunk.data(), static_cast<std::size_t>(n));
      if (!tar.status().ok()) return tar.status();
      left -= static_cast<std::uint64_t>(n);
    }
    tar.pad();
    return tar.status();
  });
  if (!status.ok()) return status;
  return tar.finish();
}

}  // namespace faaskit::code
