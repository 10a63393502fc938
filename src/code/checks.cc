#include "faaskit/code/checks.h"

#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include <absl/strings/str_cat.h>

#include "code/files.h"
#include "code/tree.h"
#include "support/errno_status.h"

namespace faaskit::code {
namespace {

// The code's folder, or the folder that its one file is in.
struct Place {
  UniqueFd folder;
  std::string file;  // empty: the code is a folder
};

absl::StatusOr<Place> open_code(const std::string& code_path) {
  struct stat info = {};
  if (::stat(code_path.c_str(), &info) != 0) return errno_status(errno, absl::StrCat("code ", code_path));
  const bool folder = S_ISDIR(info.st_mode);
  const std::size_t slash = code_path.rfind('/');
  const std::string top = folder                       ? code_path
                          : slash == std::string::npos ? "."
                                                       : code_path.substr(0, slash + 1);
  Place place;
  place.folder = UniqueFd(::open(top.c_str(), O_PATH | O_DIRECTORY | O_CLOEXEC));
  if (!place.folder) return errno_status(errno, absl::StrCat("open ", top));
  if (!folder) place.file = slash == std::string::npos ? code_path : code_path.substr(slash + 1);
  return place;
}

// Is it a file that a sandbox could read (and run)? kNotFound: no such file.
absl::StatusOr<UniqueFd> open_file(const Place& place, const std::string& name, bool executable) {
  UniqueFd file = open_beneath(place.folder.get(), name, O_RDONLY | O_NONBLOCK);
  struct stat info = {};
  if (!file && (errno == ENOENT || errno == ENOTDIR))
    return absl::NotFoundError(absl::StrCat("there is no ", shown_name(name)));
  if (!file && (errno == ELOOP || errno == EXDEV))
    return absl::InvalidArgumentError(absl::StrCat(shown_name(name), " leads through a link"));
  if (!file || ::fstat(file.get(), &info) != 0)
    return errno_status(errno, absl::StrCat("open ", shown_name(name)));
  if (!S_ISREG(info.st_mode))
    return absl::InvalidArgumentError(absl::StrCat(shown_name(name), " is not a file"));
  if ((info.st_mode & S_IROTH) == 0 || (executable && (info.st_mode & S_IXOTH) == 0)) {
    return absl::InvalidArgumentError(absl::StrCat(shown_name(name), " must be readable",
                                                   executable ? " and executable" : "",
                                                   " by others: the sandbox has a uid of its own"));
  }
  return file;
}

// Files in which the handler may be, by the rules of its runtime. Empty: not a handler of that runtime.
std::vector<std::string> candidates(const FunctionSpec& spec) {
  std::string_view handler = spec.handler;
  if (spec.runtime == "exec") return {spec.handler};
  for (const std::string_view prefix : {"asgi:", "wsgi:"}) {
    if (spec.runtime == "python3" && handler.substr(0, prefix.size()) == prefix)
      handler.remove_prefix(prefix.size());
  }
  const std::size_t colon = spec.runtime == "node" ? handler.rfind(':') : handler.find(':');
  if (colon == 0 || colon == std::string_view::npos || colon + 1 == handler.size()) return {};
  std::string module(handler.substr(0, colon));
  std::vector<std::string> names;
  if (spec.runtime == "python3") {
    std::replace(module.begin(), module.end(), '.', '/');
    for (const char* where : {"", "site-packages/"}) {
      names.push_back(absl::StrCat(where, module, ".py"));
      names.push_back(absl::StrCat(where, module, "/__init__.py"));
    }
  } else if (spec.runtime == "node") {
    for (const char* extension : {".js", ".cjs", ".mjs"}) names.push_back(module + extension);
  }
  return names;
}

// Is a Python module there in another form than source: a folder, compiled, or an extension?
bool other_form(const Place& place, const std::string& init) {
  const std::string stem = init.substr(0, init.rfind('/'));  // without "/__init__.py"
  const std::size_t slash = stem.rfind('/');
  const std::string last = slash == std::string::npos ? stem : stem.substr(slash + 1);
  const UniqueFd folder = open_beneath(
      place.folder.get(), slash == std::string::npos ? "." : stem.substr(0, slash), O_RDONLY | O_DIRECTORY);
  const absl::StatusOr<std::vector<std::string>> names = list_folder(folder.get());
  return names.ok() && std::any_of(names->begin(), names->end(), [&](const std::string& name) {
           return name == last ||
                  (name.starts_with(last + ".") && (name.ends_with(".so") || name.ends_with(".pyc")));
         });
}

class HandlerCheck final : public DeployCheck {
 public:
  std::string_view name() const override { return "handler"; }

