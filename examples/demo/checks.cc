#include "checks.h"

#include <algorithm>
#include <array>
#include <cctype>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <sstream>
#include <utility>

#include <absl/strings/str_cat.h>

namespace demo {
namespace {

bool is_letter(char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); }

template <class Visit>
void for_each_word(std::string_view text, Visit visit) {
  std::string word;
  for (const char c : text) {
    if (is_letter(c)) {
      word.push_back(static_cast<char>(c | 0x20));
    } else if (!word.empty()) {
      visit(std::exchange(word, {}));
    }
  }
  if (!word.empty()) visit(std::move(word));
}

// What is left of two words without the letters they share at both ends.
std::pair<std::string_view, std::string_view> differing(std::string_view a, std::string_view b) {
  while (!a.empty() && !b.empty() && a.front() == b.front()) {
    a.remove_prefix(1);
    b.remove_prefix(1);
  }
  while (!a.empty() && !b.empty() && a.back() == b.back()) {
    a.remove_suffix(1);
    b.remove_suffix(1);
  }
  return {a, b};
}

// A letter too many, too few, another one, or two neighbours swapped.
bool one_edit_apart(std::string_view a, std::string_view b) {
  const auto [x, y] = differing(a, b);
  if (x.size() == 2 && y.size() == 2) return x[0] == y[1] && x[1] == y[0];
  return x.size() <= 1 && y.size() <= 1;
}

// Whether at most `edits` insertions, deletions and replacements make `b` of `a`.
bool within(std::string_view a, std::string_view b, int edits) {
  const auto [x, y] = differing(a, b);
  if (x.empty() || y.empty()) return std::max(x.size(), y.size()) <= static_cast<std::size_t>(edits);
  if (edits == 0) return false;
  return within(x.substr(1), y, edits - 1) || within(x, y.substr(1), edits - 1) ||
         within(x.substr(1), y.substr(1), edits - 1);
}

// The mean squared distance of the pixels of one class from their mean, times their number.
double scatter(const std::array<std::uint64_t, 256>& histogram, int from, int to) {
  double count = 0, sum = 0, result = 0;
  for (int level = from; level < to; ++level) {
    count += static_cast<double>(histogram[level]);
    sum += static_cast<double>(histogram[level]) * level;
  }
  if (count == 0) return 0;
  for (int level = from; level < to; ++level) {
    const double off = level - sum / count;
    result += static_cast<double>(histogram[level]) * off * off;
  }
  return result;
}

}  // namespace

std::string expected_anagrams(std::string_view text) {
  std::set<std::string> words;
  for_each_word(text, [&](std::string word) {
    if (word.size() >= 3) words.insert(std::move(word));
  });
  std::map<std::array<int, 26>, std::vector<std::string>> groups;
  for (const std::string& word : words) {
    std::array<int, 26> letters{};
    for (const char c : word) ++letters[static_cast<std::size_t>(c - 'a')];
    groups[letters].push_back(word);
  }
  std::set<std::vector<std::string>> found;  // by their first words
  for (auto& [letters, group] : groups)
    if (group.size() > 1) found.insert(std::move(group));
  std::string json = "{\"groups\":[";
  for (const std::vector<std::string>& group : found) {
    absl::StrAppend(&json, json.back() == '[' ? "" : ",");
    for (std::size_t i = 0; i < group.size(); ++i)
      absl::StrAppend(&json, i == 0 ? "[" : ",", "\"", group[i], "\"");
    absl::StrAppend(&json, "]");
  }
  return absl::StrCat(json, "]}");
}

std::string expected_wordstats(std::string_view text) {
  std::map<std::string, std::uint64_t> counts;
  std::uint64_t words = 0;
  for_each_word(text, [&](std::string word) {
    ++counts[std::move(word)];
    ++words;
  });
  std::string longest;
  std::vector<std::pair<std::string, std::uint64_t>> ranked;
  for (const auto& [word, count] : counts) {
    if (word.size() > longest.size()) longest = word;
    ranked.emplace_back(word, count);
  }
  std::sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  if (ranked.size() > 10) ranked.resize(10);
  std::uint64_t lines = static_cast<std::uint64_t>(std::count(text.begin(), text.end(), '\n'));
  if (!text.empty() && text.back() != '\n') ++lines;

  std::string json =
      absl::StrCat("{\"lines\": ", lines, ", \"words\": ", words, ", \"distinct\": ", counts.size(),
                   ", \"longest\": \"", longest, "\", \"top\": [");
  const char* separator = "";
  for (const auto& [word, count] : ranked) {
    absl::StrAppend(&json, separator, "[\"", word, "\", ", count, "]");
    separator = ", ";
  }
  return json + "]}";
}

