// If these failed: a limit would be written in the other version's words, or in an order the kernel refuses.
#include "cgroup/limits.h"

#include <fstream>

#include "machine.h"

namespace faaskit::cgroup {
namespace {

std::string said(const std::vector<LimitWrite>& writes) {
  std::string text;
  for (const LimitWrite& one : writes)
    text += std::string(one.file) + "=" + one.text + (one.optional ? "? " : " ");
  return text;
}

TEST_CASE("limits in the words of cgroup v2", "[cgroup]") {
  CHECK(said(memory_writes(true, 1 << 20)) == "memory.max=1048576 memory.swap.max=0? memory.oom.group=1? ");
  CHECK(said(pids_writes(7)) == "pids.max=7 ");
  CHECK(said(cpu_weight_writes(true, 50)) == "cpu.weight=50 ");
  CHECK(said(cpu_weight_writes(true, 0)) == "cpu.weight=1 ");
  CHECK(said(cpu_weight_writes(true, 20000)) == "cpu.weight=10000 ");
  CHECK(said(cpu_max_writes(true, 500)) == "cpu.max=50000 100000 ");
  CHECK(said(cpu_max_writes(true, 2000)) == "cpu.max=200000 100000 ");
  CHECK(said(cpu_max_writes(true, std::nullopt)) == "cpu.max=max 100000 ");
}

TEST_CASE("limits in the words of cgroup v1", "[cgroup]") {
  CHECK(said(memory_writes(false, 1 << 20)) ==
        "memory.memsw.limit_in_bytes=1048576? memory.limit_in_bytes=1048576 "
        "memory.memsw.limit_in_bytes=1048576? ");
  CHECK(said(cpu_weight_writes(false, 100)) == "cpu.shares=1024 ");
  CHECK(said(cpu_weight_writes(false, 1)) == "cpu.shares=10 ");
  CHECK(said(cpu_max_writes(false, 500)) ==
        "cpu.cfs_quota_us=-1 cpu.cfs_period_us=100000 cpu.cfs_quota_us=50000 ");
  CHECK(said(cpu_max_writes(false, 4000000)) ==
        "cpu.cfs_quota_us=-1 cpu.cfs_period_us=100000 cpu.cfs_quota_us=400000000 ");
  CHECK(said(cpu_max_writes(false, std::nullopt)) == "cpu.cfs_quota_us=-1 ");
}

// The real kernel: what a busy process gets in a while of its own CPU time against the clock's.
TEST_CASE("a busy sandbox gets no more CPU than its bound", "[cgroup]") {
  need_root();
  if (probe().v1_cpu.empty()) FAASKIT_SKIP("no v1 cpu controller");
  RuntimeDir dir;
  const std::string instance = unique_instance("cpu");
  auto freezer = make_freezer({.instance = instance, .runtime_dir = dir.path()}).value();
  auto seat = freezer->prepare({.name = "sb-1", .limits = {.cpu_max_milli = 100}}).value();
  auto child = sleeper(*seat, {"/bin/sh", "-c", "while :; do :; done"});
  const std::string stat = probe().v1_cpu + "/faaskit-" + instance + "/sb-1/cpu.stat";
  const auto throttled = [&] {
    std::istringstream words(text_of(stat));
    std::uint64_t value = 0;
    for (std::string word; words >> word >> value;)
      if (word == "nr_throttled") return value;
    return std::uint64_t{0};
  };
  CHECK(eventually([&] { return throttled() >= 3; }, 10s));
  CHECK(seat->kill().ok());
  // Out of CPU for this period, it dies all the same.
  CHECK(spawner::wait_and_reap(child.pidfd.get(), 2000));
}

TEST_CASE("a CPU bound above that of the host itself changes nothing", "[cgroup]") {
  need_root();
  if (probe().v1_cpu.empty()) FAASKIT_SKIP("no v1 cpu controller");
  RuntimeDir dir;
  const std::string instance = unique_instance("top");
  auto freezer = make_freezer({.instance = instance, .runtime_dir = dir.path()}).value();
  const std::string group = probe().v1_cpu + "/faaskit-" + instance;
  std::ofstream(group + "/cpu.cfs_quota_us") << "50000";
  auto seat = freezer->prepare({.name = "sb-1", .limits = {.cpu_max_milli = 250}}).value();
  CHECK(text_of(group + "/sb-1/cpu.cfs_quota_us") == "25000\n");
  for (const std::uint32_t milli : {2000u, UINT32_MAX}) {
    const absl::Status status = seat->set_limits({.cpu_max_milli = milli});
    INFO(status.ToString());
    CHECK(status.ok());
    CHECK(text_of(group + "/sb-1/cpu.cfs_quota_us") == "-1\n");
  }
  CHECK(seat->remove().ok());
}

}  // namespace
}  // namespace faaskit::cgroup
