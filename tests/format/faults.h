/* Makes the n-th call of the heap or of the operating system fail, in the program that
 * includes this (once), and counts what is held. glibc only; not together with sanitizers
 * that bring a heap of their own.
 *
 *     faults_begin(n); ...; if (faults_end()) ...
 */
#ifndef TESTS_FORMAT_FAULTS_H
#define TESTS_FORMAT_FAULTS_H

#include <stdbool.h>
#include <stdlib.h>

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || !defined(__GLIBC__)
#define FAULTS 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define FAULTS 0
#endif
#endif
#ifndef FAULTS
#define FAULTS 1
#endif

#if FAULTS
#include <dirent.h>
#include <errno.h>
#include <execinfo.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static atomic_long faults_held, faults_calls, faults_at;
static atomic_bool faults_hit;

/* The n-th read or write is interrupted instead (EINTR): that is no failure. */
static atomic_long faults_transfers, faults_interrupted;
static bool faults_interrupt(void) {
    if (atomic_load(&faults_interrupted) == 0 ||
        atomic_fetch_add(&faults_transfers, 1) + 1 != atomic_load(&faults_interrupted))
        return false;
    errno = EINTR;
    return true;
}
static inline void faults_interrupt_at(long n) {
    atomic_store(&faults_transfers, 0);
    atomic_store(&faults_interrupted, n);
}

/* Where calls came from, while these are recorded: a number for each row of callers. */
#define FAULTS_RECORDED (1 << 20)
static uint64_t    faults_from[FAULTS_RECORDED];
static atomic_long faults_recorded;
static atomic_bool faults_recording;

static void faults_record(void) {
    void    *callers[64];
    uint64_t from = 0;
    long     at = atomic_fetch_add(&faults_recorded, 1);
    int      n = backtrace(callers, 64);
    for (int i = 0; i < n; i++) from = (from ^ (uintptr_t)callers[i]) * UINT64_C(0x9E3779B97F4A7C15);
    if (at < FAULTS_RECORDED) faults_from[at] = from;
}
static inline void faults_record_begin(void) {
    backtrace((void *[1]){0}, 1); /* loads what it needs */
    atomic_store(&faults_recorded, 0);
    atomic_store(&faults_recording, true);
}
/* How many calls there were: faults_from[0 .. n - 1]. */
static inline long faults_record_end(void) {
    atomic_store(&faults_recording, false);
    long n = atomic_load(&faults_recorded);
    return n < FAULTS_RECORDED ? n : FAULTS_RECORDED;
}

/* Not 0: what the call fails with instead; and the size that fstat says. */
static atomic_int   faults_error;
static atomic_llong faults_size;

/* Should this call fail? */
static bool faults_now(int error) {
    if (atomic_load(&faults_recording)) faults_record();
    if (atomic_load(&faults_at) == 0 || atomic_fetch_add(&faults_calls, 1) + 1 != atomic_load(&faults_at))
        return false;
    atomic_store(&faults_hit, true);
    errno = atomic_load(&faults_error) ? atomic_load(&faults_error) : error;
    return true;
}

static inline void faults_begin(long n) {
    atomic_store(&faults_hit, false);
    atomic_store(&faults_calls, 0);
    atomic_store(&faults_at, n);
}
/* Calls work again; true if one failed. */
static inline bool faults_end(void) {
    atomic_store(&faults_at, 0);
    return atomic_load(&faults_hit);
}

extern void *__libc_malloc(size_t), *__libc_calloc(size_t, size_t), *__libc_realloc(void *, size_t);
extern void *__libc_memalign(size_t, size_t);
extern void __libc_free(void *);

/* Shared libraries shall find these, too. */
#pragma GCC visibility push(default)

static void *faults_got(void *p) {
    if (p) atomic_fetch_add(&faults_held, 1);
    return p;
}
void *malloc(size_t n) { return faults_now(ENOMEM) ? NULL : faults_got(__libc_malloc(n)); }
void *calloc(size_t n, size_t m) { return faults_now(ENOMEM) ? NULL : faults_got(__libc_calloc(n, m)); }
void *aligned_alloc(size_t a, size_t n) {
    return faults_now(ENOMEM) ? NULL : faults_got(__libc_memalign(a, n));
}
void *realloc(void *p, size_t n) {
    if (faults_now(ENOMEM)) return NULL;
    void *q = __libc_realloc(p, n);
    return p ? q : faults_got(q);
}
void free(void *p) {
    if (p) atomic_fetch_sub(&faults_held, 1);
    __libc_free(p);
}

int open(const char *path, int flags, ...) {
    va_list args;
    va_start(args, flags);
    int mode = flags & O_CREAT ? va_arg(args, int) : 0;
    va_end(args);
    return faults_now(EIO) ? -1 : (int)syscall(SYS_openat, AT_FDCWD, path, flags, mode);
}
ssize_t read(int fd, void *data, size_t n) {
    return faults_now(EIO) || faults_interrupt() ? -1 : syscall(SYS_read, fd, data, n);
}
ssize_t write(int fd, const void *data, size_t n) {
    return faults_now(ENOSPC) || faults_interrupt() ? -1 : syscall(SYS_write, fd, data, n);
}
int fstat(int fd, struct stat *s) {
    if (faults_now(EIO)) return -1;
    int result = (int)syscall(SYS_fstat, fd, s);
    if (atomic_load(&faults_size)) s->st_size = atomic_load(&faults_size);
    return result;
}
ssize_t readlink(const char *path, char *to, size_t n) {
    return faults_now(EIO) ? -1 : syscall(SYS_readlinkat, AT_FDCWD, path, to, n);
}
int symlink(const char *target, const char *path) {
    return faults_now(EIO) ? -1 : (int)syscall(SYS_symlinkat, target, AT_FDCWD, path);
}
DIR *opendir(const char *path) {
    if (faults_now(EIO)) return NULL;
    int  fd = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0);
    DIR *d = fd < 0 ? NULL : fdopendir(fd);
    if (!d && fd >= 0) syscall(SYS_close, fd); /* fdopendir allocates, which may have been what failed */
    return d;
}
int fsync(int fd) { return faults_now(EIO) ? -1 : (int)syscall(SYS_fsync, fd); }
int close(int fd) {
    bool fails = faults_now(EIO); /* a descriptor is gone even if closing it fails */
    int  result = (int)syscall(SYS_close, fd);
    return fails ? -1 : result;
}
int rename(const char *from, const char *to) {
    return faults_now(EIO) ? -1 : (int)syscall(SYS_renameat, AT_FDCWD, from, AT_FDCWD, to);
}
int mkdir(const char *path, mode_t mode) {
    return faults_now(EIO) ? -1 : (int)syscall(SYS_mkdirat, AT_FDCWD, path, mode);
}
void *mmap(void *at, size_t n, int protection, int flags, int fd, off_t offset) {
    if (faults_now(ENOMEM)) return MAP_FAILED;
    return (void *)syscall(SYS_mmap, at, n, protection, flags, fd, offset);
}

#pragma GCC visibility pop
#endif
#endif
