#include "faaskit/code/code_store.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <limits>
#include <map>
#include <set>
#include <string_view>
#include <utility>

#include <absl/strings/str_cat.h>

#include "code/archive.h"
#include "code/files.h"
#include "code/tree.h"
#include "code/unprivileged.h"
#include "support/errno_status.h"
#include "support/mutex.h"
#include "support/random.h"
#include "support/time.h"

namespace faaskit::code {
namespace {

constexpr const char* kLockName = "code-store.lock";
constexpr std::string_view kDigest = "sha256:";
constexpr std::string_view kTar = ".tar";

bool is_digest(std::string_view hex) {
  return hex.size() == 64 && hex.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string random_name() { return absl::StrCat(absl::Hex(random_id(), absl::kZeroPad16)); }

// Empty where the kernel does not say: nothing is then taken over from an earlier process.
std::string boot_id() {
  const UniqueFd file(::open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC));
  char text[64];
  const ssize_t n = file ? ::read(file.get(), text, sizeof text) : -1;
  return n > 0 ? std::string(text, static_cast<std::size_t>(n)) : std::string();
}

absl::StatusOr<UniqueFd> make_folder(int parent, const char* name, mode_t mode) {
  if (::mkdirat(parent, name, 0700) != 0 && errno != EEXIST)
    return errno_status(errno, absl::StrCat("make ", name));
  UniqueFd fd = open_beneath(parent, name, O_RDONLY | O_DIRECTORY);
  if (!fd || ::fchmod(fd.get(), mode) != 0) return errno_status(errno, absl::StrCat("open ", name));
  return fd;
}

// Many at once for one code: one unpacks, these wait.
struct Flight {
  bool done = false;
  absl::Status status{};
  std::uint32_t waiters = 0;
};

// One that is stored. Guarded by Disk::mutex_.
struct Code {
  bool packed = false;  // its blob is there: it can be opened
  bool unpacked = false;
  std::uint32_t leases = 0;
  std::uint64_t last_use = 0;
  std::uint64_t packed_bytes = 0;
  std::uint64_t unpacked_bytes = 0;
  std::shared_ptr<Flight> flight{};
};

// A folder in incoming/ that goes when it is no longer needed.
class Scratch {
 public:
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;
  explicit Scratch(int incoming) : incoming_(incoming), name_(random_name()) {}
  ~Scratch() { (void)remove_tree(incoming_, name_); }

  // With an empty folder `tree` in it that `user` may write.
  absl::Status make(const UnpackUser& user) {
    if (::mkdirat(incoming_, name_.c_str(), 0700) != 0)
      return errno_status(errno, "make a folder to unpack into");
    folder_ = open_beneath(incoming_, name_, O_RDONLY | O_DIRECTORY);
    if (!folder_ || ::mkdirat(folder_.get(), "tree", 0700) != 0)
      return errno_status(errno, "make a folder to unpack into");
    tree_ = open_beneath(folder_.get(), "tree", O_RDONLY | O_DIRECTORY);
    if (!tree_ || (user.id.has_value() && ::fchown(tree_.get(), *user.id, *user.id) != 0))
      return errno_status(errno, "make a folder to unpack into");
    return absl::OkStatus();
  }
  int folder() const { return folder_.get(); }
  int tree() const { return tree_.get(); }

 private:
  int incoming_;
  std::string name_;
  UniqueFd folder_;
  UniqueFd tree_;
};

// The store proper. Leases keep it, so that one may outlive the CodeStore.
class Disk : public std::enable_shared_from_this<Disk> {
 public:
  explicit Disk(CodeStoreOptions options) : options_(std::move(options)) {}

  absl::Status start();
  absl::StatusOr<CodeId> admit(const CodeSource& source);
  absl::StatusOr<std::shared_ptr<CodeLease>> open(const CodeId& id);
  absl::Status forget(const CodeId& id);
  CodeStats stats() const;
  void end_lease(Code& code) {
    const MutexLock lock(mutex_);
    --code.leases;
  }

