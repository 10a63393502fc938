// If these failed, an archive could write outside its folder, fill the disk, or bring what is no code.
#include <linux/capability.h>
#include <sys/fsuid.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <algorithm>
#include <cerrno>
#include <optional>
#include <string>
#include <vector>

#include "code/files.h"
#include "code/stage.h"
#include "code/tree.h"
#include "code/unprivileged.h"

namespace faaskit::code {
namespace {

using namespace testing;

// What names escape to, if they do: the same names are looked for there afterwards.
bool nothing_outside(const Stage& stage) {
  for (const fs::path& place : {stage.folder.path(), fs::path(stage.options.root),
                                fs::path(stage.options.root) / "unpacked", fs::path("/"), fs::path("/tmp")}) {
    if (fs::exists(place / "evil-of-faaskit")) return false;
  }
  return true;
}

}  // namespace

TEST_CASE("ustar, pax and gnu, plain and gzip, arrive as they were packed", "[code][archive]") {
  Stage stage;
  const std::string long_name = "deep/" + std::string(120, 'n') + "/" + std::string(130, 'm') + ".py";
  Tar pax;
  pax.folder("./").folder("./lib/").file("./main.py", "print(1)\n").file("./run", "#!", 0755);
  pax.pax("path", long_name).file("shortened", "long").pax("path", "\xc3\xa4.py").file("a", "umlaut");
  const std::string long_link = long_name + std::string(1, '\0');
  Tar gnu;
  gnu.folder("lib").file("main.py", "print(1)\n", 04600).file("run", "#!", 0100);
  gnu.entry("././@LongLink", 'L', long_link, "", 0644, long_link.size(), true);
  gnu.entry("shortened", '0', "long", "", 0644, 4, true).file("\xc3\xa4.py", "umlaut");

  const CodeId id = stage.admitted(pax.bytes());
  CHECK(id.kind == CodeKind::copied);
  // However it was packed: form, order of mode bits, owners, times, compression.
  CHECK(stage.admitted(gnu.bytes()) == id);
  CHECK(stage.admitted(gzip(pax.bytes())) == id);
  CHECK(stage.store->stats().unpacked == 1);

  const auto lease = stage.opened(id);
  const fs::path top = lease->path();
  CHECK(read_file(top / "main.py") == "print(1)\n");
  CHECK(read_file(top / long_name) == "long");
  CHECK(read_file(top / "\xc3\xa4.py") == "umlaut");
  CHECK(fs::is_directory(top / "lib"));
  struct stat info = {};
  for (const auto& [name, mode] : std::vector<std::pair<std::string, unsigned>>{
           {"main.py", 0100644}, {"run", 0100755}, {"lib", 0040755}, {".", 0040755}}) {
    REQUIRE(::stat((top / name).c_str(), &info) == 0);
    CHECK(info.st_mode == mode);
    CHECK(info.st_uid == ::geteuid());
    CHECK(info.st_mtime == 315532800);
  }
}

TEST_CASE("any difference of content is another id", "[code][archive]") {
  Stage stage;
  const CodeId id = stage.admitted(Tar().file("a", "1").bytes());
  CHECK(stage.admitted(Tar().file("a", "2").bytes()) != id);
  CHECK(stage.admitted(Tar().file("b", "1").bytes()) != id);
  CHECK(stage.admitted(Tar().file("a", "1", 0755).bytes()) != id);
  CHECK(stage.admitted(Tar().file("a", "1").folder("b").bytes()) != id);
  CHECK(stage.admitted(Tar().bytes()) != id);
  CHECK(stage.admitted(Tar().pax("mtime", "1").file("./a", "1").bytes()) == id);
}

TEST_CASE("names that lead elsewhere are refused by name", "[code][archive]") {
  Stage stage;
  for (const auto& [name, why] : std::vector<std::pair<std::string, std::string>>{
           {"../evil-of-faaskit", "'..' in a name"},
           {"a/../../evil-of-faaskit", "'..' in a name"},
           {"a/..", "'..' in a name"},
           {"/evil-of-faaskit", "names must be relative"},
           {"//evil-of-faaskit", "names must be relative"},
           {"a//evil-of-faaskit", "a part of the name is empty"},
           {"evil\n", "control characters in a name"},
           {"evil\x7f", "control characters in a name"},
           {"evil\xff", "names must be UTF-8"},
           {"evil\xc0\xae", "names must be UTF-8"},
           {"", "a name is empty"},
           {".", "a file without a name"},
       }) {
    const std::string said = stage.refusal(Tar().file(name, "x").bytes());
    INFO(name);
    CHECK_THAT(said, ContainsSubstring(why));
    CHECK_THAT(said, !ContainsSubstring("\n"));
  }
  // The same through pax, where names are not cut.
  CHECK_THAT(stage.refusal(Tar().pax("path", "../evil-of-faaskit").file("a", "x").bytes()),
             ContainsSubstring("'..'"));
  CHECK_THAT(stage.refusal(Tar().pax("path", std::string(600, 'a')).file("a", "x").bytes()),
             ContainsSubstring("a name of 600 bytes, limit 512"));
  CHECK_THAT(stage.refusal(Tar().pax("path", std::string(300, 'a')).file("a", "x").bytes()),
             ContainsSubstring("more than 255 bytes"));
  std::string deep;
  for (int i = 0; i < 33; ++i) deep += "a/";
  CHECK_THAT(stage.refusal(Tar().pax("path", deep).folder("a").bytes()),
             ContainsSubstring("more than 32 folders deep"));
  CHECK(nothing_outside(stage));
}

TEST_CASE("links, devices and sparse files are refused by name", "[code][archive]") {
  Stage stage;
  const auto said = [&](char type) {
    return stage.refusal(Tar().file("main.py", "x").link(type, "bad", "/etc/passwd").bytes());
  };
  CHECK_THAT(said('1'), ContainsSubstring("'bad': a hard link"));
  CHECK_THAT(said('2'), ContainsSubstring("'bad': a symbolic link"));
  CHECK_THAT(said('3'), ContainsSubstring("'bad': a device"));
  CHECK_THAT(said('4'), ContainsSubstring("'bad': a device"));
  CHECK_THAT(said('6'), ContainsSubstring("'bad': a fifo"));
  // A size that its map does not explain.
  CHECK_THAT(stage.refusal(Tar()
                               .pax({{"GNU.sparse.size", "1073741824"}, {"GNU.sparse.numblocks", "1"}})
                               .file("s", "x")
                               .bytes()),
             ContainsSubstring("'s': a sparse file"));
  // A link, and then a file through it.
  CHECK_THAT(stage.refusal(Tar().link('2', "l", "..").file("l/evil-of-faaskit", "x").bytes()),
             ContainsSubstring("'l': a symbolic link"));
  // One byte of data at the end of a GiB: pax 0.0, and 0.1.
  CHECK_THAT(stage.refusal(Tar()
                               .pax({{"GNU.sparse.size", "1073741824"},
                                     {"GNU.sparse.numblocks", "1"},
                                     {"GNU.sparse.offset", "1073741823"},
                                     {"GNU.sparse.numbytes", "1"}})
                               .file("s", "x")
                               .bytes()),
             ContainsSubstring("'s': a sparse file"));
  CHECK_THAT(stage.refusal(Tar()
                               .pax({{"GNU.sparse.size", "1073741824"},
                                     {"GNU.sparse.numblocks", "1"},
                                     {"GNU.sparse.map", "1073741823,1"}})
                               .file("s", "x")
                               .bytes()),
             ContainsSubstring("'s': a sparse file"));
  CHECK(nothing_outside(stage));
}

TEST_CASE("what comes twice, or is a file and a folder, is refused", "[code][archive]") {
  Stage stage;
  CHECK_THAT(stage.refusal(Tar().file("a", "1").file("./a", "2").bytes()),
             ContainsSubstring("'a': comes twice"));
  CHECK_THAT(stage.refusal(Tar().file("a", "1").file("a/b", "2").bytes()),
             ContainsSubstring("'a': is a file, and a folder"));
  CHECK_THAT(stage.refusal(Tar().file("a", "1").folder("a").bytes()),
             ContainsSubstring("'a': is a file, and a folder"));
  CHECK_THAT(stage.refusal(Tar().folder("a").file("a", "1").bytes()), ContainsSubstring("'a': comes twice"));
  CHECK(stage.admit(Tar().folder("a").folder("a/").file("a/b", "1").bytes()).ok());
}

TEST_CASE("bombs end at a limit that is named", "[code][archive]") {
  const auto kLimit = absl::StatusCode::kOutOfRange;
  Stage stage({.limits = {.max_entries = 20, .max_file_bytes = 3 << 20, .max_bytes = 5 << 20}});

  SECTION("ratio") {
    CHECK_THAT(stage.refusal(gzip(Tar().file("zeros", std::string(2 << 20, '\0')).bytes()), kLimit),
               ContainsSubstring("max_ratio, 100, times as many"));
    // Small things may be as regular as they like.
    CHECK(stage.admit(gzip(Tar().file("zeros", std::string(1 << 20, '\0')).bytes())).ok());
  }
  SECTION("one file") {
    CHECK_THAT(stage.refusal(Tar().file("big", std::string((3 << 20) + 1, 'x')).bytes(), kLimit),
               ContainsSubstring("'big': larger than max_file_bytes, 3145728"));
  }
  SECTION("all files") {
    const std::string three(3 << 20, 'x');
    CHECK_THAT(stage.refusal(Tar().file("a", three).file("b", three).bytes(), kLimit),
               ContainsSubstring("'b': files together exceed max_bytes, 5242880"));
  }
  SECTION("entries, implied folders included") {
    Tar many;
    for (int i = 0; i < 21; ++i) many.file("f" + std::to_string(i), "");
    CHECK_THAT(stage.refusal(many.bytes(), kLimit), ContainsSubstring("more than max_entries, 20"));
    std::string deep;
    for (int i = 0; i < 11; ++i) deep += "d/";
    CHECK_THAT(stage.refusal(Tar().file(deep + "a", "").file("e/" + deep + "b", "").bytes(), kLimit),
               ContainsSubstring("more than max_entries, 20"));
  }
  SECTION("one folder, named again and again") {
    Tar again;
    for (int i = 0; i < 21; ++i) again.folder("d");
    CHECK_THAT(stage.refusal(gzip(again.bytes()), kLimit), ContainsSubstring("more than max_entries, 20"));
  }
  SECTION("headers that no entry shows") {
    Tar hidden;
    for (int i = 0; i < 160; ++i) hidden.pax("comment", std::string(1000 << 10, 'c')).folder(".");
    CHECK_THAT(stage.refusal(gzip(hidden.bytes()), kLimit), ContainsSubstring("headers included"));
  }
  SECTION("gzip in gzip") {
    CHECK_THAT(stage.refusal(gzip(gzip(Tar().file("a", "x").bytes()))),
               ContainsSubstring("compressed more than once"));
  }
}

TEST_CASE("what is cut short, damaged or no archive is refused, at every length", "[code][archive]") {
  Stage stage;
  const std::string whole = Tar().file("main.py", std::string(700, 'x')).folder("lib").bytes();
  REQUIRE(stage.admit(whole).ok());
  // One block of the end mark is enough, as everywhere.
  for (std::size_t length = 0; length < whole.size() - 1024; length += 64) {
    INFO(length);
    CHECK(stage.refusal(whole.substr(0, length)) != "taken");
  }
  const std::string packed = gzip(whole);
  for (std::size_t length = 0; length < packed.size(); length += 7) {
    INFO(length);
    CHECK(stage.refusal(packed.substr(0, length)) != "taken");
  }
  CHECK(stage.refusal("not a tar file") != "taken");
  CHECK(stage.refusal(std::string(10240, 'x')) != "taken");
  CHECK(stage.refusal("PK\3\4" + std::string(1000, '\0')) != "taken");
  // Bytes turned one at a time: taken or refused, but never more.
  for (std::size_t at = 0; at < 512; at += 3) {
    std::string bad = whole;
    bad[at] = static_cast<char>(bad[at] ^ 0x55);
    (void)stage.admit(bad);
    CHECK(stage.rubbish() == 0);
  }
  CHECK(nothing_outside(stage));
}

TEST_CASE("malformed archives that were met before stay refused", "[code][archive]") {
  Stage stage;
  int replayed = 0;
  for (const fs::directory_entry& file : fs::directory_iterator(FAASKIT_CODE_CORPUS)) {
    INFO(file.path().filename().string());
    const absl::StatusOr<CodeId> id = stage.store->admit({CodeSource::Kind::archive, file.path().string()});
    CHECK_FALSE(id.ok());
    CHECK((id.status().code() == absl::StatusCode::kInvalidArgument ||
           id.status().code() == absl::StatusCode::kOutOfRange));
    CHECK(stage.rubbish() == 0);
    ++replayed;
  }
  CHECK(replayed >= 8);
  CHECK(nothing_outside(stage));
}

// -- What holds if a check above is forgotten

TEST_CASE("the kernel refuses what the names' check would let through", "[code][archive]") {
  Folder folder;
  fs::create_directory(folder / "tree");
  fs::create_directory(folder / "outside");
  fs::create_symlink("../outside", folder / "tree/link");
  const UniqueFd top(::open((folder / "tree").c_str(), O_RDONLY | O_DIRECTORY));
  TreeWriter out(top.get(), {}, 0);
  CHECK_FALSE(out.file("../outside/evil", false).ok());
  CHECK_FALSE(out.file("link/evil", false).ok());
  CHECK_FALSE(out.file((folder / "outside/evil").string(), false).ok());
  CHECK_FALSE(out.folder("../outside/evil").ok());
  CHECK_FALSE(out.folder("..").ok());
  CHECK(fs::is_empty(folder / "outside"));
  CHECK_FALSE(open_beneath(top.get(), "link", O_RDONLY));
  REQUIRE(out.file("inside", false).ok());
  CHECK(out.write("x", 1).ok());
}

TEST_CASE("the unpacking thread may write nothing of root's, and is itself again", "[code][archive]") {
  if (::geteuid() != 0) FAASKIT_SKIP("needs root: an ordinary user has nothing to give up");
  Folder folder;
  fs::create_directory(folder / "roots");
  fs::permissions(folder / "roots", fs::perms(0755));
  write_file(folder / "secret", "s", 0600);
  const auto may_write = [&] {
    const UniqueFd file(::open((folder / "roots/probe").c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
    const int err = errno;
    if (!file) CHECK(err == EACCES);
    return static_cast<bool>(file);
  };
  const auto may_read = [&] { return UniqueFd(::open((folder / "secret").c_str(), O_RDONLY)).get() >= 0; };
  const int dumpable = ::prctl(PR_GET_DUMPABLE);
  UnpackUser user;
  user.id = 65534;
  {
    Unprivileged nobody(user);
    INFO(nobody.status().ToString());
    REQUIRE(nobody.status().ok());
    CHECK_FALSE(may_write());
    CHECK_FALSE(may_read());
    CHECK(::chown((folder / "roots").c_str(), 65534, 65534) != 0);
    CHECK(::getgroups(0, nullptr) == 0);
    __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
    __user_cap_data_struct capabilities[2] = {};
    REQUIRE(::syscall(SYS_capget, &header, capabilities) == 0);
    CHECK((capabilities[0].effective | capabilities[1].effective) == 0);
    CHECK(::prctl(PR_GET_DUMPABLE) == dumpable);
    CHECK(nobody.restore().ok());
  }
  CHECK(may_write());
  CHECK(may_read());
  CHECK(::setfsuid(~0u) == 0);
  CHECK(::prctl(PR_GET_DUMPABLE) == dumpable);
}

TEST_CASE("a full disk is said, leaves nothing, and is over when there is room", "[code][archive]") {
  std::optional<Stage> made(std::in_place);
  Stage& stage = *made;
  stage.store.reset();
  if (::geteuid() != 0 ||
      ::mount("tmpfs", stage.options.root.c_str(), "tmpfs", 0, "size=1m,mode=0711") != 0) {
    made.reset();
    FAASKIT_SKIP("needs the right to mount a small tmpfs");
  }
  struct Unmount {
    std::string path;
    ~Unmount() { ::umount2(path.c_str(), MNT_DETACH); }
  } unmount{stage.options.root};
  stage.restart();
  const std::string half(500 << 10, 'x');
  for (int i = 0; i < 3; ++i) {
    CHECK_THAT(stage.refusal(Tar().file("a", half).file("b", half).file("c", half).bytes(),
                             absl::StatusCode::kResourceExhausted),
               ContainsSubstring("No space left on device"));
    CHECK(stage.store->stats().bytes == 0);
  }
  CHECK(stage.admit(Tar().file("a", std::string(100 << 10, 'x')).bytes()).ok());
  stage.store.reset();
}

}  // namespace faaskit::code
