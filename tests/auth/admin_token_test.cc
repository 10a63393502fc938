// If these failed: somebody else on the machine could administer, or nobody could.
#include "faaskit/auth/admin_token.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>
#include <vector>

#include "catch.hpp"
#include "temporary_folder.h"

namespace faaskit::auth {
namespace {

using absl::StatusCode;

struct Folder : TemporaryFolder {
  std::string file() const { return path() + "/admin.token"; }
};

std::string text_of(const std::string& path) {
  std::ifstream file(path);
  std::ostringstream out;
  out << file.rdbuf();
  return out.str();
}

void write(const std::string& path, const std::string& text, mode_t mode = 0600) {
  std::ofstream(path) << text;
  REQUIRE(::chmod(path.c_str(), mode) == 0);
}

const std::string kToken = "abcdefghijklmnopqrstuvwxyz-_0123456789";

TEST_CASE("a token is made once, 0600, and loaded after that", "[auth]") {
  Folder folder;
  const auto made = load_or_make_admin_token(folder.file());
  REQUIRE(made.ok());
  struct stat info{};
  REQUIRE(::stat(folder.file().c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0600);
  std::string text = text_of(folder.file());
  REQUIRE(text.size() == 3 + 43 + 1);
  text.pop_back();
  CHECK(made->verify(text));
  CHECK_FALSE(made->verify(text + "\n"));
  CHECK_FALSE(made->verify(text.substr(1)));
  CHECK_FALSE(made->verify(""));
  const auto loaded = load_or_make_admin_token(folder.file());
  REQUIRE(loaded.ok());
  CHECK(loaded->verify(text));
  // Nothing half made beside it.
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
  Folder other;
  CHECK_FALSE(load_or_make_admin_token(other.file())->verify(text));
}

TEST_CASE("many who make the token at once get the same one", "[auth]") {
  Folder folder;
  std::vector<absl::StatusOr<AdminToken>> tokens(8, absl::UnknownError("not run"));
  {
    std::vector<std::jthread> threads;
    for (auto& token : tokens) threads.emplace_back([&] { token = load_or_make_admin_token(folder.file()); });
  }
  std::string text = text_of(folder.file());
  text.pop_back();
  for (const auto& token : tokens) {
    REQUIRE(token.ok());
    CHECK(token->verify(text));
  }
  CHECK(std::distance(std::filesystem::directory_iterator(folder.path()), {}) == 1);
}

TEST_CASE("a token put there by hand is taken", "[auth]") {
  Folder folder;
  for (const char* end : {"", "\n"}) {
    write(folder.file(), kToken + end, 0400);
    const auto token = load_or_make_admin_token(folder.file());
    REQUIRE(token.ok());
    CHECK(token->verify(kToken));
    std::filesystem::remove(folder.file());
  }
}

TEST_CASE("a file that others may use, or that is no token, is refused", "[auth]") {
  Folder folder;
  const auto code = [&] { return load_or_make_admin_token(folder.file()).status().code(); };
  SECTION("readable by others") {
    for (const mode_t mode : {0640, 0604, 0660, 0602}) {
      write(folder.file(), kToken, mode);
      const absl::Status status = load_or_make_admin_token(folder.file()).status();
      CHECK(status.code() == StatusCode::kPermissionDenied);
      CHECK_THAT(std::string(status.message()), ContainsSubstring("make it 0600"));
    }
  }
  SECTION("another user's") {
    if (::geteuid() != 0) FAASKIT_SKIP("only root can give a file away");
    write(folder.file(), kToken);
    REQUIRE(::chown(folder.file().c_str(), 12345, 12345) == 0);
    CHECK(code() == StatusCode::kPermissionDenied);
  }
  SECTION("a symbolic link, even to a good one") {
    write(folder.path() + "/good", kToken);
    std::filesystem::create_symlink(folder.path() + "/good", folder.file());
    CHECK(code() == StatusCode::kFailedPrecondition);
  }
  SECTION("a dangling link makes nothing") {
    std::filesystem::create_symlink(folder.path() + "/none", folder.file());
    CHECK(code() == StatusCode::kFailedPrecondition);
    CHECK_FALSE(std::filesystem::exists(folder.path() + "/none"));
  }
  SECTION("a folder, a pipe") {
    REQUIRE(::mkfifo(folder.file().c_str(), 0600) == 0);
    CHECK(code() == StatusCode::kFailedPrecondition);
    std::filesystem::remove(folder.file());
    std::filesystem::create_directory(folder.file());
    CHECK(code() == StatusCode::kFailedPrecondition);
  }
  SECTION("empty, too short, too long, other characters") {
    for (const std::string& text : {std::string(), std::string(21, 'a'), std::string(257, 'a'), kToken + " ",
                                    kToken + "\n\n", std::string(30, '\0')}) {
      write(folder.file(), text);
      const absl::Status status = load_or_make_admin_token(folder.file()).status();
      CHECK(status.code() == StatusCode::kFailedPrecondition);
      CHECK(text_of(folder.file()) == text);
    }
  }
  SECTION("no folder") {
    CHECK(load_or_make_admin_token(folder.path() + "/no/admin.token").status().code() ==
          StatusCode::kNotFound);
  }
}

}  // namespace
}  // namespace faaskit::auth