 private:
  absl::Status check_options() const;
  absl::Status take_root();
  absl::Status sweep();
  absl::Status sweep_blobs() FAASKIT_REQUIRES(mutex_);
  absl::Status sweep_unpacked() FAASKIT_REQUIRES(mutex_);

  absl::StatusOr<UniqueFd> open_source(const CodeSource& source) const;
  absl::StatusOr<CodeId> keep(Scratch& scratch);
  absl::Status unpack_here(int archive, const ArchiveLimits& limits, std::uint64_t packed_bytes,
                           Scratch& scratch, Sha256* hash);
  absl::StatusOr<std::shared_ptr<CodeLease>> open_copied(const CodeId& id);
  absl::StatusOr<std::shared_ptr<CodeLease>> open_mounted(const CodeId& id);
  absl::Status unpack_blob(const std::string& hex, Scratch& scratch);
  absl::Status publish(const std::string& hex, Code& code, Scratch& scratch, std::uint64_t bytes)
      FAASKIT_REQUIRES(mutex_);
  std::string put_aside(const std::string& hex, Code& code) FAASKIT_REQUIRES(mutex_);
  void collect();
  std::shared_ptr<CodeLease> lease(const std::string& hex, std::shared_ptr<Code> code);

  const CodeStoreOptions options_;
  std::string root_;     // without links
  std::string folders_;  // likewise; empty: none
  UnpackUser user_;
  UniqueFd root_fd_;
  UniqueFd lock_;
  UniqueFd blobs_;
  UniqueFd unpacked_;
  UniqueFd incoming_;
  UniqueFd folders_fd_;

  mutable Mutex mutex_;
  std::condition_variable_any landed_;
  std::map<std::string, std::shared_ptr<Code>> codes_ FAASKIT_GUARDED_BY(mutex_);
  std::uint64_t uses_ FAASKIT_GUARDED_BY(mutex_) = 0;
  std::uint64_t packed_bytes_ FAASKIT_GUARDED_BY(mutex_) = 0;
  std::uint64_t unpacked_bytes_ FAASKIT_GUARDED_BY(mutex_) = 0;
  CodeStats counts_ FAASKIT_GUARDED_BY(mutex_);
};

class DiskLease final : public CodeLease {
 public:
  DiskLease(std::shared_ptr<Disk> disk, std::shared_ptr<Code> code, std::string path)
      : disk_(std::move(disk)), code_(std::move(code)), path_(std::move(path)) {}
  ~DiskLease() override {
    if (code_ != nullptr) disk_->end_lease(*code_);
  }
  const std::string& path() const override { return path_; }

