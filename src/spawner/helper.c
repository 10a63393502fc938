/* Entry of the static helper: no C library, no start files. */
#include "sys.h"

#if defined(__x86_64__)
__asm__(
    ".text\n.global _start\n_start:\n"
    "  xor %ebp, %ebp\n  mov %rsp, %rdi\n  and $-16, %rsp\n  call helper_start\n  ud2\n");
#elif defined(__aarch64__)
__asm__(".text\n.global _start\n_start:\n  mov x29, #0\n  mov x0, sp\n  bl helper_start\n  brk #0\n");
#endif

/* The compiler may turn a loop into a call of these, so they must exist; the empty asm keeps it from
 * turning these very loops into calls of themselves. */
void* memset(void* to, int byte, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    ((unsigned char*)to)[i] = (unsigned char)byte;
    __asm__ volatile("" ::: "memory");
  }
  return to;
}

void* memcpy(void* to, const void* from, size_t n) {
  for (size_t i = 0; i < n; ++i) {
    ((unsigned char*)to)[i] = ((const unsigned char*)from)[i];
    __asm__ volatile("" ::: "memory");
  }
  return to;
}

void helper_start(long* stack);

void helper_start(long* stack) {
  int argc = (int)stack[0];
  char** argv = (char**)(stack + 1);
  int status = 64;
  if (argc >= 1 && text_equal(argv[0], "faaskit-spare")) status = spare_main();
  if (argc >= 1 && text_equal(argv[0], "faaskit-guardian")) status = guardian_main(argc, argv);
  sys_exit(status);
}
