// doomed_platform RUNTIME_DIR INSTANCE FREEZER END: a platform with a sandbox that is busy, one that is
// frozen and one that is starting. Prints their pids and "ready", and ends without stopping any of it:
//   wait    is killed             return  from main, with the platform never destroyed
//   exit    std::exit             _exit   _exit         abort   std::abort
//   throw   nobody catches it     fault   a fault of the processor
//   exec    becomes `sleep 1000`  closes  as exec, with all descriptors closed before
#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <stdexcept>
#include <string>
#include <thread>

#include "faaskit/local/platform.h"

int main(int argc, char** argv) {
  using namespace faaskit;
  if (argc != 5) return 2;
  const std::string freezer = argv[3];
  const std::string end = argv[4];
  local::PlatformOptions options;
  options.runtime_dir = argv[1];
  options.instance = argv[2];
  options.freezer = freezer == "v1" ? local::FreezerChoice::cgroup_v1 : local::FreezerChoice::cgroup_v2;
  auto made = local::make_platform(options);
  if (!made.ok()) {
    std::printf("failed: %s\n", made.status().ToString().c_str());
    return 1;
  }
  local::Platform& platform = **made;
  const auto deploy = [&](const std::string& name, const std::string& init) {
    local::Function function;
    function.name = name;
    function.runtime = "exec";
    function.code_path = FAASKIT_COMMANDED_WORKER;
    function.env = {{"INIT", init}};
    if (const absl::Status status = platform.deploy(std::move(function)); !status.ok()) {
      std::printf("failed: %s\n", status.ToString().c_str());
      std::exit(1);
    }
  };
  deploy("frozen", "");
  deploy("busy", "");
  deploy("starting", "hang");
  platform.invoke("frozen", "echo x");
  const std::string hold = "hold 1000000";
  const auto* const bytes = reinterpret_cast<const std::byte*>(hold.data());
  platform.async_invoke("busy", Bytes(bytes, bytes + hold.size()), {.timeout = std::chrono::hours(1)},
                        [](const InvocationResult&) {});
  platform.async_invoke("starting", {}, {.timeout = std::chrono::hours(1)}, [](const InvocationResult&) {});
  const auto one = [&](HostState state) {
    for (const SandboxView& view : platform.sandboxes()) {
      if (view.state == state && view.pid > 0) return true;
    }
    return false;
  };
  while (!one(HostState::busy) || !one(HostState::frozen) || !one(HostState::starting))
    std::this_thread::yield();
  for (const SandboxView& view : platform.sandboxes()) std::printf("%d ", view.pid);
  std::printf("ready\n");
  std::fflush(stdout);

  local::Platform* const leaked = made->release();
  (void)leaked;
  if (end == "return") return 0;
  if (end == "exit") std::exit(0);
  if (end == "_exit") ::_exit(0);
  if (end == "abort") std::abort();
  if (end == "throw") throw std::runtime_error("nobody catches it");
  if (end == "fault") {
    ::signal(SIGSEGV, SIG_DFL);
    ::raise(SIGSEGV);
  }
  // In one call, which no sanitizer takes for a mistake of each thread that still waits on one of them.
  if (end == "closes") (void)::close_range(3, ~0u, 0);
  if (end == "exec" || end == "closes") ::execl("/bin/sleep", "sleep", "1000", nullptr);
  for (;;) ::pause();
}