  absl::Status check(const DeployCandidate& candidate) override {
    const FunctionSpec& spec = *candidate.spec;
    const absl::StatusOr<Place> place = open_code(spec.code_path);
    if (!place.ok()) return place.status();
    const bool exec = spec.runtime == "exec";
    if (!place->file.empty()) return at_fault(spec, open_file(*place, place->file, exec).status());
    const std::vector<std::string> names = candidates(spec);
    if (names.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("handler ", shown_name(spec.handler), " is not one of runtime ", spec.runtime));
    }
    for (const std::string& file : names) {
      const absl::Status status = open_file(*place, file, exec).status();
      if (status.code() != absl::StatusCode::kNotFound) return at_fault(spec, status);
      if (file.ends_with("/__init__.py") && other_form(*place, file)) return absl::OkStatus();
    }
    return absl::InvalidArgumentError(absl::StrCat("handler ", shown_name(spec.handler), ": there is no ",
                                                   shown_name(names.front()), " in the code"));
  }

 private:
  static absl::Status at_fault(const FunctionSpec& spec, const absl::Status& status) {
    if (status.ok()) return status;
    return absl::Status(
        status.code() == absl::StatusCode::kNotFound ? absl::StatusCode::kInvalidArgument : status.code(),
        absl::StrCat("handler ", shown_name(spec.handler), ": ", std::string(status.message())));
  }
};

// -- ELF

using Ehdr = ElfW(Ehdr);
using Phdr = ElfW(Phdr);

template <class T>
bool read_at(int fd, std::uint64_t offset, T* out, std::size_t size = sizeof(T)) {
  return offset < (1ull << 62) &&
         ::pread(fd, out, size, static_cast<off_t>(offset)) == static_cast<ssize_t>(size);
}

class ElfCheck final : public DeployCheck {
 public:
  explicit ElfCheck(ElfCheckOptions options) : options_(std::move(options)) {}
  std::string_view name() const override { return "elf"; }

  absl::Status check(const DeployCandidate& candidate) override {
    const FunctionSpec& spec = *candidate.spec;
    if (spec.runtime != "exec") return absl::OkStatus();
    const absl::StatusOr<Place> place = open_code(spec.code_path);
    if (!place.ok()) return place.status();
    const std::string file = place->file.empty() ? spec.handler : place->file;
    const absl::StatusOr<UniqueFd> program = open_file(*place, file, true);
    if (!program.ok()) return absl::InvalidArgumentError(std::string(program.status().message()));
    std::array<char, 2> magic{};
    if (read_at(program->get(), 0, magic.data(), 2) && magic[0] == '#' && magic[1] == '!')
      return script(program->get(), file);
    return elf(program->get(), file);
  }

 private:
  static absl::Status wrong(const std::string& file, const std::string& why) {
    return absl::InvalidArgumentError(absl::StrCat(shown_name(file), ": ", why));
  }

  // Is there something at `path`, as a sandbox would see it, that can be executed?
  bool runnable(const std::string& path) const {
    const auto visible = [&](const std::string& where) {
      return std::any_of(options_.host_paths.begin(), options_.host_paths.end(), [&](const std::string& top) {
        return where.substr(0, top.size()) == top && (where.size() == top.size() || where[top.size()] == '/');
      });
    };
    const std::unique_ptr<char, void (*)(void*)> real(::realpath(path.c_str(), nullptr), std::free);
    struct stat info = {};
    return real != nullptr && visible(path) && visible(real.get()) && ::stat(real.get(), &info) == 0 &&
           S_ISREG(info.st_mode) && (info.st_mode & S_IXOTH) != 0;
  }

