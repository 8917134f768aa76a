#define _GNU_SOURCE
#include <stdio.h>
#include <sys/mman.h>
#include <unistd.h>

#include "quipu/format.h"

double fuzz_seen; /* data are read, so that a sanitizer watches */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static qp_ctx *ctx;
    char           path[40];
    if (!ctx) ctx = qp_open((qp_options){.threads = 1});
    int fd = memfd_create("input", 0);
    if (fd < 0 || write(fd, data, size) != (ssize_t)size) return -1;
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    qp_file *f = qp_file_open(ctx, path, (qp_file_options){.in_memory = size & 1});
    if (!f != qp_failed(ctx)) __builtin_trap();
    for (int64_t i = 0; i < qp_file_count(f); i++) {
        qp_scope  s = qp_enter(ctx);
        qp_tensor t = qp_file_load(ctx, f, qp_file_at(f, i).name, i & 1);
        if (qp_count(t) == 1) fuzz_seen = qp_item(t);
        qp_leave(s);
        qp_clear(ctx);
    }
    qp_file_close(f);
    qp_clear(ctx);
    close(fd);
    return 0;
}
