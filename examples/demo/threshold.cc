// A function in C++: a grey image (binary PGM) in, the same in black and white out.
//
// The threshold is Otsu's: the one that makes the two classes differ most (N. Otsu, 1979).
#include <array>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>

#include "faaskit/worker/worker.h"

namespace {

// The next word of the header; comments run from # to the end of the line.
std::string_view next_word(std::string_view& text) {
  for (;;) {
    const std::size_t begin = text.find_first_not_of(" \t\r\n");
    if (begin == std::string_view::npos) throw std::invalid_argument("the header of the image ends early");
    text.remove_prefix(begin);
    if (text.front() != '#') break;
    text.remove_prefix(std::min(text.find('\n'), text.size()));
  }
  const std::string_view word = text.substr(0, text.find_first_of(" \t\r\n"));
  text.remove_prefix(word.size());
  return word;
}

std::size_t next_number(std::string_view& text) {
  const std::string_view word = next_word(text);
  std::size_t value = 0;
  if (std::from_chars(word.data(), word.data() + word.size(), value).ptr != word.data() + word.size())
    throw std::invalid_argument("not a number: " + std::string(word));
  return value;
}

int otsu(std::string_view pixels) {
  std::array<std::uint64_t, 256> histogram{};
  double sum = 0;
  for (const unsigned char pixel : pixels) {
    ++histogram[pixel];
    sum += pixel;
  }
  double best = -1, dark = 0, dark_sum = 0;
  int threshold = 0;
  for (int level = 0; level < 256; ++level) {
    dark += static_cast<double>(histogram[level]);
    dark_sum += static_cast<double>(histogram[level]) * level;
    const double bright = static_cast<double>(pixels.size()) - dark;
    if (dark == 0 || bright == 0) continue;
    const double gap = dark_sum / dark - (sum - dark_sum) / bright;
    const double between = dark * bright * gap * gap;
    if (between > best) {
      best = between;
      threshold = level;
    }
  }
  return threshold;
}

faaskit::worker::Response threshold(const faaskit::worker::Request& request) {
  std::string_view image = request.text();
  if (next_word(image) != "P5") throw std::invalid_argument("not a binary PGM image");
  const std::size_t width = next_number(image);
  const std::size_t height = next_number(image);
  if (const std::size_t white = next_number(image); white == 0 || white > 255)
    throw std::invalid_argument("only images of 8 bits per pixel");
  if (!image.empty()) image.remove_prefix(1);  // exactly one space before the pixels
  if (width == 0 || image.size() / width < height) throw std::invalid_argument("pixels are missing");

  const std::string_view pixels = image.substr(0, width * height);
  const int limit = otsu(pixels);
  faaskit::worker::Response response{
      .payload = "P5\n" + std::to_string(width) + " " + std::to_string(height) + "\n255\n",
      .content_type = "image/x-portable-graymap"};
  response.payload.reserve(response.payload.size() + pixels.size());
  for (const unsigned char pixel : pixels) response.payload.push_back(pixel > limit ? '\xff' : '\0');
  return response;
}

}  // namespace

int main() { return faaskit::worker::run(threshold); }
