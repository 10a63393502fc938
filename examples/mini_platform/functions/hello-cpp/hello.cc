#include <iostream>
#include <string>

#include "faaskit/worker/worker.h"

int main() {
  return faaskit::worker::run([](const faaskit::worker::Request& request) {
    const std::string name = request.payload.empty() ? "world" : std::string(request.text());
    std::cout << "greeting " << name << '\n';
    return faaskit::worker::Response{.payload = "Hello, " + name + ", from C++!\n",
                                     .content_type = "text/plain"};
  });
}
