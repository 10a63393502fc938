// What the demo's functions must answer, computed here by other means than theirs, so that both cannot be
// wrong in the same way.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <absl/status/status.h>
#include <absl/status/statusor.h>

namespace demo {

// The answer of wordstats.py, to the byte.
std::string expected_wordstats(std::string_view text);

// The answer of anagrams/index.js, to the byte.
std::string expected_anagrams(std::string_view text);

// A greyscale image, eight bits per pixel.
struct Image {
  std::size_t width = 0;
  std::size_t height = 0;
  std::string pixels;
};
// Reads a binary PGM. kInvalidArgument says what is wrong with it.
absl::StatusOr<Image> read_pgm(std::string_view file);

// OK if `answer` is `image` cut at a threshold, and no other threshold leaves less variance within the two
// classes. (Otsu's is usually computed as the greatest variance between them.)
absl::Status check_threshold(const Image& image, std::string_view answer);

// The known words of spell/main.py.
class Speller {
 public:
  static absl::StatusOr<Speller> load(const std::string& vocabulary_file);
  // The answer of spell/main.py, to the byte: compares each unknown word with each known one.
  std::string expected(std::string_view text) const;

 private:
  std::map<std::string, std::uint64_t> known_;
};

// `text` with every seventh word misspelt, each in one of three ways.
std::string misspell(std::string_view text);

}  // namespace demo