absl::StatusOr<Image> read_pgm(std::string_view file) {
  std::istringstream in{std::string(file)};
  std::array<std::string, 4> header;
  for (std::string& word : header) {
    while ((in >> word) && word.front() == '#') {
      std::string comment;
      std::getline(in, comment);
    }
  }
  if (!in || header[0] != "P5") return absl::InvalidArgumentError("not a binary PGM image (P5)");
  Image image;
  std::uint64_t white = 0;
  std::istringstream numbers(header[1] + " " + header[2] + " " + header[3]);
  numbers >> image.width >> image.height >> white;
  if (!numbers || image.width == 0 || image.height == 0 || image.width > file.size() ||
      image.height > file.size())
    return absl::InvalidArgumentError("the image's size is out of bounds");
  if (white == 0 || white > 255) return absl::InvalidArgumentError("only images of 8 bits per pixel");
  in.get();
  image.pixels.resize(image.width * image.height);
  in.read(image.pixels.data(), static_cast<std::streamsize>(image.pixels.size()));
  if (!in)
    return absl::InvalidArgumentError(absl::StrCat("pixels are missing: ", image.pixels.size(), " expected"));
  return image;
}

absl::Status check_threshold(const Image& image, std::string_view answer) {
  const absl::StatusOr<Image> cut = read_pgm(answer);
  if (!cut.ok()) return cut.status();
  if (cut->width != image.width || cut->height != image.height)
    return absl::InternalError("the size has changed");
  int brightest_black = -1, darkest_white = 256;
  std::array<std::uint64_t, 256> histogram{};
  for (std::size_t i = 0; i < image.pixels.size(); ++i) {
    const int before = static_cast<unsigned char>(image.pixels[i]);
    const int after = static_cast<unsigned char>(cut->pixels[i]);
    ++histogram[before];
    if (after == 0) {
      brightest_black = std::max(brightest_black, before);
    } else if (after == 255) {
      darkest_white = std::min(darkest_white, before);
    } else {
      return absl::InternalError(absl::StrCat("a pixel is neither black nor white: ", after));
    }
  }
  if (brightest_black >= darkest_white) return absl::InternalError("not cut at one threshold");
  const auto within_classes = [&](int white_from) {
    return scatter(histogram, 0, white_from) + scatter(histogram, white_from, 256);
  };
  double least = std::numeric_limits<double>::max();
  for (int white_from = 1; white_from < 256; ++white_from)
    least = std::min(least, within_classes(white_from));
  // Both sides are sums of rounded numbers.
  if (within_classes(brightest_black + 1) > least * (1 + 1e-9) + 1e-6)
    return absl::InternalError(absl::StrCat("cut above ", brightest_black, ", another threshold is better"));
  return absl::OkStatus();
}

absl::StatusOr<Speller> Speller::load(const std::string& vocabulary_file) {
  std::ifstream lines(vocabulary_file);
  Speller speller;
  std::string word;
  std::uint64_t count = 0;
  while (lines >> word >> count) speller.known_[word] = count;
  if (speller.known_.empty()) return absl::NotFoundError(absl::StrCat("no words in ", vocabulary_file));
  return speller;
}

std::string Speller::expected(std::string_view text) const {
  std::set<std::string> unknown;
  std::uint64_t words = 0;
  for_each_word(text, [&](std::string word) {
    ++words;
    if (!known_.contains(word)) unknown.insert(std::move(word));
  });
  std::string json = absl::StrCat("{\"words\": ", words, ", \"fixes\": {");
  const char* separator = "";
  for (const std::string& word : unknown) {
    std::optional<std::pair<std::string, std::uint64_t>> best;
    for (const auto& [candidate, count] : known_)
      if ((!best || count > best->second) && one_edit_apart(word, candidate)) best.emplace(candidate, count);
    absl::StrAppend(&json, separator, "\"", word, "\": [");
    separator = ", ";
    if (best) {
      absl::StrAppend(&json, "\"", best->first, "\"");
      for (const auto& [other, count] : known_)
        if (other != best->first && within(best->first, other, 2))
          absl::StrAppend(&json, ", \"", other, "\"");
    }
    json += "]";
  }
  return json + "}}";
}

std::string misspell(std::string_view text) {
  std::string result;
  std::size_t words = 0;
  for (std::size_t i = 0; i < text.size();) {
    if (!is_letter(text[i])) {
      result.push_back(text[i++]);
      continue;
    }
    std::size_t end = i;
    while (end < text.size() && is_letter(text[end])) ++end;
    std::string word(text.substr(i, end - i));
    if (++words % 7 == 0 && word.size() > 3) {
      const std::size_t middle = word.size() / 2;
      switch (words / 7 % 3) {
        case 0: std::swap(word[middle - 1], word[middle]); break;
        case 1: word.erase(middle, 1); break;
        default: word.insert(middle, 1, word[middle]); break;
      }
    }
    result += word;
    i = end;
  }
  return result;
}

}  // namespace demo
