/* The guardian of one instance: waits until its host is gone, however it went, and then leaves nothing of
 * the instance behind. Also run once by the start-up sweep, with a pipe that has already ended.
 *
 * Arguments: "v2:DIR" and "v1f:DIR" (freezer) and "v1:DIR" are the instance's group in one hierarchy, each
 * holding one group per seat; "run:DIR" is its runtime directory, with files and empty directories. All
 * absolute.
 * Descriptor 4 is the line to the host, 5 the instance's lock, held until all is gone, 6 the host's pidfd, if
 * any. Exit status 0: nothing is left. 1: something would not go within the time. */
#include "protocol.h"
#include "sys.h"

#include <linux/fcntl.h>
#include <linux/poll.h>

enum {
  kRounds = 1000, /* of 5 ms */
  kHostFd = 6,
  kReadOnly = 0,
  kWriteOnly = 1,
#if defined(__aarch64__)
  kDirectory = 040000,
#else
  kDirectory = 0200000,
#endif
  kCloexec = 02000000,
  kSigKill = 9,
};

struct entry {
  uint64_t inode;
  int64_t offset;
  unsigned short bytes;
  unsigned char type;
  char name[];
};

/* The line ends when the host lets go of us; the pidfd when it dies, even if a child that it forked still
 * holds the line. */
static void wait_for_end_of_host(void) {
  struct pollfd ends[2] = {{kSpawnerControlFd, POLLIN, 0}, {kHostFd, POLLIN, 0}};
  for (;;) {
    long ready = sys6(__NR_ppoll, (long)ends, 2, 0, 0, 8, 0);
    if (ready == -kEINTR) continue;
    if (ready < 0 || ends[0].revents || (ends[1].revents & POLLIN)) return;
    if (ends[1].revents) ends[1].fd = -1; /* none given */
  }
}

static long open_at(int dir, const char* name, int flags) {
  return SYS(__NR_openat, dir, name, flags | kCloexec, 0);
}

static int write_text(int dir, const char* name, const char* text) {
  long fd = open_at(dir, name, kWriteOnly);
  if (fd < 0) return 0;
  long wrote = SYS(__NR_write, fd, text, text_length(text), 0);
  SYS(__NR_close, fd, 0, 0, 0);
  return wrote > 0;
}

/* SIGKILL for every process in `dir`. */
static void kill_members(int dir) {
  char text[4096];
  long fd = open_at(dir, "cgroup.procs", kReadOnly);
  if (fd < 0) return;
  long pid = 0;
  for (;;) {
    long got = SYS(__NR_read, fd, text, sizeof text, 0);
    if (got <= 0) break;
    for (long i = 0; i < got; ++i) {
      if (text[i] >= '0' && text[i] <= '9') {
        pid = pid * 10 + (text[i] - '0');
      } else {
        /* Never 0 or 1: a process of a foreign pid namespace reads as 0. */
        if (pid > 1) SYS(__NR_kill, pid, kSigKill, 0, 0);
        pid = 0;
      }
    }
  }
  SYS(__NR_close, fd, 0, 0, 0);
}

enum action { kFreezeAndKill, kKill, kThaw, kRemoveDirectory, kUnlink };

/* What a later sweep knows a runtime directory by; these go last. */
static int is_record(const char* name) { return text_equal(name, "lock") || text_equal(name, "groups"); }