 private:
  std::shared_ptr<Disk> disk_;
  std::shared_ptr<Code> code_;  // null: mounted
  std::string path_;
};

// -- Start

absl::Status Disk::check_options() const {
  const auto wrong = [](const std::string& what) {
    return absl::InvalidArgumentError(absl::StrCat("make_code_store: ", what));
  };
  const ArchiveLimits& limits = options_.limits;
  if (options_.root.empty() || options_.root.front() != '/')
    return wrong(absl::StrCat("root '", options_.root, "' must be absolute"));
  if (!options_.folders.empty() && options_.folders.front() != '/')
    return wrong(absl::StrCat("folders '", options_.folders, "' must be absolute"));
  if (limits.max_entries == 0 || limits.max_ratio == 0)
    return wrong("limits: max_entries and max_ratio must be at least 1");
  // What a tar header can say, and what the kernel takes for a path.
  if (limits.max_file_bytes >= 8ull << 30 || limits.max_bytes >= 1ull << 50)
    return wrong("limits: max_file_bytes must be below 8 GiB, max_bytes below 1 PiB");
  if (limits.max_name_bytes == 0 || limits.max_name_bytes > 2048 || limits.max_depth == 0 ||
      limits.max_depth > 128)
    return wrong("limits: max_name_bytes must be 1 to 2048, max_depth 1 to 128");
  if (options_.disk_budget_bytes == 0) return wrong("disk_budget_bytes is 0");
  if (options_.open_timeout.count() <= 0) return wrong("open_timeout must be positive");
  if (options_.unpack_id == 0u || options_.unpack_id == ~0u)
    return wrong("unpack_id must not be root's, nor 4294967295");
  return absl::OkStatus();
}

absl::Status Disk::take_root() {
  const std::string who = absl::StrCat("code store ", options_.root, ": ");
  const bool made = ::mkdir(options_.root.c_str(), 0700) == 0;
  if (!made && errno != EEXIST) return errno_status(errno, absl::StrCat(who, "make"));
  const std::unique_ptr<char, void (*)(void*)> real(::realpath(options_.root.c_str(), nullptr), std::free);
  if (real == nullptr) return errno_status(errno, absl::StrCat(who, "resolve"));
  root_ = real.get();
  root_fd_ = UniqueFd(::open(root_.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
  struct stat info = {};
  if (!root_fd_ || ::fstat(root_fd_.get(), &info) != 0) return errno_status(errno, absl::StrCat(who, "open"));
  if (info.st_uid != ::geteuid() || (!made && (info.st_mode & 022) != 0)) {
    return absl::FailedPreconditionError(
        absl::StrCat(who, "must belong to uid ", ::geteuid(), " and be written by nobody else"));
  }
  // Listed by nobody else; what they know the name of, they reach.
  if (made && ::fchmod(root_fd_.get(), 0711) != 0) return errno_status(errno, absl::StrCat(who, "chmod"));
  if (!open_beneath(root_fd_.get(), ".", O_PATH | O_DIRECTORY)) {
    return absl::FailedPreconditionError(
        absl::StrCat(who, "openat2: ", std::strerror(errno), " (Linux 5.6 or later is needed)"));
  }

  // What is in the folder is ours to sweep: so be sure that it is a store's.
  lock_ = open_beneath(root_fd_.get(), kLockName, O_RDWR);
  if (!lock_ && errno == ENOENT) {
    const absl::StatusOr<std::vector<std::string>> names = list_folder(root_fd_.get());
    if (!names.ok()) return names.status();
    if (!names->empty() && *names != std::vector<std::string>{kLockName})
      return absl::FailedPreconditionError(absl::StrCat(who, "is not empty, and not a code store"));
    lock_ = open_beneath(root_fd_.get(), kLockName, O_RDWR | O_CREAT, 0600);
  }
  if (!lock_) return errno_status(errno, absl::StrCat(who, "open ", kLockName));
  if (::flock(lock_.get(), LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return errno_status(errno, absl::StrCat(who, "lock"));
    return absl::AlreadyExistsError(absl::StrCat(who, "another process or store has it open"));
  }
  return absl::OkStatus();
}

absl::Status Disk::start() {
  if (absl::Status status = check_options(); !status.ok()) return status;
  if (absl::Status status = take_root(); !status.ok()) return status;
  if (!options_.folders.empty()) {
    const std::unique_ptr<char, void (*)(void*)> real(::realpath(options_.folders.c_str(), nullptr),
                                                      std::free);
    if (real != nullptr) folders_ = real.get();
    folders_fd_ = UniqueFd(real == nullptr ? -1 : ::open(real.get(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!folders_fd_) return errno_status(errno, absl::StrCat("code store: folders ", options_.folders));
  }
  if (::geteuid() == 0) user_.id = options_.unpack_id;
  {
    // Better told now than at the first deploy.
    Unprivileged nobody(user_);
    if (!nobody.status().ok()) {
      return absl::FailedPreconditionError(absl::StrCat(
          "code store: ", std::string(nobody.status().message()), "; see CodeStoreOptions::unpack_id"));
    }
    if (absl::Status status = nobody.restore(); !status.ok()) return status;
  }
  return sweep();
}

absl::Status Disk::sweep() {
  const std::pair<const char*, UniqueFd*> folders[] = {
      {"blobs", &blobs_}, {"unpacked", &unpacked_}, {"incoming", &incoming_}};
  for (const auto& [name, fd] : folders) {
    absl::StatusOr<UniqueFd> made = make_folder(root_fd_.get(), name, fd == &unpacked_ ? 0711 : 0700);
    if (!made.ok()) return made.status();
    *fd = *std::move(made);
  }
  const absl::StatusOr<std::vector<std::string>> rubbish = list_folder(incoming_.get());
  if (!rubbish.ok()) return rubbish.status();
  for (const std::string& name : *rubbish) {
    if (absl::Status status = remove_tree(incoming_.get(), name); !status.ok()) return status;
  }
  const MutexLock lock(mutex_);
  if (absl::Status status = sweep_blobs(); !status.ok()) return status;
  return sweep_unpacked();
}

absl::Status Disk::sweep_blobs() {
  std::set<std::string> known;
  if (options_.known.has_value()) {
    for (const CodeId& id : *options_.known) known.insert(id.name);
  }
  const absl::StatusOr<std::vector<std::string>> names = list_folder(blobs_.get());
  if (!names.ok()) return names.status();
  std::vector<std::pair<std::pair<std::int64_t, std::int64_t>, std::string>> by_use;
  for (const std::string& name : *names) {
    const std::string hex = name.substr(0, 64);
    struct stat info = {};
    if (!is_digest(hex) || name.substr(64) != kTar) continue;
    if (options_.known.has_value() && !known.contains(absl::StrCat(std::string(kDigest), hex))) {
      if (absl::Status status = remove_tree(blobs_.get(), name); !status.ok()) return status;
      continue;
    }
    if (::fstatat(blobs_.get(), name.c_str(), &info, AT_SYMLINK_NOFOLLOW) != 0)
      return errno_status(errno, absl::StrCat("stat ", name));
    auto code = std::make_shared<Code>();
    code->packed = true;
    code->packed_bytes = in_blocks(static_cast<std::uint64_t>(info.st_size));
    packed_bytes_ += code->packed_bytes;
    codes_.emplace(hex, std::move(code));
    by_use.push_back({{info.st_mtim.tv_sec, info.st_mtim.tv_nsec}, hex});
  }
  std::sort(by_use.begin(), by_use.end());
  for (const auto& [time, hex] : by_use) codes_.at(hex)->last_use = ++uses_;
  return absl::OkStatus();
}

absl::Status Disk::sweep_unpacked() {
  // Unpacked files are not synced: after a loss of power they may be shorter than they were. What was
  // unpacked under another kernel's life is unpacked again when it is wanted.
  const std::string now = boot_id();
  std::string then(now.size() + 1, '\0');
  UniqueFd boot = open_beneath(root_fd_.get(), "boot", O_RDWR | O_CREAT, 0600);
  if (!boot) return errno_status(errno, "code store: open boot");
  const ssize_t n = ::pread(boot.get(), then.data(), then.size(), 0);
  const bool same =
      !now.empty() && n == static_cast<ssize_t>(now.size()) && then.compare(0, now.size(), now) == 0;

  const absl::StatusOr<std::vector<std::string>> names = list_folder(unpacked_.get());
  if (!names.ok()) return names.status();
  for (const std::string& hex : *names) {
    const auto code = codes_.find(hex);
    if (!same || code == codes_.end()) {
      if (absl::Status status = remove_tree(unpacked_.get(), hex); !status.ok()) return status;
      continue;
    }
    const UniqueFd folder = open_beneath(unpacked_.get(), hex, O_RDONLY | O_DIRECTORY);
    if (!folder) return errno_status(errno, absl::StrCat("open ", hex));
    const absl::StatusOr<std::uint64_t> bytes = disk_bytes(folder.get());
    if (!bytes.ok()) return bytes.status();
    code->second->unpacked = true;
    code->second->unpacked_bytes = *bytes;
    unpacked_bytes_ += *bytes;
    ++counts_.unpacked;
  }
  if (same) return absl::OkStatus();
  if (::ftruncate(boot.get(), 0) != 0) return errno_status(errno, "code store: write boot");
  return write_all(boot.get(), now.data(), now.size());
}

// -- Coming in

absl::StatusOr<UniqueFd> Disk::open_source(const CodeSource& source) const {
  if (source.kind == CodeSource::Kind::archive) {
    UniqueFd file(::open(source.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    struct stat info = {};
    if (!file || ::fstat(file.get(), &info) != 0)
      return errno_status(errno, absl::StrCat("open ", source.path));
    if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(source.path, ": not a file"));
    return file;
  }
  const auto none = [&](const std::string& why) {
    return absl::NotFoundError(absl::StrCat("folder ", shown_name(source.path), ": ", why));
  };
  if (!folders_fd_) return none("this store has no root of folders");
  const absl::StatusOr<std::string> name = plain_name(source.path, options_.limits);
  if (!name.ok()) return none(std::string(name.status().message()));
  if (name->empty()) return none("names the root of folders itself");
  UniqueFd folder = open_beneath(folders_fd_.get(), *name, O_RDONLY | O_DIRECTORY);
  if (folder) return folder;
  if (errno == EXDEV || errno == ELOOP) return none("leads through a link, or out of the root of folders");
  if (errno == ENOTDIR) return none("is no folder, or leads through a link");
  return errno_status(errno, absl::StrCat("folder ", shown_name(source.path)));
}

absl::Status Disk::unpack_here(int archive, const ArchiveLimits& limits, std::uint64_t packed_bytes,
                               Scratch& scratch, Sha256* hash) {
  Unprivileged nobody(user_);
  if (!nobody.status().ok()) return nobody.status();
  TreeWriter out(scratch.tree(), limits, packed_bytes);
  absl::Status status = unpack(archive, limits, out, hash);
  absl::Status restored = nobody.restore();
  return restored.ok() ? status : restored;
}

absl::StatusOr<CodeId> Disk::admit(const CodeSource& source) {
  collect();
  const absl::StatusOr<UniqueFd> from = open_source(source);
  if (!from.ok()) return from.status();
  if (source.kind == CodeSource::Kind::mounted) {
    CodeId id{CodeKind::mounted, *plain_name(source.path, options_.limits)};
    const absl::StatusOr<std::shared_ptr<CodeLease>> there = open_mounted(id);
    if (!there.ok()) return there.status();
    return id;
  }
  Scratch scratch(incoming_.get());
  if (absl::Status status = scratch.make(user_); !status.ok()) return status;
  absl::Status status;
  if (source.kind == CodeSource::Kind::archive) {
    struct stat info = {};
    if (::fstat(from->get(), &info) != 0) return errno_status(errno, "stat the archive");
    status =
        unpack_here(from->get(), options_.limits, std::max<std::uint64_t>(1, info.st_size), scratch, nullptr);
  } else {
    TreeWriter out(scratch.tree(), options_.limits, 0);
    status = copy_folder(from->get(), options_.limits, out);
  }
  if (status.ok()) status = settle(scratch.tree());
  if (!status.ok()) return status;
  absl::StatusOr<CodeId> id = keep(scratch);
  collect();
  return id;
}

// The tree aside becomes a blob, and at once an unpacked folder: it is likely to be opened soon.
absl::StatusOr<CodeId> Disk::keep(Scratch& scratch) {
  const UniqueFd blob = open_beneath(scratch.folder(), "blob", O_RDWR | O_CREAT | O_EXCL, 0600);
  if (!blob) return errno_status(errno, "make a blob");
  const absl::StatusOr<std::string> hex = pack(scratch.tree(), blob.get());
  if (!hex.ok()) return hex.status();
  const absl::StatusOr<std::uint64_t> unpacked_bytes = disk_bytes(scratch.tree());
  if (!unpacked_bytes.ok()) return unpacked_bytes.status();
  struct stat info = {};
  if (::fsync(blob.get()) != 0 || ::fstat(blob.get(), &info) != 0) return errno_status(errno, "sync a blob");
  {
    const MutexLock lock(mutex_);
    std::shared_ptr<Code>& code = codes_[*hex];
    if (code == nullptr) code = std::make_shared<Code>();
    code->last_use = ++uses_;
    if (!code->packed) {
      const std::uint64_t bytes = in_blocks(static_cast<std::uint64_t>(info.st_size));
      if (packed_bytes_ + bytes > options_.disk_budget_bytes) {
        return absl::ResourceExhaustedError(absl::StrCat("the store holds ", packed_bytes_, " bytes packed, ",
                                                         bytes, " more exceed disk_budget_bytes, ",
                                                         options_.disk_budget_bytes));
      }
      const std::string name = absl::StrCat(*hex, std::string(kTar));
      if (::renameat(scratch.folder(), "blob", blobs_.get(), name.c_str()) != 0)
        return errno_status(errno, "rename a blob");
      code->packed = true;
      code->packed_bytes = bytes;
      packed_bytes_ += bytes;
    }
    if (!code->unpacked && code->flight == nullptr) {
      if (absl::Status status = publish(*hex, *code, scratch, *unpacked_bytes); !status.ok()) return status;
    }
  }
  // Acknowledged only once the name is on the disk as well; also where another admit() was first.
  if (::fsync(blobs_.get()) != 0) return errno_status(errno, "sync the blobs");
  return CodeId{CodeKind::copied, absl::StrCat(std::string(kDigest), *hex)};
}

absl::Status Disk::publish(const std::string& hex, Code& code, Scratch& scratch, std::uint64_t bytes) {
  if (::renameat(scratch.folder(), "tree", unpacked_.get(), hex.c_str()) != 0)
    return errno_status(errno, absl::StrCat("rename unpacked ", hex));
  code.unpacked = true;
  code.unpacked_bytes = bytes;
  unpacked_bytes_ += bytes;
  ++counts_.unpacked;
  return absl::OkStatus();
}

// -- Going out

absl::StatusOr<std::shared_ptr<CodeLease>> Disk::open(const CodeId& id) {
  absl::StatusOr<std::shared_ptr<CodeLease>> opened =
      id.kind == CodeKind::mounted ? open_mounted(id) : open_copied(id);
  if (opened.ok()) {
    const MutexLock lock(mutex_);
    ++counts_.opened;
  }
  collect();
  return opened;
}

absl::StatusOr<std::shared_ptr<CodeLease>> Disk::open_mounted(const CodeId& id) {
  const absl::StatusOr<UniqueFd> folder = open_source({CodeSource::Kind::mounted, id.name});
  if (!folder.ok()) return folder.status();
  struct stat info = {};
  if (::fstat(folder->get(), &info) != 0) return errno_status(errno, absl::StrCat("stat ", id.name));
  if ((info.st_mode & 0005) != 0005) {
    return absl::InvalidArgumentError(
        absl::StrCat("folder ", shown_name(id.name), ": must be readable by others (mode 0755)"));
  }
  const std::string name = *plain_name(id.name, options_.limits);
  return std::make_shared<DiskLease>(nullptr, nullptr, absl::StrCat(folders_, "/", name));
}

std::shared_ptr<CodeLease> Disk::lease(const std::string& hex, std::shared_ptr<Code> code) {
  return std::make_shared<DiskLease>(shared_from_this(), std::move(code),
                                     absl::StrCat(root_, "/unpacked/", hex));
}

absl::StatusOr<std::shared_ptr<CodeLease>> Disk::open_copied(const CodeId& id) {
  absl::Status unknown = absl::NotFoundError(absl::StrCat("no code ", to_string(id)));
  if (id.name.substr(0, kDigest.size()) != kDigest) return unknown;
  const std::string hex = id.name.substr(kDigest.size());
  std::shared_ptr<Code> code;
  std::shared_ptr<Flight> flight;
  {
    const MutexLock lock(mutex_);
    const auto found = codes_.find(hex);
    if (found == codes_.end() || !found->second->packed) return unknown;
    code = found->second;
    code->last_use = ++uses_;
    if (code->unpacked) {
      ++code->leases;
    } else if (code->flight != nullptr) {
      flight = code->flight;
      ++flight->waiters;
      const auto deadline = after(std::chrono::steady_clock::now(), options_.open_timeout);
      while (!flight->done) {
        if (landed_.wait_until(mutex_, deadline) == std::cv_status::timeout && !flight->done) {
          --flight->waiters;
          return absl::DeadlineExceededError(absl::StrCat("open ", to_string(id),
                                                          ": another caller's unpacking took longer than ",
                                                          options_.open_timeout.count(), " ms"));
        }
      }
      // Its lease was counted together with that of who unpacked: no budget could come between.
      if (!flight->status.ok()) return flight->status;
    } else {
      flight = code->flight = std::make_shared<Flight>();
    }
    if (flight == nullptr || flight->done) return lease(hex, code);
  }

  Scratch scratch(incoming_.get());
  absl::Status status = scratch.make(user_);
  if (status.ok()) status = unpack_blob(hex, scratch);
  absl::StatusOr<std::uint64_t> bytes = status.ok() ? disk_bytes(scratch.tree()) : status;
  const MutexLock lock(mutex_);
  status = !bytes.ok()    ? bytes.status()
           : code->packed ? publish(hex, *code, scratch, *bytes)
                          : unknown;  // forgotten meanwhile
  if (status.ok()) {
    code->leases += 1 + flight->waiters;
    ++counts_.unpacks;
  } else {
    ++counts_.failed_unpacks;
  }
  // Told to those who waited; whoever comes now tries again.
  flight->status = status;
  flight->done = true;
  code->flight = nullptr;
  landed_.notify_all();
  if (!status.ok()) return status;
  return lease(hex, code);
}

absl::Status Disk::unpack_blob(const std::string& hex, Scratch& scratch) {
  const std::string name = absl::StrCat(hex, std::string(kTar));
  const UniqueFd blob = open_beneath(blobs_.get(), name, O_RDONLY);
  struct stat info = {};
  if (!blob && errno == ENOENT) return absl::DataLossError(absl::StrCat("code ", hex, ": its blob is gone"));
  if (!blob || ::fstat(blob.get(), &info) != 0) return errno_status(errno, absl::StrCat("open ", name));
  // The order of use, over a restart.
  (void)::utimensat(blobs_.get(), name.c_str(), nullptr, AT_SYMLINK_NOFOLLOW);

  // Limits may have been lowered since it came in; what a plain archive holds is bounded by its size.
  ArchiveLimits ours;
  ours.max_entries = std::numeric_limits<std::uint32_t>::max();
  ours.max_file_bytes = ours.max_bytes = static_cast<std::uint64_t>(info.st_size);
  ours.max_name_bytes = 4095;
  ours.max_depth = 128;
  Sha256 hash;
  absl::Status status = unpack_here(blob.get(), ours, 0, scratch, &hash);
  // First: what an altered blob did to the unpacking is of no interest.
  if (const std::string found = hash.finish(); found != hex) {
    return absl::DataLossError(
        absl::StrCat("code ", hex, ": its blob of ", info.st_size, " bytes has the digest ", found));
  }
  if (!status.ok()) return status;
  return settle(scratch.tree());
}

absl::Status Disk::forget(const CodeId& id) {
  collect();
  if (id.kind == CodeKind::mounted || id.name.substr(0, kDigest.size()) != kDigest) return absl::OkStatus();
  const std::string hex = id.name.substr(kDigest.size());
  {
    const MutexLock lock(mutex_);
    const auto found = codes_.find(hex);
    if (found == codes_.end() || !found->second->packed) return absl::OkStatus();
    const std::string name = absl::StrCat(hex, std::string(kTar));
    if (::unlinkat(blobs_.get(), name.c_str(), 0) != 0 && errno != ENOENT)
      return errno_status(errno, absl::StrCat("remove ", name));
    found->second->packed = false;
    packed_bytes_ -= std::exchange(found->second->packed_bytes, 0);
  }
  const bool synced = ::fsync(blobs_.get()) == 0;
  const int err = errno;
  collect();
  return synced ? absl::OkStatus() : errno_status(err, "sync the blobs");
}

// A rename, so that nobody finds half of it; empty if that failed. The name is now one in incoming/.
std::string Disk::put_aside(const std::string& hex, Code& code) {
  std::string aside = random_name();
  if (::renameat(unpacked_.get(), hex.c_str(), incoming_.get(), aside.c_str()) != 0 && errno != ENOENT)
    return {};
  code.unpacked = false;
  unpacked_bytes_ -= std::exchange(code.unpacked_bytes, 0);
  --counts_.unpacked;
  ++counts_.removed;
  return aside;
}

void Disk::collect() {
  std::vector<std::string> rubbish;
  {
    const MutexLock lock(mutex_);
    std::vector<std::pair<std::uint64_t, std::string>> unused;
    for (auto it = codes_.begin(); it != codes_.end();) {
      const auto& [hex, code] = *it;
      const bool in_use = code->leases > 0 || code->flight != nullptr;
      if (!in_use && code->packed && code->unpacked) unused.emplace_back(code->last_use, hex);
      if (!in_use && !code->packed && code->unpacked) rubbish.push_back(put_aside(hex, *code));
      it = !in_use && !code->packed && !code->unpacked ? codes_.erase(it) : std::next(it);
    }
    if (packed_bytes_ + unpacked_bytes_ > options_.disk_budget_bytes) {
      std::sort(unused.begin(), unused.end());
      for (const auto& [use, hex] : unused) {
        if (packed_bytes_ + unpacked_bytes_ <= options_.disk_budget_bytes) break;
        rubbish.push_back(put_aside(hex, *codes_.at(hex)));
      }
    }
  }
  // What will not go is swept by the next start.
  for (const std::string& name : rubbish) {
    if (!name.empty()) (void)remove_tree(incoming_.get(), name);
  }
}

CodeStats Disk::stats() const {
  const MutexLock lock(mutex_);
  CodeStats stats = counts_;
  stats.bytes = packed_bytes_ + unpacked_bytes_;
  return stats;
}

class DiskCodeStore final : public CodeStore {
 public:
  explicit DiskCodeStore(std::shared_ptr<Disk> disk) : disk_(std::move(disk)) {}
  absl::StatusOr<CodeId> admit(const CodeSource& source) override { return disk_->admit(source); }
  absl::StatusOr<std::shared_ptr<CodeLease>> open(const CodeId& id) override { return disk_->open(id); }
  absl::Status forget(const CodeId& id) override { return disk_->forget(id); }
  CodeStats stats() const override { return disk_->stats(); }

 private:
  std::shared_ptr<Disk> disk_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<CodeStore>> make_code_store(CodeStoreOptions options) {
  auto disk = std::make_shared<Disk>(std::move(options));
  if (absl::Status status = disk->start(); !status.ok()) return status;
  return std::make_unique<DiskCodeStore>(std::move(disk));
}

}  // namespace faaskit::code
