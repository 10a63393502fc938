// If these failed: a full or read-only disk would lose functions, or say nothing useful.
#include <sys/mount.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "stage.h"

namespace faaskit::registry {
namespace {

using absl::StatusCode;

// A small disk of its own.
class Disk {
 public:
  Disk() {
    if (::mount("faaskit-test", folder_.path().c_str(), "tmpfs", 0, "size=1m,mode=0700") != 0)
      FAASKIT_SKIP(std::string("cannot mount a tmpfs: ") + std::strerror(errno));
  }
  ~Disk() { ::umount2(folder_.path().c_str(), MNT_DETACH); }
  std::string file() const { return folder_.file(); }
  void make_read_only() {
    REQUIRE(::mount("faaskit-test", folder_.path().c_str(), "tmpfs", MS_REMOUNT | MS_RDONLY, nullptr) == 0);
  }

 private:
  Folder folder_;
};

TEST_CASE("a full disk is named, and what was acknowledged stays", "[registry]") {
  Disk disk;
  auto registry = open({.path = disk.file()});
  RegisteredFunction big = function("f");
  big.manifest = std::string(50'000, 'x');
  Version last = 0;
  absl::Status full;
  while (full.ok()) {
    big.name = "f" + std::to_string(last);
    const auto stored = registry->put(big);
    full = stored.status();
    if (stored.ok()) ++last;
    REQUIRE(last < 100);
  }
  INFO(full.message());
  CHECK(full.code() == StatusCode::kResourceExhausted);
  CHECK_THAT(std::string(full.message()), ContainsSubstring("full"));
  CHECK(registry->list()->size() == last);
  registry.reset();
  registry = open({.path = disk.file()});
  CHECK(registry->list()->size() == last);
  CHECK(registry->get("f0").ok());
}

TEST_CASE("a read-only disk is named", "[registry]") {
  Disk disk;
  put(*open({.path = disk.file()}), function("f"));
  disk.make_read_only();
  const auto refused = make_sqlite_registry({.path = disk.file()});
  INFO(refused.status().message());
  CHECK(refused.status().code() == StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace faaskit::registry
