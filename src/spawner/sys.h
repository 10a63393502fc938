/* System calls without a C library: starting glibc, even linked statically, costs ten times as much as
 * everything the helper does. */
#ifndef FAASKIT_SPAWNER_SYS_H_
#define FAASKIT_SPAWNER_SYS_H_

#include <asm/unistd.h>
#include <stddef.h>
#include <stdint.h>

/* Results below zero are -errno. */
static inline long sys6(long n, long a, long b, long c, long d, long e, long f) {
#if defined(__x86_64__)
  register long r10 __asm__("r10") = d;
  register long r8 __asm__("r8") = e;
  register long r9 __asm__("r9") = f;
  long result;
  __asm__ volatile("syscall"
                   : "=a"(result)
                   : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                   : "rcx", "r11", "memory");
  return result;
#elif defined(__aarch64__)
  register long x8 __asm__("x8") = n;
  register long x0 __asm__("x0") = a;
  register long x1 __asm__("x1") = b;
  register long x2 __asm__("x2") = c;
  register long x3 __asm__("x3") = d;
  register long x4 __asm__("x4") = e;
  register long x5 __asm__("x5") = f;
  __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
  return x0;
#else
#error "faaskit: the helper knows x86_64 and aarch64"
#endif
}
#define SYS(n, a, b, c, d) sys6(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)

enum { kEINTR = 4, kENOENT = 2, kEPERM = 1 };

static inline void sys_exit(int status) {
  for (;;) SYS(__NR_exit_group, status, 0, 0, 0);
}

static inline size_t text_length(const char* s) {
  size_t n = 0;
  while (s[n]) ++n;
  return n;
}

static inline int text_equal(const char* a, const char* b) {
  while (*a && *a == *b) ++a, ++b;
  return *a == *b;
}

int spare_main(void);
int guardian_main(int argc, char** argv);

#endif
