// Built and linked with all that a sandbox needs: runtimes and the spawner are data in our archives. A
// function that does not exist is refused on every machine, whether it can isolate or not.
#include <faaskit/local/platform.h>

int main() {
  auto platform = faaskit::local::make_platform();
  if (!platform.ok()) return 0;  // says why; no cgroups here, or not root
  return (*platform)->deploy({.name = "nothing", .code_path = "/nonexistent.py", .handler = "a:b"}).ok() ? 1
                                                                                                         : 0;
}
