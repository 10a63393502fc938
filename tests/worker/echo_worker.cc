// A function in C++ for tests and benches. What it does depends on the content type of the call.
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "faaskit/worker/worker.h"

int main(int argc, char**) {
  using faaskit::worker::Request;
  using faaskit::worker::Response;
  if (argc > 1) return 7;  // an init that fails

  std::chrono::microseconds thawed{};
  faaskit::worker::Options options;
  options.on_thaw = [&thawed](std::chrono::microseconds idle_for) { thawed = idle_for; };
  return faaskit::worker::run(
      [&thawed](const Request& request) -> Response {
        const std::string_view what = request.content_type;
        if (what == "raise") throw std::runtime_error(std::string(request.text()));
        if (what == "error") return {.error = "returned"};
        if (what == "exit") std::_Exit(3);
        if (what == "print")
          std::printf("%.*s", static_cast<int>(request.text().size()), request.text().data());
        if (what == "size") return {.payload = std::string(std::stoul(std::string(request.text())), 'z')};
        if (what == "thaw") return {.payload = std::to_string(thawed.count())};
        if (what == "left") {
          const auto left = request.deadline - std::chrono::steady_clock::now();
          return {.payload = left > std::chrono::hours(1) ? "hours" : left.count() > 0 ? "some" : "none"};
        }
        if (what == "cold") return {.payload = request.cold ? "cold" : "warm"};
        if (what == "trace") return {.payload = std::string(request.trace)};
        if (what == "pid") return {.payload = std::to_string(::getpid())};
        if (what == "metadata") {
          faaskit::worker::Response reply;
          for (const auto& [name, value] : request.metadata) reply.metadata.emplace_back(name, value);
          return reply;
        }
        if (what == "stream" || what == "stream and fail") {
          // As many parts of 100,000 bytes as the text says.
          return {.stream = [count = std::stoul(std::string(request.text())),
                             fails = what != "stream"](faaskit::worker::Writer& writer) {
            for (unsigned long i = 0; i < count; ++i) writer.write(std::string(100000, 's'));
            if (fails) throw std::runtime_error("half-way");
          }};
        }
        if (what == "crumbs") {
          return {
              .stream = [count = std::stoul(std::string(request.text()))](faaskit::worker::Writer& writer) {
                for (unsigned long i = 0; i < count; ++i) writer.write("crumb");
              }};
        }
        if (what == "hang") {
          std::puts("hanging");
          std::fflush(stdout);
          ::pause();
        }
        return {.payload = std::string(request.text()), .content_type = std::string(what)};
      },
      std::move(options));
}
