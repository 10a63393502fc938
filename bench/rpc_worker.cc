// An echo function, for rpc_bench.
#include "faaskit/worker/worker.h"

int main() {
  return faaskit::worker::run([](const faaskit::worker::Request& request) {
    return faaskit::worker::Response{.payload = std::string(request.text()),
                                     .content_type = std::string(request.content_type)};
  });
}
