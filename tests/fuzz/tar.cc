// Archives of strangers, unpacked for true: nothing but plain files and folders, within the limits, beneath
// the folder that was meant and nowhere else; and what came out can be packed and unpacked to the same again.
#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "code/archive.h"
#include "code/tree.h"
#include "folder.h"
#include "input.h"

namespace {

using faaskit::UniqueFd;
using faaskit::code::ArchiveLimits;

struct Found {
  std::uint64_t entries = 0;
  std::uint64_t bytes = 0;
};

// Counts what is beneath, or removes it.
void walk(int folder, bool remove, unsigned depth, const ArchiveLimits& limits, Found& found) {
  FUZZ_CHECK(depth <= limits.max_depth);
  const int copy = ::openat(folder, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  FUZZ_CHECK(copy >= 0);
  DIR* const entries = ::fdopendir(copy);
  FUZZ_CHECK(entries != nullptr);
  while (const dirent* entry = ::readdir(entries)) {
    const std::string_view name = entry->d_name;
    if (name == "." || name == "..") continue;
    struct stat info{};
    FUZZ_CHECK(::fstatat(folder, entry->d_name, &info, AT_SYMLINK_NOFOLLOW) == 0);
    FUZZ_CHECK(S_ISREG(info.st_mode) || S_ISDIR(info.st_mode));
    FUZZ_CHECK((info.st_mode & (S_ISUID | S_ISGID | S_ISVTX)) == 0);
    FUZZ_CHECK(!S_ISREG(info.st_mode) || info.st_nlink == 1);
    ++found.entries;
    if (S_ISDIR(info.st_mode)) {
      const UniqueFd inner(::openat(folder, entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
      FUZZ_CHECK(inner);
      walk(inner.get(), remove, depth + 1, limits, found);
    } else {
      FUZZ_CHECK(static_cast<std::uint64_t>(info.st_size) <= limits.max_file_bytes);
      found.bytes += static_cast<std::uint64_t>(info.st_size);
    }
    if (remove) FUZZ_CHECK(::unlinkat(folder, entry->d_name, S_ISDIR(info.st_mode) ? AT_REMOVEDIR : 0) == 0);
  }
  ::closedir(entries);
}

// A folder for what is unpacked, within one that must stay as it is.
class Scratch {
 public:
  Scratch() {
    FUZZ_CHECK(::mkdirat(around_.fd(), "top", 0700) == 0);
    top_ = UniqueFd(::openat(around_.fd(), "top", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    FUZZ_CHECK(top_);
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  ~Scratch() {
    clear();
    ::unlinkat(around_.fd(), "top", AT_REMOVEDIR);
  }
  int top() const { return top_.get(); }
  void check_around() const {
    DIR* const entries = ::fdopendir(::openat(around_.fd(), ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    FUZZ_CHECK(entries != nullptr);
    while (const dirent* entry = ::readdir(entries)) {
      const std::string_view name = entry->d_name;
      FUZZ_CHECK(name == "." || name == ".." || name == "top");
    }
    ::closedir(entries);
  }
  void clear() {
    Found found;
    walk(top_.get(), true, 0, {.max_depth = 1000}, found);
  }

 private:
  faaskit::fuzz::Folder around_;
  UniqueFd top_;
};

UniqueFd in_memory(std::string_view bytes) {
  UniqueFd fd(::memfd_create("archive", MFD_CLOEXEC));
  FUZZ_CHECK(fd);
  FUZZ_CHECK(::write(fd.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
  FUZZ_CHECK(::lseek(fd.get(), 0, SEEK_SET) == 0);
  return fd;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  static Scratch scratch;
  const ArchiveLimits limits = {.max_entries = 40,
                                .max_file_bytes = 6000,
                                .max_bytes = 20000,
                                .max_ratio = 100,
                                .max_name_bytes = 100,
                                .max_depth = 6};
  const UniqueFd archive = in_memory({reinterpret_cast<const char*>(data), size});
  faaskit::code::TreeWriter out(scratch.top(), limits, size);
  const absl::Status status = faaskit::code::unpack(archive.get(), limits, out);
  scratch.check_around();
  Found found;
  walk(scratch.top(), false, 0, limits, found);
  FUZZ_CHECK(found.entries <= limits.max_entries);
  FUZZ_CHECK(found.bytes <= limits.max_bytes);
  if (status.ok()) {
    FUZZ_CHECK(faaskit::code::settle(scratch.top()).ok());
    const UniqueFd packed = in_memory({});
    const auto hash = faaskit::code::pack(scratch.top(), packed.get());
    FUZZ_CHECK(hash.ok());
    scratch.clear();
    FUZZ_CHECK(::lseek(packed.get(), 0, SEEK_SET) == 0);
    // Ours is not packed tightly, and names every folder.
    ArchiveLimits wide = limits;
    wide.max_entries *= 10;
    faaskit::code::TreeWriter again(scratch.top(), wide, 0);
    FUZZ_CHECK(faaskit::code::unpack(packed.get(), wide, again).ok());
    Found same;
    walk(scratch.top(), false, 0, limits, same);
    FUZZ_CHECK(same.entries == found.entries && same.bytes == found.bytes);
    FUZZ_CHECK(faaskit::code::settle(scratch.top()).ok());
    const UniqueFd repacked = in_memory({});
    const auto same_hash = faaskit::code::pack(scratch.top(), repacked.get());
    FUZZ_CHECK(same_hash.ok() && *same_hash == *hash);
  } else {
    FUZZ_CHECK(!status.message().empty() && status.message().size() < 2000);
  }
  scratch.clear();
  return 0;
}
