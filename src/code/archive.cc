#include "code/archive.h"

#include <archive.h>
#include <archive_entry.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <vector>

#include <absl/strings/str_cat.h>

#include "support/errno_status.h"

namespace faaskit::code {
namespace {

constexpr std::size_t kChunk = 64 << 10;
constexpr std::int64_t kBlock = 512;

// What libarchive reads from. It also bounds what may come out of the decompressor before an entry is seen:
// headers and skipped data have no limit of their own.
struct Source {
  int fd = -1;
  std::int64_t max_stream_bytes = 0;
  Sha256* hash = nullptr;
  std::vector<char> chunk = std::vector<char>(kChunk);
  absl::Status error{};  // why read() failed, if it did

  ssize_t next(const void** data) {
    ssize_t n;
    do {
      n = ::read(fd, chunk.data(), chunk.size());
    } while (n < 0 && errno == EINTR);
    if (n < 0) error = errno_status(errno, "read the archive");
    if (n > 0 && hash != nullptr) hash->update(chunk.data(), static_cast<std::size_t>(n));
    *data = chunk.data();
    return n;
  }
};

la_ssize_t read_chunk(archive* reader, void* client, const void** data) {
  auto& source = *static_cast<Source*>(client);
  if (archive_filter_bytes(reader, 0) > source.max_stream_bytes) {
    source.error = absl::OutOfRangeError(absl::StrCat("the archive unpacks to more than ",
                                                      source.max_stream_bytes, " bytes, headers included"));
    archive_set_error(reader, EFBIG, "too long");
    return ARCHIVE_FATAL;
  }
  const ssize_t n = source.next(data);
  if (n < 0) archive_set_error(reader, EIO, "cannot be read");
  return n < 0 ? ARCHIVE_FATAL : n;
}

absl::Status broken(archive* reader, const Source& source, const std::string& where) {
  if (!source.error.ok()) return source.error;
  const char* why = archive_error_string(reader);
  return absl::InvalidArgumentError(
      absl::StrCat(where, why != nullptr ? why : "not a tar file that can be read"));
}

const char* type_word(archive_entry* entry) {
  if (archive_entry_hardlink(entry) != nullptr || archive_entry_hardlink_utf8(entry) != nullptr)
    return "a hard link";
  switch (archive_entry_filetype(entry)) {
    case AE_IFREG: return archive_entry_sparse_count(entry) > 0 ? "a sparse file" : nullptr;
    case AE_IFDIR: return nullptr;
    case AE_IFLNK: return "a symbolic link";
    case AE_IFCHR:
    case AE_IFBLK: return "a device";
    case AE_IFIFO: return "a fifo";
    case AE_IFSOCK: return "a socket";
    default: return "of an unknown type";
  }
}

absl::Status read_file(archive* reader, const Source& source, const std::string& name, std::int64_t size_said,
                       TreeWriter& out) {
  std::int64_t expected = 0;
  while (true) {
    const void* data = nullptr;
    std::size_t size = 0;
    la_int64_t offset = 0;
    const int result = archive_read_data_block(reader, &data, &size, &offset);
    // Holes are as good as data to a bomb; type_word() has refused those it knows of.
    if (result == ARCHIVE_EOF && expected == size_said) return absl::OkStatus();
    if (result != ARCHIVE_OK && result != ARCHIVE_EOF)
      return broken(reader, source, absl::StrCat(shown_name(name), ": "));
    if (result == ARCHIVE_EOF || offset != expected)
      return absl::InvalidArgumentError(absl::StrCat(shown_name(name), ": a sparse file"));
    if (absl::Status status = out.write(data, size); !status.ok()) return status;
    expected += static_cast<std::int64_t>(size);
  }
}

absl::Status read_entries(archive* reader, const Source& source, const ArchiveLimits& limits,
                          TreeWriter& out) {
  while (true) {
    archive_entry* entry = nullptr;
    const int result = archive_read_next_header(reader, &entry);
    if (result == ARCHIVE_EOF) break;
    // A warning is about what we do not use, or about a name that this locale cannot show: it is then as it
    // was in the archive.
    if (result != ARCHIVE_OK && result != ARCHIVE_WARN) return broken(reader, source, "");
    // gzip in gzip in gzip: each level multiplies, none is needed.
    if (archive_filter_count(reader) > 2)
      return absl::InvalidArgumentError("the archive is compressed more than once");

    const char* raw = archive_entry_pathname(entry);
    if (raw == nullptr) raw = archive_entry_pathname_utf8(entry);
    if (raw == nullptr) return absl::InvalidArgumentError("an entry has no name that can be read");
    const absl::StatusOr<std::string> name = plain_name(raw, limits);
    if (!name.ok()) return name.status();
    if (const char* type = type_word(entry))
      return absl::InvalidArgumentError(
          absl::StrCat(shown_name(*name), ": ", type, "; only files and folders are taken"));

    if (archive_entry_filetype(entry) == AE_IFDIR) {
      if (absl::Status status = out.folder(*name); !status.ok()) return status;
      continue;
    }
    if (name->empty())
      return absl::InvalidArgumentError(absl::StrCat(shown_name(raw), ": a file without a name"));
    const bool executable = (archive_entry_perm(entry) & 0111) != 0;
    if (absl::Status status = out.file(*name, executable); !status.ok()) return status;
    if (absl::Status status = read_file(reader, source, *name, archive_entry_size(entry), out); !status.ok())
      return status;
  }
  // The end is marked by two blocks of zeros; the library is content with none.
  if (archive_filter_bytes(reader, 0) - archive_read_header_position(reader) < kBlock)
    return absl::InvalidArgumentError("the archive has no end: it was cut short");
  return absl::OkStatus();
}

}  // namespace

absl::Status unpack(int archive_fd, const ArchiveLimits& limits, TreeWriter& out, Sha256* hash) {
  Source source;
  source.fd = archive_fd;
  source.hash = hash;
  source.max_stream_bytes =
      static_cast<std::int64_t>(limits.max_bytes + std::uint64_t{limits.max_entries} * 4096 + (1 << 20));

  const std::unique_ptr<archive, int (*)(archive*)> reader(archive_read_new(), archive_read_free);
  if (reader == nullptr) return absl::ResourceExhaustedError("unpack: out of memory");
  absl::Status status;
  if (archive_read_support_filter_gzip(reader.get()) != ARCHIVE_OK ||
      archive_read_support_format_tar(reader.get()) != ARCHIVE_OK ||
      archive_read_open(reader.get(), &source, nullptr, read_chunk, nullptr) != ARCHIVE_OK) {
    status = broken(reader.get(), source, "");
  } else {
    status = read_entries(reader.get(), source, limits, out);
  }
  if (hash != nullptr) {
    const void* data = nullptr;
    while (source.next(&data) > 0) {
    }
    if (status.ok()) status = source.error;
  }
  return status;
}

}  // namespace faaskit::code
