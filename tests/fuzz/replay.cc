// replay CORPUS MUTATIONS: runs a fuzz target over every file of a folder, and over so many mutations of
// them, the same ones in every run. No fuzzer is needed: any compiler builds it, and every test run runs it.
// An input that fails is left in the working folder, as TARGET-crash.
#include <fcntl.h>
#include <unistd.h>
#include <csignal>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

#include "input.h"

namespace {

using Bytes = std::vector<std::uint8_t>;
constexpr std::uint64_t kSeed = 20240229;
constexpr std::size_t kMost = 64 << 10;

std::string target;
std::string running;  // what is run, for the report
const Bytes* input = nullptr;

extern "C" void report(int signal) {
  const auto say = [](std::string_view text) {
    [[maybe_unused]] const auto written = ::write(STDERR_FILENO, text.data(), text.size());
  };
  say("failed with ");
  say(running);
  say("\nleft in ");
  say(target);
  say("\n");
  const int fd = ::open(target.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (input != nullptr) [[maybe_unused]]
    const auto written = ::write(fd, input->data(), input->size());
  ::signal(signal, SIG_DFL);
  ::raise(signal);
}

void run(const Bytes& bytes, std::string name) {
  running = std::move(name);
  input = &bytes;
  // In a block of just its size.
  const Bytes exact(bytes.begin(), bytes.end());
  LLVMFuzzerTestOneInput(exact.data(), exact.size());
  input = nullptr;
}

void mutate(Bytes& bytes, const std::vector<Bytes>& all, std::mt19937_64& random) {
  const auto below = [&](std::size_t most) { return most == 0 ? 0 : random() % most; };
  const auto place = [&](std::size_t at) { return bytes.begin() + static_cast<std::ptrdiff_t>(at); };
  constexpr std::uint8_t kOdd[] = {0, 1, 0x7f, 0x80, 0xff, '"', '\\', '/', '%', '\n'};
  for (std::size_t i = 1 + below(4); i > 0; --i) {
    const std::size_t at = below(bytes.size());
    switch (bytes.empty() ? 4 : below(7)) {
      case 0: bytes[at] ^= static_cast<std::uint8_t>(1u << below(8)); break;
      case 1: bytes[at] = static_cast<std::uint8_t>(random()); break;
      case 2: bytes[at] = kOdd[below(std::size(kOdd))]; break;
      case 3:
        bytes.erase(place(at), place(at + below(std::min<std::size_t>(bytes.size() - at, 40)) + 1));
        break;
      case 4: bytes.insert(place(at), 1 + below(8), static_cast<std::uint8_t>(random())); break;
      case 5: {  // a part again
        const Bytes part(place(at), place(at + below(bytes.size() - at) + 1));
        bytes.insert(place(below(bytes.size())), part.begin(), part.end());
        break;
      }
      default: {  // the rest of another
        const Bytes& other = all[below(all.size())];
        bytes.resize(at);
        bytes.insert(bytes.end(), other.begin() + static_cast<std::ptrdiff_t>(below(other.size())),
                     other.end());
      }
    }
  }
  if (bytes.size() > kMost) bytes.resize(kMost);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3) {
    std::fprintf(stderr, "usage: %s CORPUS MUTATIONS\n", argv[0]);
    return 2;
  }
  target = std::filesystem::path(argv[0]).filename().string() + "-crash";
  for (const int signal : {SIGABRT, SIGSEGV, SIGFPE, SIGILL, SIGBUS}) std::signal(signal, report);
  std::vector<std::filesystem::path> files;
  for (const auto& entry : std::filesystem::directory_iterator(argv[1])) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  std::vector<Bytes> all;
  for (const auto& file : files) {
    std::ifstream in(file, std::ios::binary);
    all.emplace_back(std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>());
    run(all.back(), file.filename().string());
  }
  if (all.empty()) {
    std::fprintf(stderr, "no files in %s\n", argv[1]);
    return 1;
  }
  std::mt19937_64 random(kSeed);
  const int mutations = std::atoi(argv[2]);
  for (int i = 0; i < mutations; ++i) {
    const std::size_t which = random() % all.size();
    Bytes bytes = all[which];
    mutate(bytes, all, random);
    run(bytes, "mutation " + std::to_string(i) + " of " + files[which].filename().string());
  }
  std::printf("%zu files, %d mutations\n", all.size(), mutations);
  return 0;
}
