#include "subjects.h"

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include <absl/strings/str_cat.h>

#include "checks.h"

namespace demo {
namespace {

constexpr std::size_t kMaxInputBytes = 5 << 20;  // a call carries 6 MiB by default
constexpr std::size_t kMaxSpellBytes = 16 << 10;

absl::Status same(std::string_view expected, std::string_view answer) {
  if (expected == answer) return absl::OkStatus();
  return absl::InternalError(
      absl::StrCat("expected ", std::string(expected), "\n  answered ", std::string(answer)));
}

absl::StatusOr<std::string> read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string content{std::istreambuf_iterator<char>(file), {}};
  if (!file) return absl::NotFoundError(absl::StrCat("cannot read ", path, ": ", std::strerror(errno)));
  if (content.size() > kMaxInputBytes)
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has ", content.size(), " bytes, the limit is ", kMaxInputBytes));
  return content;
}

Subject make(const char* name, const char* runtime, const char* handler) {
  Subject subject;
  subject.function.name = subject.report.name = name;
  subject.function.runtime = runtime;
  subject.function.handler = handler;
  subject.function.code_path = functions_folder() + "/" + name;
  return subject;
}

}  // namespace

std::string program_folder() {
  std::error_code ignored;
  return std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path().string();
}
std::string functions_folder() { return program_folder() + "/faaskit_demo.files/functions"; }

absl::StatusOr<std::vector<Subject>> make_subjects(const std::string& input) {
  const std::string data = program_folder() + "/faaskit_demo.files/data";
  absl::StatusOr<std::string> text = read_file(data + "/LICENSE");
  absl::StatusOr<std::string> picture = read_file(data + "/blobs.pgm");
  if (!input.empty()) {
    absl::StatusOr<std::string> own = read_file(input);
    if (!own.ok()) return own.status();
    (own->starts_with("P5") ? picture : text) = *std::move(own);
  }
  if (!text.ok()) return text.status();
  if (!picture.ok()) return picture.status();
  absl::StatusOr<Image> image = read_pgm(*picture);
  if (!image.ok()) return image.status();
  absl::StatusOr<Speller> speller = Speller::load(functions_folder() + "/spell/vocabulary.txt");
  if (!speller.ok()) return speller.status();

  std::vector<Subject> subjects;
  subjects.push_back(make("wordstats", "python3", "wordstats:handler"));
  subjects.back().payload = *text;
  subjects.back().check = [expected = expected_wordstats(*text)](std::string_view, std::string_view answer) {
    return same(expected, answer);
  };
  subjects.push_back(make("anagrams", "node", "index:handler"));
  subjects.back().payload = *text;
  subjects.back().check = [expected = expected_anagrams(*text)](std::string_view, std::string_view answer) {
    return same(expected, answer);
  };
  subjects.push_back(make("threshold", "exec", "threshold"));
  subjects.back().payload = *std::move(picture);
  subjects.back().check = [image = *std::move(image)](std::string_view, std::string_view answer) {
    return check_threshold(image, answer);
  };
  subjects.push_back(make("spell", "python3", "main:handler"));
  subjects.back().function.caps.max_sandboxes = kMaxSandboxes;
  // A large document is for the counting; comparing each of its words with all others would take us too long.
  subjects.back().payload = misspell(std::string_view(*text).substr(0, kMaxSpellBytes));
  subjects.back().check = [speller = *std::move(speller)](std::string_view payload, std::string_view answer) {
    return same(speller.expected(payload), answer);
  };
  return subjects;
}

}  // namespace demo