/* Does `what` to each entry of `dir`. Groups are one level deep. Returns how many could not be unlinked. */
static int for_each(int dir, enum action what) {
  _Alignas(8) char list[8192];
  int left = 0;
  SYS(__NR_lseek, dir, 0, 0, 0);
  for (;;) {
    long got = SYS(__NR_getdents64, dir, list, sizeof list, 0);
    if (got <= 0) return left;
    for (long at = 0; at < got;) {
      const struct entry* item = (const struct entry*)(const void*)(list + at);
      at += item->bytes;
      if (text_equal(item->name, ".") || text_equal(item->name, "..")) continue;
      if (what == kUnlink) {
        if (!is_record(item->name) && SYS(__NR_unlinkat, dir, item->name, 0, 0) < 0 &&
            SYS(__NR_unlinkat, dir, item->name, AT_REMOVEDIR, 0) < 0)
          ++left;
        continue;
      }
      if (item->type != 4 /* DT_DIR */) continue;
      if (what == kRemoveDirectory) {
        SYS(__NR_unlinkat, dir, item->name, AT_REMOVEDIR, 0);
        continue;
      }
      long group = open_at(dir, item->name, kDirectory);
      if (group < 0) continue;
      if (what == kFreezeAndKill) write_text((int)group, "freezer.state", "FROZEN");
      if (what == kFreezeAndKill || what == kKill) kill_members((int)group);
      if (what == kThaw) write_text((int)group, "freezer.state", "THAWED");
      SYS(__NR_close, group, 0, 0, 0);
    }
  }
}

/* Returns 1 once `path` does not exist. */
static int clear_groups(const char* path, int is_v2, int is_freezer) {
  long dir = open_at(AT_FDCWD, path, kDirectory);
  if (dir == -kENOENT) return 1;
  if (dir < 0) return 0;
  if (is_v2 && write_text((int)dir, "cgroup.kill", "1")) {
    /* The whole subtree, frozen or not. */
  } else if (is_freezer) {
    /* On v1 a frozen process keeps its SIGKILL for later; nothing can fork while it is frozen. */
    for_each((int)dir, kFreezeAndKill);
    for_each((int)dir, kThaw);
  } else {
    for_each((int)dir, kKill);
  }
  for_each((int)dir, kRemoveDirectory);
  SYS(__NR_close, dir, 0, 0, 0);
  long gone = SYS(__NR_unlinkat, AT_FDCWD, path, AT_REMOVEDIR, 0);
  return gone == 0 || gone == -kENOENT;
}

/* Returns 1 once the runtime directory does not exist. */
static int clear_run(const char* path) {
  if (path[0] != '/') return 0;
  long dir = open_at(AT_FDCWD, path, kDirectory);
  if (dir == -kENOENT) return 1;
  if (dir < 0) return 0;
  const int left = for_each((int)dir, kUnlink);
  if (!left) {
    SYS(__NR_unlinkat, dir, "groups", 0, 0);
    SYS(__NR_unlinkat, dir, "lock", 0, 0);
  }
  SYS(__NR_close, dir, 0, 0, 0);
  if (left) return 0;
  long gone = SYS(__NR_unlinkat, AT_FDCWD, path, AT_REMOVEDIR, 0);
  return gone == 0 || gone == -kENOENT;
}

static const char* after(const char* text, const char* prefix) {
  while (*prefix) {
    if (*text++ != *prefix++) return 0;
  }
  return text;
}

int guardian_main(int argc, char** argv) {
  uint64_t all = ~(uint64_t)0;
  SYS(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &all, 0, 8);
  SYS(__NR_prctl, 15 /* PR_SET_NAME */, "faaskit-guard", 0, 0);
  SYS(__NR_setsid, 0, 0, 0, 0);
  SYS(__NR_chdir, "/", 0, 0, 0);
  wait_for_end_of_host();

  int left = 1;
  for (int round = 0; round < kRounds && left; ++round) {
    if (round > 0) {
      const int64_t pause[2] = {0, 5 * 1000 * 1000};
      SYS(__NR_nanosleep, pause, 0, 0, 0);
    }
    left = 0;
    for (int i = 1; i < argc; ++i) {
      const char* v2 = after(argv[i], "v2:");
      const char* freezer = after(argv[i], "v1f:");
      const char* v1 = after(argv[i], "v1:");
      if (v2 && !clear_groups(v2, 1, 0)) left = 1;
      if (freezer && !clear_groups(freezer, 0, 1)) left = 1;
      if (v1 && !clear_groups(v1, 0, 0)) left = 1;
    }
  }
  /* The directory last, and only when all else is gone: it is what a later sweep knows us by. */
  if (left) return 1;
  for (int i = 1; i < argc; ++i) {
    const char* run = after(argv[i], "run:");
    if (run && !clear_run(run)) left = 1;
  }
  return left;
}
