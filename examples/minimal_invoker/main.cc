// Runs one function in a sandbox. As root, from the root of the checkout: build/dev/bin/minimal_invoker

#include <iostream>

#include "faaskit/local/platform.h"

int main() {
  auto platform = faaskit::local::make_platform();
  if (!platform.ok()) return std::cerr << platform.status() << '\n', 1;

  absl::Status deployed = (*platform)->deploy(
      {.name = "hello", .code_path = "examples/minimal_invoker/hello.py", .handler = "hello:handler"});
  if (!deployed.ok()) return std::cerr << deployed << '\n', 1;

  for (const char* name : {"world", "again"}) {
    faaskit::InvocationResult result = (*platform)->invoke("hello", name);
    if (!result.ok()) return std::cerr << result.status << '\n', 1;
    std::cout << result.text() << " (" << to_string(result.start) << ")\n";
  }
}
