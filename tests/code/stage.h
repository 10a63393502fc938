// A code store in a folder of its own, and archives as an enemy would write them.
#pragma once

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "catch.hpp"
#include "faaskit/code/code_store.h"
#include "temporary_folder.h"

namespace faaskit::code::testing {

namespace fs = std::filesystem;

// Open to others, as a function's folder must be.
class Folder {
 public:
  Folder() : path_(folder_.path()) { fs::permissions(path_, fs::perms(0755)); }
  fs::path operator/(const std::string& name) const { return path_ / name; }
  const fs::path& path() const { return path_; }

 private:
  TemporaryFolder folder_;
  fs::path path_;
};

inline void write_file(const fs::path& path, const std::string& content, int mode = 0644) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << content;
  fs::permissions(path, fs::perms(mode));
}

inline std::string read_file(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A tar file, header by header; nothing is checked.
class Tar {
 public:
  Tar& file(const std::string& name, const std::string& content, unsigned mode = 0644) {
    return entry(name, '0', content, "", mode, content.size());
  }
  Tar& folder(const std::string& name) { return entry(name, '5', "", "", 0755, 0); }
  Tar& link(char type, const std::string& name, const std::string& to) {
    return entry(name, type, "", to, 0777, 0);
  }
  // `claimed`: the size in the header.
  Tar& entry(const std::string& name, char type, const std::string& content, const std::string& to,
             unsigned mode, std::uint64_t claimed, bool gnu = false) {
    std::array<char, 512> block{};
    std::memcpy(block.data(), name.data(), std::min<std::size_t>(name.size(), 100));
    std::memcpy(&block[157], to.data(), std::min<std::size_t>(to.size(), 100));
    std::snprintf(&block[100], 8, "%07o", mode);
    std::snprintf(&block[108], 8, "%07o", 1234u);
    std::snprintf(&block[116], 8, "%07o", 1234u);
    std::snprintf(&block[124], 12, "%011llo", static_cast<unsigned long long>(claimed));
    std::snprintf(&block[136], 12, "%011o", 1700000000u);
    block[156] = type;
    std::memcpy(&block[257], gnu ? "ustar  \0" : "ustar\00000", 8);
    std::snprintf(&block[329], 8, "%07o", 1u);  // device numbers
    std::snprintf(&block[337], 8, "%07o", 3u);
    std::memset(&block[148], ' ', 8);
    unsigned sum = 0;
    for (const char c : block) sum += static_cast<unsigned char>(c);
    std::snprintf(&block[148], 7, "%06o", sum);
    bytes_.append(block.data(), block.size());
    bytes_ += content;
    bytes_.resize((bytes_.size() + 511) / 512 * 512);
    return *this;
  }
  Tar& pax(const std::string& key, const std::string& value) { return pax({{key, value}}); }
  Tar& pax(const std::vector<std::pair<std::string, std::string>>& pairs) {
    std::string records;
    for (const auto& [key, value] : pairs) {
      const std::string rest = " " + key + "=" + value + "\n";
      std::size_t length = rest.size() + 1;
      while (length != rest.size() + std::to_string(length).size())
        length = rest.size() + std::to_string(length).size();
      records += std::to_string(length) + rest;
    }
    return entry("pax", 'x', records, "", 0644, records.size());
  }
  std::string bytes() const { return bytes_ + std::string(1024, '\0'); }

 private:
  std::string bytes_;
};

inline std::string gzip(const std::string& bytes) {
  std::string out(bytes.size() + (1 << 16), '\0');
  std::size_t used = 0;
  archive* writer = archive_write_new();
  archive_write_set_format_raw(writer);
  archive_write_add_filter_gzip(writer);
  archive_write_set_bytes_in_last_block(writer, 1);
  REQUIRE(archive_write_open_memory(writer, out.data(), out.size(), &used) == ARCHIVE_OK);
  archive_entry* entry = archive_entry_new();
  archive_entry_set_filetype(entry, AE_IFREG);
  REQUIRE(archive_write_header(writer, entry) == ARCHIVE_OK);
  REQUIRE(archive_write_data(writer, bytes.data(), bytes.size()) == static_cast<la_ssize_t>(bytes.size()));
  archive_entry_free(entry);
  archive_write_close(writer);
  archive_write_free(writer);
  out.resize(used);
  return out;
}

// A store under a folder that is gone afterwards.
struct Stage {
  Folder folder;
  CodeStoreOptions options;
  std::unique_ptr<CodeStore> store;

  explicit Stage(CodeStoreOptions wanted = {}) : options(std::move(wanted)) {
    options.root = (folder / "store").string();
    options.folders = (folder / "functions").string();
    fs::create_directory(options.folders);
    restart();
  }
  void restart() {
    store.reset();
    absl::StatusOr<std::unique_ptr<CodeStore>> made = make_code_store(options);
    INFO(made.status().ToString());
    REQUIRE(made.ok());
    store = *std::move(made);
  }
  absl::StatusOr<CodeId> admit(const std::string& bytes) {
    const fs::path upload = folder / "upload.tar";
    std::ofstream(upload, std::ios::binary) << bytes;
    return store->admit({CodeSource::Kind::archive, upload.string()});
  }
  CodeId admitted(const std::string& bytes) {
    absl::StatusOr<CodeId> id = admit(bytes);
    INFO(id.status().ToString());
    REQUIRE(id.ok());
    return *id;
  }
  std::shared_ptr<CodeLease> opened(const CodeId& id) {
    absl::StatusOr<std::shared_ptr<CodeLease>> lease = store->open(id);
    INFO(lease.status().ToString());
    REQUIRE(lease.ok());
    return *lease;
  }
  // The refusal's message; its code is checked.
  std::string refusal(const std::string& bytes, absl::StatusCode code = absl::StatusCode::kInvalidArgument) {
    const absl::StatusOr<CodeId> id = admit(bytes);
    if (id.ok()) return "taken";
    CHECK(id.status().code() == code);
    CHECK(rubbish() == 0);
    return std::string(id.status().message());
  }
  fs::path blob(const CodeId& id) const {
    return fs::path(options.root) / "blobs" / (id.name.substr(7) + ".tar");
  }
  fs::path unpacked(const CodeId& id) const {
    return fs::path(options.root) / "unpacked" / id.name.substr(7);
  }
  int rubbish() const {
    const fs::directory_iterator all(fs::path(options.root) / "incoming");
    return static_cast<int>(std::distance(fs::begin(all), fs::end(all)));
  }
};

}  // namespace faaskit::code::testing
