#include "process/setup.h"

#include <fcntl.h>
#include <linux/capability.h>
#include <linux/ioprio.h>
#include <linux/keyctl.h>
#include <linux/seccomp.h>
#include <linux/securebits.h>
#include <net/if.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>

#include <absl/strings/str_cat.h>

namespace faaskit::process {
namespace {

using Arg = Program::Arg;

// Slots: the host's paths from 0 on, then these.
constexpr int kDeviceSlot = 50;
constexpr int kRootSlot = 60;
constexpr int kWorkSlot = 61;
constexpr int kCodeSlot = 62;

// What the kernel counts by user, who for an ordinary user's sandboxes is always the same: few, of what
// functions hardly use.
constexpr int kInotifyInstances = 16;
constexpr rlim_t kPendingSignals = 256;

constexpr const char* kDevices[] = {"null", "zero", "full", "random", "urandom"};

struct MountAttributes {
  std::uint64_t set = 0, clear = 0, propagation = 0, user_namespace = 0;
};
constexpr std::uint64_t kReadOnly = MOUNT_ATTR_RDONLY, kNoSetuid = MOUNT_ATTR_NOSUID,
                        kNoDevices = MOUNT_ATTR_NODEV, kNoExec = MOUNT_ATTR_NOEXEC;

void clone_tree(Program& program, const std::string& path, int slot, std::uint64_t attributes) {
  const std::string what = "take " + path;
  program.call(what, SYS_open_tree, {AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE},
               slot);
  program.call(what + " read-only", SYS_mount_setattr,
               {Program::slot(slot), "", AT_EMPTY_PATH | AT_RECURSIVE,
                Program::object(MountAttributes{attributes, 0, MS_PRIVATE, 0}),
                static_cast<long>(sizeof(MountAttributes))});
}

void attach(Program& program, int slot, const std::string& to) {
  program.call("attach " + to, SYS_move_mount,
               {Program::slot(slot), "", AT_FDCWD, to, MOVE_MOUNT_F_EMPTY_PATH});
}

void new_filesystem(Program& program, const std::string& type,
                    const std::vector<std::pair<std::string, std::string>>& options, std::uint64_t attributes,
                    int slot) {
  const std::string what = "new " + type;
  program.call(what, SYS_fsopen, {type, FSOPEN_CLOEXEC}, kWorkSlot);
  for (const auto& [key, value] : options)
    program.call(absl::StrCat(what, " ", key, "=", value), SYS_fsconfig,
                 {Program::slot(kWorkSlot), FSCONFIG_SET_STRING, key, value, 0});
  program.call(what, SYS_fsconfig, {Program::slot(kWorkSlot), FSCONFIG_CMD_CREATE, 0, 0, 0});
  program.call(what, SYS_fsmount, {Program::slot(kWorkSlot), FSMOUNT_CLOEXEC, attributes}, slot);
}

void make_directory(Program& program, const std::string& relative) {
  program.call("mkdir " + relative, SYS_mkdirat, {AT_FDCWD, relative, 0755}, -1, EEXIST);
}

void make_file(Program& program, const std::string& relative, std::string_view content, int mode = 0444) {
  program.call("make " + relative, SYS_openat, {AT_FDCWD, relative, O_WRONLY | O_CREAT | O_CLOEXEC, mode},
               kWorkSlot);
  if (!content.empty())
    program.call("write " + relative, SYS_write,
                 {Program::slot(kWorkSlot), Program::bytes(content), static_cast<long>(content.size())});
  program.call("close " + relative, SYS_close, {Program::slot(kWorkSlot)});
}

void make_parents(Program& program, std::set<std::string>& made, const std::string& relative) {
  for (std::size_t at = relative.find('/'); at != std::string::npos; at = relative.find('/', at + 1)) {
    const std::string parent = relative.substr(0, at);
    if (made.insert(parent).second) make_directory(program, parent);
  }
}

void write_to(Program& program, const std::string& path, std::string_view text, int tolerated = 0) {
  program.call("open " + path, SYS_openat, {AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0}, kWorkSlot);
  program.call("write " + path, SYS_write,
               {Program::slot(kWorkSlot), Program::bytes(text), static_cast<long>(text.size())}, -1,
               tolerated);
  program.call("close " + path, SYS_close, {Program::slot(kWorkSlot)});
}

void limit(Program& program, const std::string& what, int resource, rlim_t value) {
  const rlimit both{value, value};
  program.call("limit " + what, SYS_prlimit64, {0, resource, Program::object(both), 0});
}

// A host may run at a high priority, or out of the OOM killer's reach; its sandboxes may not. Tolerated is
// what a host without the privilege for it meets when it stands below the default: then they stay there.
void give_up_priorities(Program& program) {
  const sched_param none{};
  program.call("scheduler", SYS_sched_setscheduler, {0, SCHED_OTHER, Program::object(none)}, -1, EPERM);
  program.call("nice", SYS_setpriority, {static_cast<int>(PRIO_PROCESS), 0, 0}, -1, EACCES);
  program.call("I/O priority", SYS_ioprio_set, {static_cast<int>(IOPRIO_WHO_PROCESS), 0, 0}, -1, EPERM);
  write_to(program, "/proc/self/oom_score_adj", "0", EACCES);
  limit(program, "nice", static_cast<int>(RLIMIT_NICE), 0);
  limit(program, "real-time priority", static_cast<int>(RLIMIT_RTPRIO), 0);
  program.call("personality", SYS_personality, {0});
}

// lo gets its addresses, 127.0.0.1 and ::1, by coming up.
void bring_up_loopback(Program& program) {
  ifreq request{};
  std::strcpy(request.ifr_name, "lo");
  request.ifr_flags = IFF_UP | IFF_RUNNING;
  program.call("socket for loopback", SYS_socket, {AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0}, kWorkSlot);
  program.call("bring up loopback", SYS_ioctl,
               {Program::slot(kWorkSlot), static_cast<long>(SIOCSIFFLAGS), Program::object(request)});
  program.call("close", SYS_close, {Program::slot(kWorkSlot)});
}

void join_network(Program& program, int network_namespace, const std::string& resolv_conf) {
  program.call("enter the host's network", SYS_setns, {Program::fd(network_namespace), CLONE_NEWNET});
  program.call("remove etc/nsswitch.conf", SYS_unlinkat, {AT_FDCWD, "/etc/nsswitch.conf", 0});
  make_file(program, "/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n");
  make_file(program, "/etc/resolv.conf", resolv_conf);
}

// From the host's tree into the one in ".".
void enter(Program& program) {
  // pivot_root(".", ".") puts the old root on top of the new one, from where it is taken off.
  program.call("pivot_root", SYS_pivot_root, {".", "."});
  program.call("let go of the host's tree", SYS_umount2, {".", MNT_DETACH});
  program.call("chdir /", SYS_chdir, {"/"});
  give_up_priorities(program);
}

void close_from(Program& program, unsigned first) {
  program.call("close the rest", SYS_close_range, {first, ~0u, 0});
}

}  // namespace

Program parked(const ParkPlan& plan) {
  Program program;
  program.call("session", SYS_setsid, {});
  program.call("umask", SYS_umask, {022});
  // The host's own keys would be inherited.
  program.call("session keyring", SYS_keyctl, {KEYCTL_JOIN_SESSION_KEYRING, 0}, -1, ENOSYS);
  program.call("make mounts private", SYS_mount, {0, "/", 0, static_cast<long>(MS_REC | MS_PRIVATE), 0});
  // After the seat has adopted us: what /proc/self/cgroup shows is counted from here.
  if (plan.cgroup_namespace) program.call("cgroup namespace", SYS_unshare, {CLONE_NEWCGROUP});

  const std::vector<HostPath>& tree = *plan.tree;
  for (std::size_t i = 0; i < tree.size(); ++i) {
    if (tree[i].kind != HostPath::Kind::link)
      clone_tree(program, tree[i].path, static_cast<int>(i), kReadOnly | kNoSetuid | kNoDevices);
  }
  int slot = kDeviceSlot;
  for (const char* device : kDevices)
    clone_tree(program, std::string("/dev/") + device, slot++, kNoSetuid | kNoExec);

  // Built over /proc, which surely exists, and entered before anything of the host is covered by it.
  new_filesystem(program, "tmpfs", {{"mode", "0755"}, {"size", "4m"}, {"nr_inodes", "1k"}},
                 kNoSetuid | kNoDevices, kRootSlot);
  attach(program, kRootSlot, "/proc");
  program.call("enter the new root", SYS_fchdir, {Program::slot(kRootSlot)});

  std::set<std::string> made;
  for (std::size_t i = 0; i < tree.size(); ++i) {
    const std::string relative = tree[i].path.substr(1);
    make_parents(program, made, relative);
    switch (tree[i].kind) {
      case HostPath::Kind::link:
        program.call("link " + relative, SYS_symlinkat, {tree[i].target, AT_FDCWD, relative});
        continue;
      case HostPath::Kind::directory:
        if (made.insert(relative).second) make_directory(program, relative);
        break;
      case HostPath::Kind::file: make_file(program, relative, ""); break;
    }
    attach(program, static_cast<int>(i), relative);
  }

  make_directory(program, "dev");
  slot = kDeviceSlot;
  for (const char* device : kDevices) {
    make_file(program, std::string("dev/") + device, "");
    attach(program, slot++, std::string("dev/") + device);
  }
  const std::pair<const char*, const char*> links[] = {{"/proc/self/fd", "dev/fd"},
                                                       {"/proc/self/fd/0", "dev/stdin"},
                                                       {"/proc/self/fd/1", "dev/stdout"},
                                                       {"/proc/self/fd/2", "dev/stderr"},
                                                       {"/tmp", "dev/shm"}};
  for (const auto& [target, name] : links)
    program.call(std::string("link ") + name, SYS_symlinkat, {target, AT_FDCWD, name});

  make_directory(program, "proc");
  new_filesystem(program, "proc", {{"hidepid", "2"}}, kNoSetuid | kNoDevices | kNoExec, kRootSlot);
  attach(program, kRootSlot, "proc");

  make_directory(program, "tmp");
  const std::string id = std::to_string(plan.uid);
  new_filesystem(program, "tmpfs",
                 {{"mode", "0700"},
                  {"uid", id},
                  {"gid", id},
                  {"size", std::to_string(plan.tmp_bytes)},
                  // A file with a byte in it takes a page; those with none are to be bounded, too.
                  {"nr_inodes", std::to_string(plan.tmp_bytes / 4096 + 1)}},
                 kNoSetuid | kNoDevices, kRootSlot);
  attach(program, kRootSlot, "tmp");

  if (made.insert("etc").second) make_directory(program, "etc");
  make_file(program, "etc/passwd", absl::StrCat("sandbox:x:", kInsideId, ":", kInsideId, "::/tmp:/bin/sh\n"));
  make_file(program, "etc/group", absl::StrCat("sandbox:x:", kInsideId, ":\n"));
  make_file(program, "etc/hosts", "127.0.0.1 localhost\n");
  make_file(program, "etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files\n");

  make_directory(program, "faaskit");
  for (const auto& [name, content] : *plan.files) make_file(program, "faaskit/" + name, content);
  make_directory(program, "code");

  program.call("host name", SYS_sethostname, {"sandbox", 7});
  if (!plan.stay_outside) {
    enter(program);
    program.call("drop supplementary groups", SYS_setgroups, {0, 0});
  }
  close_from(program, kSpawnerControlFd + 1);
  return program;
}

Program furnished(const FurnishPlan& plan) {
  Program program;
  if (!plan.code_path.empty()) {
    const std::string what = "take code_path " + plan.code_path;
    program.call(what, SYS_openat2,
                 {AT_FDCWD, plan.code_path, Program::object(code_look(plan.links)),
                  static_cast<long>(sizeof(open_how))},
                 kWorkSlot);
    program.call(
        what, SYS_open_tree,
        {Program::slot(kWorkSlot), "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE},
        kCodeSlot);
    program.call(what, SYS_close, {Program::slot(kWorkSlot)});
    program.call("code_path read-only", SYS_mount_setattr,
                 {Program::slot(kCodeSlot), "", AT_EMPTY_PATH | AT_RECURSIVE,
                  Program::object(MountAttributes{kReadOnly | kNoSetuid | kNoDevices, 0, MS_PRIVATE, 0}),
                  static_cast<long>(sizeof(MountAttributes))});
    enter(program);
  }
  const std::string at = plan.code_file.empty() ? "/code" : "/code/" + plan.code_file;
  if (!plan.code_file.empty()) make_file(program, at, "");
  const Arg code = plan.code_path.empty() ? Program::fd(plan.code) : Program::slot(kCodeSlot);
  program.call("attach the code", SYS_move_mount, {code, "", AT_FDCWD, at, MOVE_MOUNT_F_EMPTY_PATH});
  if (plan.loopback) bring_up_loopback(program);
  if (plan.network_namespace >= 0) join_network(program, plan.network_namespace, plan.resolv_conf);
  program.call("root read-only", SYS_mount_setattr,
               {AT_FDCWD, "/", 0, Program::object(MountAttributes{kReadOnly, 0, 0, 0}),
                static_cast<long>(sizeof(MountAttributes))});
  limit(program, "pending signals", static_cast<int>(RLIMIT_SIGPENDING), kPendingSignals);
  limit(program, "core", static_cast<int>(RLIMIT_CORE), 0);
  limit(program, "open files", static_cast<int>(RLIMIT_NOFILE), plan.open_files);
  if (plan.data_bytes) limit(program, "data", static_cast<int>(RLIMIT_DATA), *plan.data_bytes);
  if (plan.processes) limit(program, "processes", static_cast<int>(RLIMIT_NPROC), *plan.processes);
  // Last: the namespaces above belong to the host's user namespace, so nobody in the new one has power over
  // them, whatever it becomes there.
  if (!plan.user_namespace) return program;
  // What the kernel counts for each user (inotify, pending signals, ...) it counts for the owner of the
  // user's namespace as well. Were that root, one sandbox could take what all the others and the host have.
  // With this bit the capabilities stay; the new namespace starts without it.
  program.call("keep capabilities", SYS_prctl, {PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP, 0, 0, 0});
  program.call("gid of the namespace's owner", SYS_setresgid, {plan.uid, plan.uid, plan.uid});
  program.call("uid of the namespace's owner", SYS_setresuid, {plan.uid, plan.uid, plan.uid});
  program.call("user namespace", SYS_unshare, {CLONE_NEWUSER});
  return program;
}

open_how code_look(bool links) {
  open_how how{};
  how.flags = O_PATH | O_CLOEXEC;
  how.resolve = links ? 0 : RESOLVE_NO_SYMLINKS;
  return how;
}

Program becomes(const BecomePlan& plan) {
  Program program;
  program.call("open /dev/null", SYS_openat, {AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC}, kWorkSlot);
  program.call("descriptor 0", SYS_dup3, {Program::slot(kWorkSlot), 0, 0});
  program.call("descriptor 1", SYS_dup3, {Program::fd(plan.output), 1, 0});
  program.call("descriptor 2", SYS_dup3, {1, 2, 0});
  program.call("descriptor 3", SYS_dup3, {Program::fd(plan.channel), 3, 0});
  close_from(program, kSpawnerControlFd + 1);

  // In a user namespace of its own the code would have all capabilities, and with them most of the kernel to
  // attack. The limit belongs to our namespace; only who is privileged in it may write it.
  if (plan.user_namespace) write_to(program, "/proc/sys/user/max_user_namespaces", "0");
  if (plan.user_namespace && plan.bound_inotify)
    write_to(program, kInotifyBound, absl::StrCat(kInotifyInstances));
  // Before the uid: without a user namespace, giving up root is giving up the right to do this.
  // EINVAL: beyond the last capability of this kernel.
  for (int capability = 0; capability < 64; ++capability)
    program.call("bounding set", SYS_prctl, {PR_CAPBSET_DROP, capability, 0, 0, 0}, -1, EINVAL);
  program.call("gid", SYS_setresgid, {plan.id, plan.id, plan.id});
  program.call("uid", SYS_setresuid, {plan.id, plan.id, plan.id});
  program.call("ambient set", SYS_prctl, {PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0});
  const __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  const __user_cap_data_struct nothing[2] = {};
  program.call("capabilities", SYS_capset, {Program::object(header), Program::object(nothing)});
  program.call("no new privileges", SYS_prctl, {PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0});
  program.call("umask", SYS_umask, {077});
  program.call("chdir /code", SYS_chdir, {"/code"});
  // The control socket closes on exec, which is how the host knows.
  program.call("control socket", SYS_fcntl, {static_cast<int>(kSpawnerControlFd), F_SETFD, FD_CLOEXEC});
  // What follows is all that the filter lets pass of ours: this execve, and if it fails the report of that.
  if (plan.filter != nullptr)
    program.call("system call filter", SYS_seccomp,
                 {SECCOMP_SET_MODE_FILTER, 0, Program::block(*plan.filter)});
  program.call("exec " + plan.argv.front(), SYS_execve,
               {plan.argv.front(), Program::table(plan.argv), Program::table(plan.environment)});
  return program;
}

}  // namespace faaskit::process
