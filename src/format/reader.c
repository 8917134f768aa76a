#define _DEFAULT_SOURCE /* madvise */
#include "format/reader.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define ALIGN 64

static int open_regular(const char *path, uint64_t *size, qpi_error *e) {
    struct stat s;
    /* Without O_NONBLOCK opening a pipe would wait for its writer. */
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0) {
        qpi_fail_os(e, path, "open");
        return -1;
    }
    if (fstat(fd, &s) != 0) {
        qpi_fail_os(e, path, "examine");
    } else if (!S_ISREG(s.st_mode)) {
        qpi_fail(e, QP_ERR_IO, "%s: expected a regular file, found %s", path,
                 S_ISDIR(s.st_mode) ? "a folder" : "a device or pipe");
    } else if ((uint64_t)s.st_size > PTRDIFF_MAX / 2) {
        qpi_fail(e, QP_ERR_IO, "%s: %jd bytes are more than this machine can address", path,
                 (intmax_t)s.st_size);
    } else {
        *size = (uint64_t)s.st_size;
        return fd;
    }
    close(fd);
    return -1;
}

static bool map_file(qpi_bytes *b, int fd, qpi_error *e) {
    void *p = mmap(NULL, (size_t)b->size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        qpi_fail_os(e, b->path, "map");
        return false;
    }
#ifdef MADV_HUGEPAGE /* 2 MB at a time where the system can: cold files come sooner, weights pass faster */
    madvise(p, (size_t)b->size, MADV_HUGEPAGE);
#endif
    b->data = p;
    b->mapped = true;
    return true;
}

static bool read_file(qpi_bytes *b, int fd, qpi_error *e) {
    uint8_t *data = aligned_alloc(ALIGN, ((size_t)b->size + ALIGN) / ALIGN * ALIGN);
    if (!data) {
        qpi_fail_memory(e, b->path);
        return false;
    }
    b->data = data;
    for (uint64_t at = 0; at < b->size;) {
        ssize_t n = read(fd, data + at, (size_t)(b->size - at));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) {
            qpi_fail_os(e, b->path, "read");
            return false;
        }
        if (n == 0) {
            qpi_fail(e, QP_ERR_IO, "%s: offset %" PRIu64 ": expected %" PRIu64 " bytes, the file shrank",
                     b->path, at, b->size);
            return false;
        }
        at += (uint64_t)n;
    }
    return true;
}

qpi_bytes *qpi_bytes_open(const char *path, qpi_open_mode mode, qpi_error *e) {
    uint64_t size = 0;
    int      fd = open_regular(path, &size, e);
    if (fd < 0) return NULL;
    size_t     length = strlen(path) + 1;
    qpi_bytes *b = malloc(sizeof *b + length);
    if (!b) {
        qpi_fail_memory(e, path);
        close(fd);
        return NULL;
    }
    *b = (qpi_bytes){.path = memcpy(b + 1, path, length), .size = size, .refs = 1};
    /* An empty file cannot be mapped. */
    bool ok = mode == QPI_MAP && size > 0 ? map_file(b, fd, e) : read_file(b, fd, e);
    close(fd);
    if (ok) return b;
    qpi_bytes_release(b);
    return NULL;
}

qpi_bytes *qpi_bytes_retain(qpi_bytes *b) {
    atomic_fetch_add_explicit(&b->refs, 1, memory_order_relaxed);
    return b;
}

void qpi_bytes_release(void *bytes) {
    qpi_bytes *b = bytes;
    if (!b || atomic_fetch_sub_explicit(&b->refs, 1, memory_order_acq_rel) != 1) return;
    if (b->mapped) munmap((void *)b->data, (size_t)b->size);
    else free((void *)b->data);
    free(b);
}

qpi_reader qpi_reader_over(const char *name, const void *data, uint64_t size, qpi_error *e) {
    return (qpi_reader){.name = name, .data = data, .size = size, .error = e};
}

void qpi_read_fail(qpi_reader *r, uint64_t at, const char *format, ...) {
    char    text[400];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    qpi_fail(r->error, QP_ERR_FORMAT, "%s: offset %" PRIu64 ": %s", r->name, at, text);
    r->failed = true;
}

const uint8_t *qpi_read_span(qpi_reader *r, uint64_t n, const char *what) {
    if (r->failed) return NULL;
    if (n > r->size - r->at) {
        qpi_read_fail(r, r->at, "expected %" PRIu64 " bytes (%s), found %" PRIu64 " to the end", n, what,
                      r->size - r->at);
        return NULL;
    }
    const uint8_t *p = r->data + r->at;
    r->at += n;
    return p;
}

static uint64_t read_little(qpi_reader *r, int bytes, const char *what) {
    const uint8_t *p = qpi_read_span(r, (uint64_t)bytes, what);
    uint64_t       x = 0;
    if (p)
        for (int i = 0; i < bytes; i++) x |= (uint64_t)p[i] << 8 * i;
    return x;
}

uint8_t qpi_read_u8(qpi_reader *r, const char *what) { return (uint8_t)read_little(r, 1, what); }
uint32_t qpi_read_u32(qpi_reader *r, const char *what) { return (uint32_t)read_little(r, 4, what); }
uint64_t qpi_read_u64(qpi_reader *r, const char *what) { return read_little(r, 8, what); }
