// One seat: the same name in every hierarchy in use.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "cgroup/instance.h"
#include "faaskit/port/event_sink.h"
#include "faaskit/port/freezer.h"
#include "faaskit/port/unique_fd.h"

namespace faaskit::cgroup {

// Our group in one hierarchy; the seats' groups are made in it.
struct Group {
  std::string path;
  UniqueFd dir;
  bool v2 = false;
};

inline constexpr int kNoGroup = -1;

// What a freezer and its seats share.
struct Shared {
  FreezerKind kind = FreezerKind::none;
  std::vector<Group> groups;
  // Indices into `groups`.
  int v2 = kNoGroup;
  int v1_freezer = kNoGroup;
  int memory = kNoGroup;
  int pids = kNoGroup;
  int cpu = kNoGroup;
  std::string limits_source;
  std::string missing_limits;
  std::shared_ptr<EventSink> events;
  // Last member: the first to go, while the groups are still open.
  std::unique_ptr<Instance> instance;
};

absl::StatusOr<std::unique_ptr<Seat>> make_seat(std::shared_ptr<const Shared> shared, const SeatSpec& spec);

// SIGKILL for each process listed in `dir`/cgroup.procs. Returns how many there were.
int kill_members(int dir, const std::string& group);

}  // namespace faaskit::cgroup
