// A log on disk that somebody wrote into: its pages, put together, are its whole lines, whatever the page
// size.
#include <fcntl.h>
#include <unistd.h>

#include <absl/status/status.h>

#include "folder.h"
#include "input.h"
#include "json/json.h"
#include "sinks/log_reader.h"
#include "sinks/text.h"

namespace {

using faaskit::UniqueFd;

class Logs {
 public:
  ~Logs() {
    for (const char* name : kNames) ::unlinkat(folder_.fd(), name, 0);
  }
  int fd() const { return folder_.fd(); }
  void write(int number, std::string_view text) {
    const UniqueFd file(
        ::openat(folder_.fd(), kNames[number], O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
    FUZZ_CHECK(file && ::write(file.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size()));
  }

 private:
  static constexpr const char* kNames[] = {"f.log", "f.log.1"};
  faaskit::fuzz::Folder folder_;
};

std::string whole_lines(std::string_view text) {
  return std::string(text.substr(0, text.rfind('\n') == std::string_view::npos ? 0 : text.rfind('\n') + 1));
}

void check_text(std::string_view text) {
  std::string escaped;
  faaskit::sinks::append_escaped(escaped, text);
  for (const char c : escaped) FUZZ_CHECK(c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f));
  FUZZ_CHECK(faaskit::sinks::unescaped(escaped) == text);
  std::string quoted;
  faaskit::sinks::append_json_string(quoted, text);
  FUZZ_CHECK(faaskit::json::parse("it", quoted).ok());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  faaskit::fuzz::Input in(data, size);
  const std::uint8_t how = in.byte();
  const std::size_t page_bytes = in.two() + 1u;
  if (how % 4 == 0) {
    check_text(in.rest());
    return 0;
  }
  static Logs folder;
  faaskit::sinks::LogQuery query{.function = "f", .request = std::nullopt, .max_bytes = page_bytes};
  if (how % 4 == 1) {
    query.request = faaskit::RequestId{.invoker = in.byte(), .sequence = in.byte()};
    query.before = in.take(in.byte());
  }
  // Two generations of different beginnings: files that begin alike may pass for one.
  const std::string older = "older\n" + std::string(in.take(in.two()));
  const std::string newer = "newer\n" + std::string(in.rest());
  folder.write(1, older);
  folder.write(0, newer);
  if (how % 4 == 1) {
    const auto page = faaskit::sinks::read_log(folder.fd(), 2, query);
    FUZZ_CHECK(page.ok() || absl::IsInvalidArgument(page.status()));
    if (page.ok()) FUZZ_CHECK(page->text.empty() || page->text.back() == '\n');
    return 0;
  }
  std::string all;
  std::size_t pages = 0;
  do {
    const auto page = faaskit::sinks::read_log(folder.fd(), 2, query);
    FUZZ_CHECK(page.ok());
    FUZZ_CHECK(page->text.size() <= page_bytes || page->text.find('\n') == page->text.size() - 1);
    FUZZ_CHECK(page->before.empty() || !page->text.empty());
    all = page->text + all;
    query.before = page->before;
    FUZZ_CHECK(++pages <= size + 10);
  } while (!query.before.empty() && pages < 200);
  if (query.before.empty()) FUZZ_CHECK(all == whole_lines(older) + whole_lines(newer));
  return 0;
}
