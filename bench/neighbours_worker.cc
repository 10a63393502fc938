// The functions of neighbours_bench: "burn MS" of CPU time, "spin MS" of wall time on THREADS threads, "hog
// MIB" of memory, touched. Each answers with what it did.
#include <time.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

#include "faaskit/worker/worker.h"

namespace {

std::uint64_t cpu_us() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<std::uint64_t>(now.tv_sec) * 1000000 + static_cast<std::uint64_t>(now.tv_nsec) / 1000;
}

std::string burn(int ms) {
  const std::uint64_t begin = cpu_us();
  while (cpu_us() - begin < static_cast<std::uint64_t>(ms) * 1000) {
  }
  return std::to_string(cpu_us() - begin);
}

std::string spin(int ms, int threads) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::milliseconds(ms);
  std::vector<std::thread> spinners;
  for (int i = 0; i < threads; ++i) {
    spinners.emplace_back([end] {
      while (std::chrono::steady_clock::now() < end) {
      }
    });
  }
  for (std::thread& spinner : spinners) spinner.join();
  return "spun";
}

std::string hog(std::size_t mib) {
  std::vector<std::vector<char>> held;
  for (std::size_t i = 0; i < mib; ++i) {
    held.emplace_back(1 << 20);
    std::memset(held.back().data(), static_cast<int>(i), held.back().size());
  }
  return std::to_string(held.size());
}

}  // namespace

int main() {
  return faaskit::worker::run([](const faaskit::worker::Request& request) {
    char what[16] = {};
    int amount = 0;
    int threads = 1;
    faaskit::worker::Response response;
    if (std::sscanf(std::string(request.text()).c_str(), "%15s %d %d", what, &amount, &threads) < 2) {
      response.error = "what?";
    } else if (std::strcmp(what, "burn") == 0) {
      response.payload = burn(amount);
    } else if (std::strcmp(what, "spin") == 0) {
      response.payload = spin(amount, threads);
    } else {
      response.payload = hog(static_cast<std::size_t>(amount));
    }
    return response;
  });
}
