/* A spare: runs the programs its host sends, until one becomes the sandbox. Ends when the host does. */
#include "protocol.h"
#include "sys.h"

#include <linux/prctl.h>
#include <linux/socket.h>
#include <linux/uio.h>

/* The kernel's shapes; its own headers hide them behind libc's. */
struct message_header {
  void* name;
  int name_bytes;
  struct iovec* parts;
  size_t part_count;
  void* control;
  size_t control_bytes;
  unsigned flags;
};
struct control_header {
  size_t bytes;
  int level;
  int type;
};
enum { kSolSocket = 1, kScmRights = 1, kCmsgCloexec = 0x40000000, kNoSignal = 0x4000 };

static _Alignas(16) unsigned char buffer[kSpawnerMaxBytes];
static int fds[kSpawnerMaxFds];
static uint32_t fd_count;
static long slots[kSpawnerSlots];

/* Reads `n` bytes; the first read also takes the descriptors. 0: the host is gone. */
static int receive(unsigned char* to, size_t n, int take_fds) {
  while (n > 0) {
    _Alignas(8) unsigned char control[sizeof(struct control_header) + sizeof(int) * kSpawnerMaxFds];
    struct iovec part = {to, n};
    struct message_header message = {0, 0, &part, 1, take_fds ? control : 0, take_fds ? sizeof control : 0,
                                     0};
    long got = SYS(__NR_recvmsg, kSpawnerControlFd, &message, kCmsgCloexec, 0);
    if (got == -kEINTR) continue;
    if (got <= 0) return 0;
    if (take_fds && message.control_bytes >= sizeof(struct control_header)) {
      const struct control_header* header = (const struct control_header*)control;
      if (header->level == kSolSocket && header->type == kScmRights) {
        const int* received = (const int*)(header + 1);
        fd_count = (uint32_t)((header->bytes - sizeof *header) / sizeof(int));
        for (uint32_t i = 0; i < fd_count; ++i) fds[i] = received[i];
      }
    }
    take_fds = 0;
    to += got;
    n -= (size_t)got;
  }
  return 1;
}

static uint64_t resolve(const struct SpawnerCall* call, int i, unsigned char* data) {
  const uint64_t value = call->args[i];
  switch (call->kinds[i]) {
    case kArgData: return (uint64_t)(uintptr_t)(data + value);
    case kArgFd: return value < fd_count ? (uint64_t)fds[value] : (uint64_t)-1;
    case kArgSlot: return value < kSpawnerSlots ? (uint64_t)slots[value] : (uint64_t)-1;
    case kArgTable: {
      uint64_t* entry = (uint64_t*)(void*)(data + value);
      uint64_t* const table = entry;
      for (; *entry != UINT64_MAX; ++entry) *entry = (uint64_t)(uintptr_t)(data + *entry);
      *entry = 0;
      return (uint64_t)(uintptr_t)table;
    }
    case kArgBlock: {
      uint64_t* const block = (uint64_t*)(void*)(data + value);
      block[1] = (uint64_t)(uintptr_t)(data + block[1]);
      return (uint64_t)(uintptr_t)block;
    }
    default: return value;
  }
}

int spare_main(void) {
  /* A blocked or ignored signal would be inherited by the function's code. */
  uint64_t nothing[4] = {0, 0, 0, 0};
  for (int signal = 1; signal <= 64; ++signal) SYS(__NR_rt_sigaction, signal, nothing, 0, 8);
  SYS(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, nothing, 0, 8);
  SYS(__NR_prctl, PR_SET_NAME, "faaskit-spare", 0, 0);

  for (;;) {
    struct SpawnerProgram* program = (struct SpawnerProgram*)buffer;
    fd_count = 0;
    if (!receive(buffer, sizeof *program, 1)) return 0;
    if (program->magic != kSpawnerMagic || program->data_bytes > kSpawnerMaxBytes ||
        program->calls > kSpawnerMaxBytes / sizeof(struct SpawnerCall))
      return 65;
    const size_t call_bytes = program->calls * sizeof(struct SpawnerCall);
    if (sizeof *program + call_bytes + program->data_bytes > kSpawnerMaxBytes) return 65;
    if (!receive(buffer + sizeof *program, call_bytes + program->data_bytes, 0)) return 0;

    const struct SpawnerCall* calls = (const struct SpawnerCall*)(buffer + sizeof *program);
    unsigned char* data = buffer + sizeof *program + call_bytes;
    struct SpawnerReply reply = {-1, 0};
    if (fd_count != program->fds) return 65;
    for (uint32_t i = 0; i < program->calls; ++i) {
      const struct SpawnerCall* call = &calls[i];
      long args[6];
      for (int a = 0; a < 6; ++a) args[a] = (long)resolve(call, a, data);
      const long result = sys6((long)call->number, args[0], args[1], args[2], args[3], args[4], args[5]);
      if (result < 0 && result > -4096 && -result != call->tolerated) {
        reply.failed_call = (int32_t)i;
        reply.error = (int32_t)-result;
        break;
      }
      if (call->save >= 0 && call->save < kSpawnerSlots) slots[(int)call->save] = result;
    }
    if (sys6(__NR_sendto, kSpawnerControlFd, (long)&reply, sizeof reply, kNoSignal, 0, 0) !=
        (long)sizeof reply)
      return 0;
  }
}