  absl::Status script(int fd, const std::string& file) const {
    std::array<char, 256> line{};  // as the kernel reads it
    const ssize_t n = ::pread(fd, line.data(), line.size(), 2);
    std::string_view text(line.data(), n > 0 ? static_cast<std::size_t>(n) : 0);
    const std::size_t end = text.find('\n');
    if (end == std::string_view::npos) return wrong(file, "its first line has no end within 256 bytes");
    text = text.substr(0, end);
    text.remove_prefix(std::min(text.find_first_not_of(" \t"), text.size()));
    const std::string interpreter(text.substr(0, text.find_first_of(" \t")));
    if (interpreter.empty() || interpreter.front() != '/' || !runnable(interpreter))
      return wrong(file,
                   absl::StrCat("its interpreter ", shown_name(interpreter), " is not there in a sandbox"));
    return absl::OkStatus();
  }

  absl::Status elf(int fd, const std::string& file) const {
    Ehdr own = {};
    const UniqueFd self(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    if (!self || !read_at(self.get(), 0, &own))
      return absl::FailedPreconditionError("/proc/self/exe cannot be read, to know this machine by");
    Ehdr header = {};
    if (!read_at(fd, 0, &header) || std::memcmp(header.e_ident, ELFMAG, SELFMAG) != 0)
      return wrong(file, "is neither an ELF program nor a script");
    if (header.e_ident[EI_CLASS] != own.e_ident[EI_CLASS])
      return wrong(file, absl::StrCat("is a ", header.e_ident[EI_CLASS] == ELFCLASS64 ? 64 : 32,
                                      "-bit program, this machine runs ",
                                      own.e_ident[EI_CLASS] == ELFCLASS64 ? 64 : 32, "-bit ones"));
    if (header.e_ident[EI_DATA] != own.e_ident[EI_DATA] || header.e_machine != own.e_machine)
      return wrong(file, absl::StrCat("is for another processor (ELF machine ", header.e_machine, ", here ",
                                      own.e_machine, ")"));
    if (header.e_type != ET_EXEC && header.e_type != ET_DYN)
      return wrong(file, "is an object file, not a program");
    constexpr unsigned kMaxHeaders = 128;
    if (header.e_phentsize != sizeof(Phdr) || header.e_phnum == 0 || header.e_phnum > kMaxHeaders)
      return wrong(file, "has no program headers that can be read");
    bool loads = false;
    for (unsigned i = 0; i < header.e_phnum; ++i) {
      Phdr part = {};
      if (!read_at(fd, header.e_phoff + std::uint64_t{i} * sizeof part, &part))
        return wrong(file, "is cut short");
      loads = loads || part.p_type == PT_LOAD;
      if (part.p_type != PT_INTERP) continue;
      std::string loader(std::min<std::uint64_t>(part.p_filesz, 4096), '\0');
      if (loader.size() < 2 || !read_at(fd, part.p_offset, loader.data(), loader.size()))
        return wrong(file, "is cut short");
      loader.resize(std::strlen(loader.c_str()));
      if (!runnable(loader))
        return wrong(file, absl::StrCat("its loader ", shown_name(loader), " is not there in a sandbox"));
    }
    return loads ? absl::OkStatus() : wrong(file, "has nothing to load");
  }

  const ElfCheckOptions options_;
};

}  // namespace

std::shared_ptr<DeployCheck> make_handler_check() { return std::make_shared<HandlerCheck>(); }

std::shared_ptr<DeployCheck> make_elf_check(ElfCheckOptions options) {
  return std::make_shared<ElfCheck>(std::move(options));
}

}  // namespace faaskit::code
