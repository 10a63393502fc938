/* What the host and the static helper say to each other.
 *
 * The helper has two lives. As a *spare* it sits in fresh namespaces and runs lists of system calls that
 * the host sends it, until one of them is execve: all policy stays in the host, and a failure is named by
 * the number of the call. As a *guardian* it waits for the host to end and then clears up after it.
 *
 * Descriptors of both: 0 to 2 /dev/null, 4 the control socket (spare) or the pipe from the host
 * (guardian). Included by C (freestanding) and by C++. */
#ifndef FAASKIT_SPAWNER_PROTOCOL_H_
#define FAASKIT_SPAWNER_PROTOCOL_H_

#include <stdint.h>

enum {
  kSpawnerControlFd = 4,
  kSpawnerMagic = 0x6661736b,
  kSpawnerMaxBytes = 1 << 20, /* a whole program, header included */
  kSpawnerMaxFds = 16,        /* sent with one program */
  kSpawnerSlots = 64,         /* results kept for later calls of the same program */
};

enum SpawnerArg {
  kArgImmediate = 0,
  kArgData = 1,  /* offset into the program's data */
  kArgFd = 2,    /* index of a descriptor that came with the program */
  kArgSlot = 3,  /* result of an earlier call */
  kArgTable = 4, /* offset of an array of uint64_t offsets, ended by UINT64_MAX: argv, envp */
  kArgBlock = 5, /* offset of two uint64_t: a count, and an offset: struct sock_fprog */
};

struct SpawnerCall {
  uint64_t number; /* of the system call */
  uint64_t args[6];
  uint8_t kinds[6];  /* SpawnerArg */
  int8_t save;       /* slot that keeps the result; -1: none */
  uint8_t tolerated; /* errno that is no failure; 0: none */
};

/* Followed by `calls` SpawnerCall and `data_bytes` bytes. Descriptors travel with the first byte. */
struct SpawnerProgram {
  uint32_t magic;
  uint32_t calls;
  uint32_t data_bytes;
  uint32_t fds;
};

/* Sent after each program; a program that ends in a successful execve closes the socket instead. */
struct SpawnerReply {
  int32_t failed_call; /* index; -1: all succeeded */
  int32_t error;       /* errno */
};

#endif
