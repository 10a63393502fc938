#include "faaskit/cgroup/freezer.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>
#include <vector>

#include <absl/strings/str_cat.h>
#include <absl/strings/str_join.h>

#include "cgroup/files.h"
#include "cgroup/instance.h"
#include "cgroup/place.h"
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
  std::string missing_limits() const override { return shared_->missing_limits; }
  absl::StatusOr<std::unique_ptr<Seat>> prepare(const SeatSpec& spec) override {
    // Nothing is made that would outlive a host that is killed.
    absl::StatusOr<bool> started = shared_->instance->ensure_guardian();
    if (!started.ok()) return started.status();
    if (*started && shared_->events)
      shared_->events->emit({Severity::warning, "freezer.guardian_restarted", "", "somebody had killed it"});
    return make_seat(shared_, spec);
  }

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

// The groups a freezer needs, made one after the other.
class Groups {
 public:
  // `needed`: without it there is no freezer. Else a group that may not be made is done without.
  Groups(Shared& shared, std::string name, bool needed)
      : shared_(shared), name_(std::move(name)), needed_(needed) {}

  // Our group below `parent`; one for controllers that share a hierarchy. kNoGroup: not mounted, or not made.
  absl::StatusOr<int> in(const std::string& parent, const std::string& kind) {
    if (parent.empty()) return kNoGroup;
    const std::string path = parent + "/" + name_;
    for (std::size_t i = 0; i < shared_.groups.size(); ++i)
      if (shared_.groups[i].path == path) return static_cast<int>(i);
    absl::StatusOr<UniqueFd> dir = make(parent, path, kind);
    if (!dir.ok()) {
      // A namesake's group is a mistake, whatever we want it for.
      if (needed_ || absl::IsAlreadyExists(dir.status())) return dir.status();
      if (shared_.events)
        shared_.events->emit(
            {Severity::warning, "freezer.group_missing", "", std::string(dir.status().message())});
      return kNoGroup;
    }
    shared_.groups.push_back({path, *std::move(dir), kind == "v2"});
    return static_cast<int>(shared_.groups.size()) - 1;
  }

 private:
  absl::StatusOr<UniqueFd> make(const std::string& parent, const std::string& path, const std::string& kind) {
    // Who may not write this can make groups and move nobody into them.
    if (::access((parent + "/cgroup.procs").c_str(), W_OK) != 0)
      return errno_status(errno, "access to " + parent + "/cgroup.procs");
    return shared_.instance->make_group(kind, path);
  }

  Shared& shared_;
  const std::string name_;
  const bool needed_;
};

struct Limit {
  const char* controller;
  const std::string& v1;
  int* index;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Freezer>> make_freezer(FreezerOptions options) {
  if (absl::Status status = validate_instance(options.instance); !status.ok()) return status;
  Layout layout = probe(options.probe);
  absl::StatusOr<FreezerKind> kind = decide(options.choice, layout);
  if (!kind.ok()) return kind.status();

  auto shared = std::make_shared<Shared>();
  shared->kind = *kind;
  shared->events = std::move(options.events);
  absl::StatusOr<std::unique_ptr<Instance>> instance = Instance::open(options.runtime_dir, options.instance);
  if (!instance.ok()) return instance.status();
  shared->instance = *std::move(instance);

  // A controller is bound to one version at a time, so what v2 lists cannot be had on v1.
  const Limit limits[] = {{"memory", layout.v1_memory, &shared->memory},
                          {"pids", layout.v1_pids, &shared->pids},
                          {"cpu", layout.v1_cpu, &shared->cpu}};
  // v2 also serves to be born into and to kill with, whatever freezes; v1 by choice is v1 alone.
  const bool use_v2 = options.choice != Choice::cgroup_v1 && !layout.v2.empty();
  Groups groups(*shared, group_name(options.instance),
                *kind == FreezerKind::cgroup_v2 || *kind == FreezerKind::cgroup_v1);
  if (use_v2) {
    std::vector<std::string> wanted;
    for (const Limit& limit : limits)
      if (limit.v1.empty()) wanted.push_back(limit.controller);
    const std::string parent = v2_parent(layout, wanted);
    if (parent != layout.v2 && shared->events)
      shared->events->emit({Severity::warning, "freezer.group_moved", "",
                            absl::StrCat("groups are made in ", parent, ": ", layout.v2,
                                         " holds processes and cannot give limits to groups below")});
    absl::StatusOr<int> made = groups.in(parent, "v2");
    if (!made.ok()) return made.status();
    shared->v2 = *made;
  }
  if (*kind == FreezerKind::cgroup_v1) {
    absl::StatusOr<int> made = groups.in(layout.v1_freezer, "v1f");
    if (!made.ok()) return made.status();
    shared->v1_freezer = *made;
  }
  for (const Limit& limit : limits) {
    absl::StatusOr<int> made = groups.in(limit.v1, "v1");
    if (!made.ok()) return made.status();
    *limit.index = *made;
  }
  // Before anything lives in them.
  if (absl::StatusOr<bool> guardian = shared->instance->ensure_guardian(); !guardian.ok())
    return guardian.status();

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
    absl::Status held =
        write_file(v1.dir.get(), std::string(kHeldGroup) + "/freezer.state", "FROZEN", v1.path);
    if (!held.ok()) return held;
  }

  std::vector<std::string> sources, missing;
  for (const Limit& limit : limits) {
    const char* version = "cgroup v1";
    if (*limit.index == kNoGroup) {
      const int error = shared->v2 == kNoGroup
                            ? ENOENT
                            : write_text(shared->groups[static_cast<std::size_t>(shared->v2)].dir.get(),
                                         "cgroup.subtree_control", absl::StrCat("+", limit.controller));
      version = error == 0 ? "cgroup v2" : "missing";
      if (error == 0) {
        *limit.index = shared->v2;
      } else {
        missing.push_back(limit.controller);
        if (shared->events)
          shared->events->emit({Severity::warning, "freezer.limit_missing", "",
                                absl::StrCat(limit.controller, ": no controller can be used here")});
      }
    }
    sources.push_back(absl::StrCat(limit.controller, ": ", version));
  }
  shared->limits_source = absl::StrJoin(sources, ", ");
  shared->missing_limits = absl::StrJoin(missing, ", ");
  return std::unique_ptr<Freezer>(std::make_unique<CgroupFreezer>(std::move(shared)));
}

absl::StatusOr<SweepReport> sweep(const std::string& runtime_dir, EventSink* events) {
  SweepReport report;
  absl::StatusOr<std::string> checked = checked_runtime_dir(runtime_dir);
  if (absl::IsNotFound(checked.status())) return report;
  if (!checked.ok()) return checked.status();
  DIR* list = ::opendir(checked->c_str());
  if (list == nullptr) return errno_status(errno, "open " + *checked);
  std::vector<std::string> names;
  while (const dirent* entry = ::readdir(list)) {
    // Anything we could not have made is not ours.
    if (entry->d_type == DT_DIR && validate_instance(entry->d_name).ok()) names.emplace_back(entry->d_name);
  }
  ::closedir(list);
  for (const std::string& name : names) {
    std::string detail;
    switch (sweep_instance(*checked, name, detail)) {
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
