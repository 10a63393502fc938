// doomed_host RUNTIME_DIR INSTANCE CHOICE: a host with three sandboxes, the second of them frozen, that
// waits to be killed. Prints their pids.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <string>
#include <vector>

#include "faaskit/cgroup/freezer.h"
#include "spawner/spawn.h"

int main(int argc, char** argv) {
  using namespace faaskit;
  if (argc != 4) return 2;
  const std::string choice = argv[3];
  auto freezer =
      cgroup::make_freezer({.instance = argv[2],
                            .choice = choice == "v1" ? cgroup::Choice::cgroup_v1 : cgroup::Choice::cgroup_v2,
                            .runtime_dir = argv[1]});
  if (!freezer.ok()) {
    std::fprintf(stderr, "%s\n", freezer.status().ToString().c_str());
    return 1;
  }
  std::vector<std::unique_ptr<Seat>> seats;
  std::vector<spawner::Child> children;
  for (int i = 0; i < 3; ++i) {
    auto seat = (*freezer)->prepare({.name = "sb-" + std::to_string(i)});
    if (!seat.ok()) return 1;
    UniqueFd image(::open("/bin/sleep", O_RDONLY | O_CLOEXEC));
    spawner::SpawnParams params;
    params.image = image.get();
    params.argv = {"sleep", "1000"};
    params.cgroup = (*seat)->cgroup_v2_fd();
    auto child = spawner::spawn(params);
    if (!child.ok() || !(*seat)->adopt(child->pid).ok()) return 1;
    if (i == 1 && !(*seat)->freeze().ok()) return 1;
    std::printf("%d ", child->pid);
    seats.push_back(*std::move(seat));
    children.push_back(*std::move(child));
  }
  std::printf("ready\n");
  std::fflush(stdout);
  for (;;) ::pause();
}
