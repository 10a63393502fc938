// The function of deaths_bench and redeploy_bench: "version" answers with VERSION of its environment, "pause"
// says so in its log and never answers.
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "faaskit/worker/worker.h"

int main() {
  const char* const version = std::getenv("VERSION");
  return faaskit::worker::run(
      [version](const faaskit::worker::Request& request) -> faaskit::worker::Response {
        if (request.text() == "pause") {
          std::puts("paused");
          std::fflush(stdout);
          for (;;) ::pause();
        }
        return {.payload = version == nullptr ? "" : version};
      });
}
