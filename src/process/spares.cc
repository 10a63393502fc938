#include "process/spares.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <optional>
#include <utility>

#include <absl/strings/str_cat.h>

#include "process/setup.h"
#include "support/errno_status.h"

namespace faaskit::process {
namespace {

absl::Status write_proc(pid_t pid, const char* file, const std::string& text) {
  const std::string path = absl::StrCat("/proc/", pid, "/", file);
  UniqueFd out(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!out || ::write(out.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return errno_status(errno, absl::StrCat("set-up of the sandbox: write '", text, "' to ", path));
  return absl::OkStatus();
}

bool ended(int pidfd) {
  pollfd end{pidfd, POLLIN, 0};
  return ::poll(&end, 1, 0) != 0;
}

// A seat's address may be used again once it is destroyed; its path is not.
bool fits(const Spare& spare, const Seat& seat) {
  return spare.seat_path == seat.path() && !ended(spare.child.pidfd.get());
}

}  // namespace

absl::Status map_ids(pid_t pid, std::uint32_t uid, std::uint32_t gid) {
  for (const auto& [file, text] : {std::pair<const char*, std::string>{"setgroups", "deny"},
                                   {"gid_map", absl::StrCat(kInsideId, " ", gid, " 1")},
                                   {"uid_map", absl::StrCat(kInsideId, " ", uid, " 1")}})
    if (absl::Status status = write_proc(pid, file, text); !status.ok()) return status;
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<Spares>> Spares::open(SpareKind kind, std::unique_ptr<UidPool> uids) {
  std::unique_ptr<Spares> spares(new Spares(std::move(kind), std::move(uids)));
  absl::StatusOr<UniqueFd> image = spawner::make_image();
  if (!image.ok()) return image.status();
  spares->image_ = *std::move(image);
  if (spares->kind_.namespaces.user_first) {
    absl::StatusOr<Spare> probe = spares->make(nullptr);
    if (!probe.ok()) return probe.status();
    spares->discard(*std::move(probe));
  }
  return spares;
}

Spares::~Spares() {
  for (auto& [seat, spare] : parked_) discard(std::move(spare));
  clear_ended();
}

absl::Status Spares::park(Seat& seat) {
  clear_ended();
  {
    std::lock_guard guard(mutex_);
    const auto found = parked_.find(&seat);
    if (found != parked_.end() && fits(found->second, seat)) return absl::OkStatus();
  }
  absl::StatusOr<Spare> spare = make(&seat);
  if (!spare.ok()) return spare.status();
  std::optional<Spare> old;
  {
    std::lock_guard guard(mutex_);
    const auto [at, fresh] = parked_.try_emplace(&seat);
    if (!fresh) old = std::move(at->second);
    at->second = *std::move(spare);
  }
  if (old) discard(*std::move(old));
  return absl::OkStatus();
}

absl::StatusOr<Spare> Spares::take(Seat& seat) {
  clear_ended();
  std::optional<Spare> spare;
  {
    std::lock_guard guard(mutex_);
    if (const auto found = parked_.find(&seat); found != parked_.end()) {
      spare = std::move(found->second);
      parked_.erase(found);
    }
  }
  if (spare && fits(*spare, seat)) {
    // Without groups all seats look alike, so the one that asks must know its process.
    if (seat.path().empty())
      if (absl::Status status = seat.adopt(spare->child.pid); !status.ok()) {
        discard(*std::move(spare));
        return status;
      }
    return *std::move(spare);
  }
  if (spare) discard(*std::move(spare));
  return make(&seat);
}

absl::StatusOr<Spare> Spares::make(Seat* seat) {
  int ends[2];
  if (::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0)
    return errno_status(errno, "socketpair");
  Spare spare;
  spare.control.reset(ends[0]);
  UniqueFd theirs(ends[1]);
  absl::StatusOr<std::uint32_t> uid = uids_ ? uids_->take() : ::geteuid();
  if (!uid.ok()) return uid.status();
  spare.uid = *uid;
  if (seat != nullptr) spare.seat_path = seat->path();

  spawner::SpawnParams params;
  params.image = image_.get();
  params.argv = {"faaskit-spare"};
  params.fds = {theirs.get()};
  params.namespaces = kind_.namespaces.at_birth;
  if (seat != nullptr) params.cgroup = seat->cgroup_v2_fd();
  absl::StatusOr<spawner::Child> child = spawner::spawn(params);
  if (!child.ok()) {
    give_back(spare.uid);
    return child.status();
  }
  spare.child = *std::move(child);
  theirs.reset();

  absl::Status status = seat != nullptr ? seat->adopt(spare.child.pid) : absl::OkStatus();
  const bool user_first = kind_.namespaces.user_first;
  if (status.ok() && user_first) status = map_ids(spare.child.pid, spare.uid, ::getegid());
  if (status.ok()) {
    ParkPlan plan;
    plan.tree = &kind_.tree;
    plan.files = &kind_.files;
    plan.uid = user_first ? kInsideId : spare.uid;
    plan.stay_outside = user_first;
    plan.tmp_bytes = kind_.tmp_bytes;
    plan.cgroup_namespace = kind_.namespaces.cgroup;
    status = parked(plan).run(spare.control.get(), kind_.setup_timeout);
  }
  if (!status.ok()) {
    discard(std::move(spare));
    return status;
  }
  return spare;
}

void Spares::discard(Spare spare) {
  if (spawner::kill_and_reap(spare.child)) return give_back(spare.uid);
  // Held up in the kernel. Its uid is in use until it is really gone.
  std::lock_guard guard(mutex_);
  doomed_.push_back(std::move(spare));
}

// A seat may be given up with its spare in it, and nobody tells us: its end does.
void Spares::clear_ended() {
  std::lock_guard guard(mutex_);
  const auto gone = [&](const Spare& spare) {
    if (!ended(spare.child.pidfd.get()) || !spawner::wait_and_reap(spare.child.pidfd.get(), 0)) return false;
    give_back(spare.uid);
    return true;
  };
  std::erase_if(parked_, [&](const auto& entry) { return gone(entry.second); });
  std::erase_if(doomed_, gone);
}

}  // namespace faaskit::process
