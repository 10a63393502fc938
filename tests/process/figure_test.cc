// Not a test: prints how long a start takes. Hidden; run it by its tag.
#include "stage.h"

#include <poll.h>

#include <algorithm>
#include <vector>

namespace faaskit::process {
namespace {

struct Figures {
  double created, first_byte;
};

Figures one_start(Stage& stage, bool parked) {
  auto seat = stage.seat();
  if (parked) REQUIRE(stage.factory->park(*seat).ok());
  const auto begin = std::chrono::steady_clock::now();
  auto handles = stage.create(*seat);
  const auto created = std::chrono::steady_clock::now();
  REQUIRE(handles.ok());
  pollfd hello{handles->channel.get(), POLLIN, 0};
  REQUIRE(::poll(&hello, 1, 10000) == 1);
  const auto first = std::chrono::steady_clock::now();
  Sandbox ended(*stage.factory, std::move(seat), SandboxId{1, stage.seats}, *std::move(handles));
  const auto ms = [&](auto to) { return std::chrono::duration<double, std::milli>(to - begin).count(); };
  return {ms(created), ms(first)};
}

double median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

TEST_CASE("how long a start takes", "[.figure]") {
  Stage stage;
  const std::string python = stage.folders.code();
  for (const bool exec : {true, false}) {
    if (exec) {
      stage.spec.runtime = "exec";
      stage.spec.code_path = stage.folders.write("hi", "#!/bin/sh\necho x >&3\nexec sleep 100\n", 0755);
    } else {
      stage.spec.runtime = "python3";
      stage.spec.code_path = python;
    }
    for (const bool parked : {true, false}) {
      std::vector<double> created, first;
      for (int i = 0; i < 30; ++i) {
        const Figures figures = one_start(stage, parked);
        created.push_back(figures.created);
        first.push_back(figures.first_byte);
      }
      std::printf(
          "%-7s %-14s create() %6.2f ms, first byte on the channel %6.2f ms (median of 30; worst %.2f)\n",
          exec ? "sh" : "python3", parked ? "parked spare" : "without spare", median(created), median(first),
          *std::max_element(first.begin(), first.end()));
    }
  }
}

// Compare with a build whose factory installs no filter.
TEST_CASE("how long a warm call takes", "[.figure]") {
  Stage stage;
  auto sandbox = stage.sandbox();
  sandbox->ask("result = 1");
  for (const auto& [what, code] :
       {std::pair<const char*, std::string>{"nothing", "result = 1"},
        {"20 files written", "for i in range(20):\n  with open('/tmp/f', 'w') as f: f.write('x')"},
        {"20 sockets", "import socket\nfor i in range(20): socket.socket().close()"}}) {
    std::vector<double> times;
    for (int i = 0; i < 3000; ++i) {
      const auto begin = std::chrono::steady_clock::now();
      sandbox->call(code);
      times.push_back(
          std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count());
    }
    std::printf("warm call, %-17s %7.1f us (median of 3000)\n", what, median(times));
  }
}

}  // namespace
}  // namespace faaskit::process
