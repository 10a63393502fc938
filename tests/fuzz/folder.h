// A folder for a target that needs true files: in TMPDIR if that is set, else in memory if it can be.
#pragma once

#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "faaskit/port/unique_fd.h"
#include "input.h"

namespace faaskit::fuzz {

class Folder {
 public:
  Folder() {
    const char* const named = ::getenv("TMPDIR");
    for (const char* where : {named != nullptr ? named : "/dev/shm", "/tmp"}) {
      path_ = std::string(where) + "/faaskit-fuzz-XXXXXX";
      if (::mkdtemp(path_.data()) != nullptr) break;
    }
    fd_ = UniqueFd(::open(path_.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    FUZZ_CHECK(fd_);
  }
  Folder(const Folder&) = delete;
  Folder& operator=(const Folder&) = delete;
  // Empty by then.
  ~Folder() { ::rmdir(path_.c_str()); }
  int fd() const { return fd_.get(); }

 private:
  std::string path_;
  UniqueFd fd_;
};

}  // namespace faaskit::fuzz
