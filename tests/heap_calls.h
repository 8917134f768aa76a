/* Heap calls of the process, counted while `counting`; a malloc of `refused` bytes fails once. Not under sanitizers, which bring a heap of
 * their own. For the program that includes this, once. */
#ifndef TESTS_HEAP_CALLS_H
#define TESTS_HEAP_CALLS_H

#include <stdatomic.h>
#include <stdlib.h>

static atomic_bool counting;
static atomic_int  heap_calls;
static size_t      refused;

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__) && defined(__GLIBC__)
#define COUNTS_HEAP 1
void *__libc_malloc(size_t);
void *__libc_calloc(size_t, size_t);
void *__libc_realloc(void *, size_t);
void *__libc_memalign(size_t, size_t);
static void count(void) {
    if (atomic_load(&counting)) atomic_fetch_add(&heap_calls, 1);
}
void *malloc(size_t n) {
    count();
    if (n && n == refused) return refused = 0, NULL;
    return __libc_malloc(n);
}
void *calloc(size_t n, size_t size) { return count(), __libc_calloc(n, size); }
void *realloc(void *p, size_t n) { return count(), __libc_realloc(p, n); }
void *aligned_alloc(size_t alignment, size_t n) { return count(), __libc_memalign(alignment, n); }
#else
#define COUNTS_HEAP 0
#endif

#endif
