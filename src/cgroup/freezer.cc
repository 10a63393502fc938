#include "faaskit/cgroup/freezer.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "cgroup/files.h"
#include "cgroup/instance.h"
#include "cgroup/seat.h"
#include "support/errno_status.h"

namespace faaskit::cgroup {
namespace {

// No seat can be called this.
constexpr char kHeldGroup[] = ".held";

class CgroupFreezer final : public Freezer {
 public:
  explicit CgroupFreezer(std::shared_ptr<Shared> shared) : shared_(std::move(shared)) {}

  ~CgroupFreezer() override {
    const absl::Status status = shared_->instance->close();
    if (!status.ok() && shared_->events)
      shared_->events->emit({Severity::error, "freezer.left_behind", "", std::string(status.message())});
  }

  FreezerKind kind() const override { return shared_->kind; }
  std::string_view limits_source() const override { return shared_->limits_source; }
  absl::StatusOr<std::unique_ptr<Seat>> prepare(const SeatSpec& spec) override { return make_seat(shared_, spec); }

 private:
  std::shared_ptr<Shared> shared_;
};

absl::StatusOr<FreezerKind> decide(Choice choice, const Layout& layout) {
  const std::string found = absl::StrCat("this machine has cgroups: ", std::string(to_string(layout.kind)));
  switch (choice) {
    case Choice::automatic:
      if (!layout.v2.empty()) return FreezerKind::cgroup_v2;
      if (!layout.v1_freezer.empty()) return FreezerKind::cgroup_v1;
      return absl::FailedPreconditionError(
          absl::StrCat(found, ", no freezer; stop signals or none must be chosen explicitly"));
    case Choice::cgroup_v2:
      if (!layout.v2.empty()) return FreezerKind::cgroup_v2;
      return absl::FailedPreconditionError(absl::StrCat("no cgroup v2; ", found));
    case Choice::cgroup_v1:
      if (!layout.v1_freezer.empty()) return FreezerKind::cgroup_v1;
      return absl::FailedPreconditionError(absl::StrCat("no cgroup v1 freezer; ", found));
    case Choice::stop_signals: return FreezerKind::stop_signals;
    case Choice::none: return FreezerKind::none;
  }
  return absl::InvalidArgumentError("FreezerOptions::choice is none of its values");
}

// Our group below `parent`; one for controllers that share a hierarchy. kNoGroup: not mounted.
int group_in(Shared& shared, const std::string& parent, const std::string& name, bool v2) {
  if (parent.empty()) return kNoGroup;
  const std::string path = parent + "/" + name;
  for (std::size_t i = 0; i < shared.groups.size(); ++i)
    if (shared.groups[i].path == path) return static_cast<int>(i);
  shared.groups.push_back({path, UniqueFd(), v2});
  return static_cast<int>(shared.groups.size()) - 1;
}

// Lets the groups below have `controller`. It fails, harmlessly, where the kernel does not allow it: in a
// group that is not the top one and has processes of its own.
bool enable_v2(const Layout& layout, const Group& ours, const std::string& controller) {
  const auto& available = layout.v2_controllers;
  if (std::find(available.begin(), available.end(), controller) == available.end()) return false;
  return write_text(AT_FDCWD, layout.v2 + "/cgroup.subtree_control", "+" + controller) == 0 &&
         write_text(AT_FDCWD, ours.path + "/cgroup.subtree_control", "+" + controller) == 0;
}

absl::Status make_group(Group& group) {
  if (::mkdir(group.path.c_str(), 0755) != 0) return errno_status(errno, "mkdir " + group.path);
  group.dir.reset(::open(group.path.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!group.dir) return errno_status(errno, "open " + group.path);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Freezer>> make_freezer(FreezerOptions options) {
  if (absl::Status status = validate_instance(options.instance); !status.ok()) return status;
  const Layout layout = probe(options.probe);
  absl::StatusOr<FreezerKind> kind = decide(options.choice, layout);
  if (!kind.ok()) return kind.status();

  auto shared = std::make_shared<Shared>();
  shared->kind = *kind;
  shared->events = std::move(options.events);
  const std::string name = group_name(options.instance);
  // v2 also serves to be born into and to kill with, whatever freezes; v1 by choice is v1 alone.
  const bool use_v2 = options.choice != Choice::cgroup_v1 && !layout.v2.empty();
  if (use_v2) shared->v2 = group_in(*shared, layout.v2, name, true);
  if (*kind == FreezerKind::cgroup_v1) shared->v1_freezer = group_in(*shared, layout.v1_freezer, name, false);

  // A controller is bound to one version at a time, so what v2 lists cannot be had on v1.
  struct Limit {
    const char* controller;
    const std::string& v1;
    int* index;
    const char* version = "missing";
  } limits[] = {{"memory", layout.v1_memory, &shared->memory},
                {"pids", layout.v1_pids, &shared->pids},
                {"cpu", layout.v1_cpu, &shared->cpu}};
  for (Limit& limit : limits) *limit.index = group_in(*shared, limit.v1, name, false);

  std::vector<std::string> arguments;
  for (std::size_t i = 0; i < shared->groups.size(); ++i) {
    const Group& group = shared->groups[i];
    const char* tag = group.v2 ? "v2:" : static_cast<int>(i) == shared->v1_freezer ? "v1f:" : "v1:";
    arguments.push_back(tag + group.path);
  }
  // The guardian before the groups: whatever happens from here on, somebody clears up.
  absl::StatusOr<std::unique_ptr<Instance>> instance = Instance::open(options.runtime_dir, options.instance, arguments);
  if (!instance.ok()) return instance.status();
  shared->instance = *std::move(instance);
  for (Group& group : shared->groups)
    if (absl::Status status = make_group(group); !status.ok()) return status;

  if (*kind == FreezerKind::cgroup_v2) {
    const Group& v2 = shared->groups[static_cast<std::size_t>(shared->v2)];
    if (::faccessat(v2.dir.get(), "cgroup.freeze", W_OK, 0) != 0)
      return errno_status(errno == ENOENT ? ENODEV : errno, "cgroup.freeze of " + v2.path);
  }
  if (*kind == FreezerKind::cgroup_v1) {
    // The kernel patches its own text when the first group of the system freezes and when the last one
    // thaws. An empty group that stays frozen keeps that from happening on every call.
    const Group& v1 = shared->groups[static_cast<std::size_t>(shared->v1_freezer)];
    if (::mkdirat(v1.dir.get(), kHeldGroup, 0755) != 0)
      return errno_status(errno, absl::StrCat("mkdir ", v1.path, "/", kHeldGroup));
    absl::Status held = write_file(v1.dir.get(), std::string(kHeldGroup) + "/freezer.state", "FROZEN", v1.path);
    if (!held.ok()) return held;
  }

  std::vector<std::string> sources;
  for (Limit& limit : limits) {
    if (*limit.index != kNoGroup) {
      limit.version = "cgroup v1";
    } else if (use_v2 && enable_v2(layout, shared->groups[static_cast<std::size_t>(shared->v2)], limit.controller)) {
      *limit.index = shared->v2;
      limit.version = "cgroup v2";
    } else if (shared->events) {
      shared->events->emit({Severity::warning, "freezer.limit_missing", "",
                            absl::StrCat(limit.controller, ": no controller can be used here")});
    }
    sources.push_back(absl::StrCat(limit.controller, ": ", limit.version));
  }
  shared->limits_source = absl::StrJoin(sources, ", ");
  return std::unique_ptr<Freezer>(std::make_unique<CgroupFreezer>(std::move(shared)));
}

absl::StatusOr<SweepReport> sweep(const std::string& runtime_dir, EventSink* events) {
  SweepReport report;
  DIR* list = ::opendir(runtime_dir.c_str());
  if (list == nullptr) {
    if (errno == ENOENT) return report;
    return errno_status(errno, "open " + runtime_dir);
  }
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(list)) {
    // Anything we could not have made is not ours.
    if (entry->d_type == DT_DIR && validate_instance(entry->d_name).ok()) names.emplace_back(entry->d_name);
  }
  ::closedir(list);
  for (const std::string& name : names) {
    std::string detail;
    switch (sweep_instance(runtime_dir, name, detail)) {
      case Swept::alive: ++report.alive; break;
      case Swept::removed:
        ++report.removed;
        if (events != nullptr) events->emit({Severity::info, "freezer.swept", "", name});
        break;
      case Swept::failed:
        ++report.failed;
        if (events != nullptr) events->emit({Severity::error, "freezer.sweep_failed", "", detail});
        break;
    }
  }
  return report;
}

}  // namespace faaskit::cgroup
