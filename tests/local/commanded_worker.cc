// A function in C++ that starts in milliseconds and ends in every way. It answers to
//   "echo X"     X                              "version"   the VERSION of its environment
//   "hold MS"    prints "holding", sleeps       "since MS"  the same, and answers with VERSION
//   "segfault", "abort", "exit N"               "grab N"    touches N MiB, answers "grabbed"
// and before its first call it does what INIT says: "fail" (words on stderr, status 4), "hang", "segfault",
// "wait" (fails until the file NEEDS is there), "slow MS".
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "faaskit/worker/worker.h"

namespace {

std::string environment(const char* name) {
  const char* const value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// A fault of the processor: a first process of its namespace does not die of a signal that it sends itself.
// Past the handlers of sanitizers, which would make an exit status of it.
[[noreturn]] __attribute__((no_sanitize("undefined"))) void fault() {
  std::signal(SIGSEGV, SIG_DFL);
  volatile int* volatile nowhere = nullptr;
  *nowhere = 1;
  std::_Exit(99);
}

void pass(const std::string& milliseconds) {
  std::this_thread::sleep_for(std::chrono::milliseconds(std::stol(milliseconds)));
}

void init() {
  const std::string what = environment("INIT");
  if (what == "segfault") fault();
  if (what == "hang") ::pause();
  if (what.rfind("slow ", 0) == 0) pass(what.substr(5));
  if (what == "fail" || (what == "wait" && ::access(environment("NEEDS").c_str(), F_OK) != 0)) {
    std::fprintf(stderr, "the widget is not there\n");
    std::_Exit(4);
  }
}

}  // namespace

int main() {
  using faaskit::worker::Request;
  using faaskit::worker::Response;
  faaskit::worker::Options options;
  options.init = init;
  const std::string version = environment("VERSION");
  return faaskit::worker::run(
      [&version](const Request& request) -> Response {
        const std::string text(request.text());
        const std::size_t blank = text.find(' ');
        const std::string word = text.substr(0, blank);
        const std::string rest = blank == std::string::npos ? "" : text.substr(blank + 1);
        if (word == "version") return {.payload = version};
        if (word == "hold" || word == "since") {
          std::puts("holding");
          std::fflush(stdout);
          pass(rest);
          return {.payload = word == "hold" ? "held" : version};
        }
        if (word == "segfault") fault();
        if (word == "abort") {
          std::signal(SIGSEGV, SIG_DFL);  // which is how a first process aborts
          std::abort();
        }
        if (word == "exit") std::_Exit(std::stoi(rest));
        if (word == "grab") {
          std::vector<char> block(std::stoul(rest) << 20);
          for (std::size_t i = 0; i < block.size(); i += 4096) block[i] = 1;
          return {.payload = "grabbed"};
        }
        return {.payload = rest};
      },
      std::move(options));
}
