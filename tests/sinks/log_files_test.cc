// If these failed: a slow disk would hold up calls, or what a function printed would be somebody else's.
#include "sinks/log_files.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <random>
#include <regex>
#include <thread>

#include <boost/asio/io_context.hpp>

#include "sinks/text.h"
#include "stage.h"

namespace faaskit::sinks {
namespace {

using absl::StatusCode;

std::unique_ptr<LogFileSink> open(LogFileOptions options) {
  auto sink = make_log_file_sink(std::move(options));
  INFO(sink.status().message());
  REQUIRE(sink.ok());
  return *std::move(sink);
}

TEST_CASE("lines tell when, which sandbox, which request, and whose words", "[sinks][logs]") {
  Folder folder;
  asio::thread_pool pool(1);
  auto sink = open({.folder = folder.path() + "/logs", .blocking = pool.get_executor()});
  sink->write(log("f", 7, "one\ntwo\n\nno end"));
  sink->write(log("f", 8, " | rq-2a-7 ! [9 bytes lost]\n\x1b[31m\\\n"));
  LogRecord late = log("f", 0, "late\n");
  late.lost_bytes = 5;
  sink->write(late);
  late.bytes.clear();
  late.bound = LogBound::second;
  sink->write(late);
  REQUIRE(sink->flush(20s).ok());
  const std::vector<std::string> lines = lines_of(text_of(folder.path() + "/logs/f.log"));
  REQUIRE(lines.size() == 9);
  const std::regex form(R"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z sb-1f-3 (rq-2a-\d|-) [|+!] .*)");
  for (const std::string& line : lines) CHECK(std::regex_match(line, form));
  const auto rest = [&](std::size_t i) { return lines[i].substr(25); };
  CHECK(rest(0) == "sb-1f-3 rq-2a-7 | one");
  CHECK(rest(1) == "sb-1f-3 rq-2a-7 | two");
  CHECK(rest(2) == "sb-1f-3 rq-2a-7 | ");
  CHECK(rest(3) == "sb-1f-3 rq-2a-7 + no end");
  CHECK(rest(4) == "sb-1f-3 rq-2a-8 |  | rq-2a-7 ! [9 bytes lost]");
  CHECK(rest(5) == "sb-1f-3 rq-2a-8 | \\x1b[31m\\x5c");
  CHECK(rest(6) == "sb-1f-3 - | late");
  CHECK(rest(7) == "sb-1f-3 - ! [5 bytes lost: more than one invocation may write]");
  CHECK(rest(8) == "sb-1f-3 - ! [5 bytes lost: more than a sandbox may write in a second]");
  CHECK(sink->stats().lost_bytes == 0);
  struct stat info{};
  REQUIRE(::stat((folder.path() + "/logs").c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0700);
  REQUIRE(::stat((folder.path() + "/logs/f.log").c_str(), &info) == 0);
  CHECK((info.st_mode & 07777) == 0600);
}

TEST_CASE("any bytes of several requests, cut anywhere, come back whole and to the right one",
          "[sinks][logs]") {
  Folder folder;
  asio::thread_pool pool(2);
  auto sink = open({.folder = folder.path(), .blocking = pool.get_executor()});
  std::mt19937 random(3);
  std::map<std::uint64_t, std::string> said;
  for (int i = 0; i < 300; ++i) {
    const std::uint64_t request = 1 + random() % 3;
    std::string bytes(i == 7 ? 40'000 : random() % 200, '\0');
    for (char& c : bytes) c = random() % 4 == 0 ? '\n' : static_cast<char>(random());
    if (i == 7) std::replace(bytes.begin(), bytes.end(), '\n', '\xbf');
    said[request] += bytes;
    sink->write(log("f", request, bytes));
  }
  REQUIRE(sink->flush(20s).ok());
  for (const auto& [request, bytes] : said) {
    const auto page =
        sink->read({.function = "f", .request = RequestId{0x2a, request}, .max_bytes = 1 << 24});
    REQUIRE(page.ok());
    CHECK(page->before.empty());
    std::string back;
    for (const std::string& line : lines_of(page->text)) {
      const std::size_t mark = line.find(' ', line.find("rq-")) + 1;
      back += unescaped(std::string_view(line).substr(mark + 2));
      if (line[mark] == '|') back += '\n';
    }
    CHECK(back == bytes);
  }
}

TEST_CASE("a blocked disk holds up nobody; losses are counted, and said when it works again",
          "[sinks][logs]") {
  Folder folder;
  auto disk = std::make_shared<FakeDisk>();
  asio::thread_pool pool(1);
  Unblock unblock(disk);
  auto made = make_log_file_sink(
      {.folder = folder.path(), .blocking = pool.get_executor(), .queue_bytes = 1 << 20}, disk);
  REQUIRE(made.ok());
  auto sink = *std::move(made);
  disk->block(true);
  sink->write(log("loud", 1, "first\n"));
  REQUIRE(disk->wait_until_stuck());
  // Were write() to wait for the disk, this would never end.
  std::uint64_t written = 6;
  for (int i = 0; i < 2000; ++i) {
    sink->write(log("loud", 1, std::string(999, 'x') + "\n"));
    written += 1000;
  }
  const LogFileStats stats = sink->stats();
  CHECK(stats.queued_bytes <= 1 << 20);
  CHECK(stats.lost_bytes > 1'000'000);
  // One that floods leaves room for others.
  sink->write(log("quiet", 2, std::string(100'000, 'y') + "\n" + "heard\n"));
  CHECK(sink->stats().lost_bytes == stats.lost_bytes);
  const absl::Status late = sink->flush(1ms);
  CHECK(late.code() == StatusCode::kDeadlineExceeded);
  disk->block(false);
  REQUIRE(sink->flush(20s).ok());
  CHECK_THAT(disk->text("quiet.log"), ContainsSubstring("| heard"));
  const std::string loud = disk->text("loud.log");
  CHECK_THAT(loud,
             ContainsSubstring(" - - ! [" + std::to_string(stats.lost_bytes) + " bytes lost: the disk"));
  const auto lines = lines_of(loud);
  CHECK(sink->stats().written_bytes == written + 100'007 - stats.lost_bytes);
  CHECK(lines.size() == 2 + (written - stats.lost_bytes - 6) / 1000);
}

TEST_CASE("what a failing disk did not take is counted, and said when it works again", "[sinks][logs]") {
  Folder folder;
  auto disk = std::make_shared<FakeDisk>();
  asio::thread_pool pool(1);
  auto sink = *make_log_file_sink({.folder = folder.path(), .blocking = pool.get_executor()}, disk);
  disk->fail(true);
  sink->write(log("f", 1, "lost\n"));
  LogRecord cut = log("f", 1, "also\n");
  cut.lost_bytes = 100;
  sink->write(cut);
  REQUIRE(sink->flush(20s).ok());
  CHECK(sink->stats().lost_bytes == 10);
  CHECK(sink->stats().write_errors >= 2);
  CHECK(sink->stats().last_error == "injected: the disk is full");
  disk->fail(false);
  SECTION("with the next record of anybody") {
    sink->write(log("g", 1, "works\n"));
    REQUIRE(sink->flush(20s).ok());
  }
  SECTION("or when somebody waits for it") { REQUIRE(sink->flush(20s).ok()); }
  // The bytes that the host had lost before are not forgotten with the record.
  CHECK_THAT(disk->text("f.log"), ContainsSubstring("! [110 bytes lost: the disk failed"));
  CHECK(lines_of(disk->text("f.log")).size() == 1);
  CHECK(sink->stats().lost_bytes == 10);
}

TEST_CASE("files are rotated by size, and the oldest go", "[sinks][logs]") {
  Folder folder;
  asio::thread_pool pool(1);
  auto sink = open(
      {.folder = folder.path(), .blocking = pool.get_executor(), .max_file_bytes = 1000, .max_files = 3});
  for (int i = 0; i < 100; ++i) sink->write(log("f", 1, "line " + std::to_string(i) + "\n"));
  REQUIRE(sink->flush(20s).ok());
  const std::string all = text_of(folder.path() + "/f.log.2") + text_of(folder.path() + "/f.log.1") +
                          text_of(folder.path() + "/f.log");
  CHECK_FALSE(std::filesystem::exists(folder.path() + "/f.log.3"));
  for (const char* file : {"/f.log.1", "/f.log.2"}) {
    const auto size = std::filesystem::file_size(folder.path() + file);
    CHECK(size >= 1000);
    CHECK(size < 1100);
  }
  const auto lines = lines_of(all);
  for (std::size_t i = 0; i < lines.size(); ++i)
    CHECK_THAT(lines[i], ContainsSubstring("| line " + std::to_string(100 - lines.size() + i)));

  // The same, page by page from the end.
  std::string pages;
  std::string before;
  int count = 0;
  do {
    const auto page = sink->read({.function = "f", .max_bytes = 300, .before = before});
    REQUIRE(page.ok());
    CHECK(page->text.size() <= 300);
    pages = page->text + pages;
    before = page->before;
    REQUIRE(++count < 100);
  } while (!before.empty());
  CHECK(pages == all);
  CHECK(sink->read({.function = "f", .request = RequestId{0x2a, 9}})->text.empty());

  REQUIRE(sink->remove("f").ok());
  CHECK(std::filesystem::is_empty(folder.path()));
  CHECK(sink->read({.function = "f"}).status().code() == StatusCode::kNotFound);
  sink->write(log("f", 1, "anew\n"));
  REQUIRE(sink->flush(20s).ok());
  CHECK_THAT(sink->read({.function = "f"})->text, ContainsSubstring("| anew\n"));
}

TEST_CASE("a page goes on where it was, though files were rotated in between", "[sinks][logs]") {
  Folder folder;
  asio::thread_pool pool(1);
  auto sink =
      open({.folder = folder.path(), .blocking = pool.get_executor(), .max_file_bytes = 400, .max_files = 4});
  for (int i = 0; i < 10; ++i) sink->write(log("f", 1, "old " + std::to_string(i) + "\n"));
  REQUIRE(sink->flush(20s).ok());
  const auto first = sink->read({.function = "f", .max_bytes = 100});
  REQUIRE(first.ok());
  CHECK_THAT(first->text, ContainsSubstring("old 9"));
  for (int i = 0; i < 9; ++i) sink->write(log("f", 1, "new " + std::to_string(i) + "\n"));
  REQUIRE(sink->flush(20s).ok());
  const auto second = sink->read({.function = "f", .max_bytes = 100, .before = first->before});
  REQUIRE(second.ok());
  CHECK_THAT(second->text,
             ContainsSubstring("old 7") && !ContainsSubstring("new") && !ContainsSubstring("old 9"));
  for (int i = 0; i < 60; ++i) sink->write(log("f", 1, "newer " + std::to_string(i) + "\n"));
  REQUIRE(sink->flush(20s).ok());
  const auto gone = sink->read({.function = "f", .max_bytes = 100, .before = second->before});
  REQUIRE(gone.ok());
  CHECK(gone->text.empty());
  CHECK(gone->before.empty());
}

TEST_CASE("what cannot be read is refused by name", "[sinks][logs]") {
  Folder folder;
  asio::thread_pool pool(1);
  auto sink = open({.folder = folder.path(), .blocking = pool.get_executor()});
  CHECK(sink->read({.function = "none"}).status().code() == StatusCode::kNotFound);
  CHECK(sink->read({.function = "../x"}).status().code() == StatusCode::kInvalidArgument);
  CHECK(sink->remove("../x").code() == StatusCode::kInvalidArgument);
  CHECK(sink->read({.function = "f", .max_bytes = 0}).status().code() == StatusCode::kInvalidArgument);
  CHECK(sink->read({.function = "f", .max_bytes = std::size_t{1} << 30}).status().code() ==
        StatusCode::kInvalidArgument);
  for (const char* wrong :
       {"x", "1", "-", "1-", "-1", "1-2", "1-2-3-4", "1--2", "99999999999999999999999-1-1"})
    CHECK(sink->read({.function = "f", .before = wrong}).status().code() == StatusCode::kInvalidArgument);
  sink->write(log("../x", 1, "nowhere"));
  REQUIRE(sink->flush(20s).ok());
  CHECK(sink->stats().lost_bytes == 7);
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("half a line that a crash left is ended, and links and pipes are not written", "[sinks][logs]") {
  Folder folder;
  asio::thread_pool pool(1);
  std::ofstream(folder.path() + "/f.log") << "half a li";
  std::ofstream(folder.path() + "/target") << "";
  std::filesystem::create_symlink(folder.path() + "/target", folder.path() + "/link.log");
  REQUIRE(::mkfifo((folder.path() + "/pipe.log").c_str(), 0600) == 0);
  auto sink = open({.folder = folder.path(), .blocking = pool.get_executor()});
  for (const char* name : {"f", "link", "pipe"}) sink->write(log(name, 1, "whole\n"));
  REQUIRE(sink->flush(20s).ok());
  const auto lines = lines_of(text_of(folder.path() + "/f.log"));
  REQUIRE(lines.size() == 2);
  CHECK(lines[0] == "half a li");
  CHECK(text_of(folder.path() + "/target").empty());
  CHECK(sink->stats().lost_bytes == 12);
  CHECK(sink->stats().written_bytes == 6);
}

TEST_CASE("more functions than open files, all are written", "[sinks][logs]") {
  Folder folder;
  asio::thread_pool pool(1);
  auto sink = open({.folder = folder.path(), .blocking = pool.get_executor(), .max_open_files = 2});
  for (int round = 0; round < 3; ++round)
    for (int i = 0; i < 10; ++i) sink->write(log("f" + std::to_string(i), 1, "x\n"));
  REQUIRE(sink->flush(20s).ok());
  for (int i = 0; i < 10; ++i)
    CHECK(lines_of(text_of(folder.path() + "/f" + std::to_string(i) + ".log")).size() == 3);
}

TEST_CASE("a wait on the executor's only thread writes by itself", "[sinks][logs]") {
  Folder folder;
  asio::io_context loop;  // nobody runs it
  auto sink = open({.folder = folder.path(), .blocking = loop.get_executor()});
  sink->write(log("f", 1, "x\n"));
  CHECK(text_of(folder.path() + "/f.log").empty());
  REQUIRE(sink->flush(20s).ok());
  CHECK(lines_of(text_of(folder.path() + "/f.log")).size() == 1);
  // The job that was posted finds nothing left to do, and the next is posted again.
  loop.run();
  loop.restart();
  sink->write(log("f", 1, "y\n"));
  loop.run();
  CHECK(lines_of(text_of(folder.path() + "/f.log")).size() == 2);
  // More than one job's worth.
  for (int i = 0; i < 8; ++i)
    sink->write(log("g", 1, std::string(100, 'z') + "\n" + std::string(100'000, 'z')));
  loop.restart();
  loop.run();
  CHECK(sink->stats().queued_bytes == 0);
  CHECK(sink->stats().written_bytes == 4 + 8 * 100'101);
}

TEST_CASE("closed, it writes what it has and takes nothing more; destroyed, it does not wait",
          "[sinks][logs]") {
  Folder folder;
  asio::io_context loop;
  auto sink = open({.folder = folder.path(), .blocking = loop.get_executor()});
  sink->write(log("f", 1, "before\n"));
  REQUIRE(sink->close(20s).ok());
  sink->write(log("f", 1, "after\n"));
  CHECK(sink->stats().lost_bytes == 6);
  CHECK(sink->flush(20s).ok());
  CHECK(lines_of(text_of(folder.path() + "/f.log")).size() == 1);
  sink = open({.folder = folder.path(), .blocking = loop.get_executor()});
  sink->write(log("f", 1, "queued\n"));
  sink.reset();
  loop.restart();
  loop.run();
  CHECK_THAT(text_of(folder.path() + "/f.log"), ContainsSubstring("queued"));
}

TEST_CASE("many threads write at once and nothing is lost or mixed", "[sinks][logs]") {
  Folder folder;
  asio::thread_pool pool(2);
  auto sink = open({.folder = folder.path(), .blocking = pool.get_executor(), .max_file_bytes = 1 << 24});
  {
    std::vector<std::jthread> threads;
    for (std::uint64_t thread = 1; thread <= 4; ++thread) {
      threads.emplace_back([&, thread] {
        for (int i = 0; i < 500; ++i) {
          sink->write(log("f", thread, std::to_string(thread) + ":" + std::to_string(i) + "\n"));
          if (i % 100 == 0) (void)sink->read({.function = "f"});
        }
        (void)sink->flush(20s);
      });
    }
  }
  CHECK(sink->stats().lost_bytes == 0);
  for (std::uint64_t thread = 1; thread <= 4; ++thread) {
    const auto page = sink->read({.function = "f", .request = RequestId{0x2a, thread}, .max_bytes = 1 << 24});
    REQUIRE(page.ok());
    const auto lines = lines_of(page->text);
    REQUIRE(lines.size() == 500);
    for (std::size_t i = 0; i < lines.size(); ++i)
      CHECK_THAT(lines[i],
                 Catch::Matchers::EndsWith("| " + std::to_string(thread) + ":" + std::to_string(i)));
  }
}

TEST_CASE("wrong options of the logs are refused by name", "[sinks][logs]") {
  Folder folder;
  asio::thread_pool pool(1);
  const auto refused = [&](auto change) {
    LogFileOptions options{.folder = folder.path(), .blocking = pool.get_executor()};
    change(options);
    const absl::Status status = make_log_file_sink(options).status();
    CHECK(status.code() == StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  CHECK_THAT(refused([](auto& o) { o.folder.clear(); }), ContainsSubstring("folder"));
  CHECK_THAT(refused([](auto& o) { o.blocking = {}; }), ContainsSubstring("blocking"));
  CHECK_THAT(refused([](auto& o) { o.max_files = 0; }), ContainsSubstring("max_files"));
  CHECK_THAT(refused([](auto& o) { o.max_file_bytes = 0; }), ContainsSubstring("max_file_bytes"));
  CHECK_THAT(refused([](auto& o) { o.queue_bytes = 10; }), ContainsSubstring("queue_bytes"));
  CHECK_THAT(refused([](auto& o) { o.max_open_files = 0; }), ContainsSubstring("max_open_files"));
  CHECK(make_log_file_sink({.folder = "/nonexistent/a/b", .blocking = pool.get_executor()}).status().code() ==
        StatusCode::kNotFound);
}

}  // namespace
}  // namespace faaskit::sinks
