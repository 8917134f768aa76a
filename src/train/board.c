/* TensorBoard's event files. */
#define _GNU_SOURCE /* clock_gettime, gethostname, O_CLOEXEC */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "core/core.h"
#include "format/events.h"
#include "format/os.h"
#include "quipu/train.h"

#define CLASSES 64

struct qp_board {
    qp_ctx    *ctx;
    qpi_owned *owned;
    FILE      *file;
    qpi_buffer pending;
    char       path[4096];
};

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void destroy(void *thing) {
    qp_board *b = thing;
    if (b->file) fclose(b->file);
    qpi_buffer_free(&b->pending);
    free(b);
}

/* Writes what was put into `pending`; ok: that was possible. */
static void flush(qp_board *b, bool ok) {
    if (!ok) qpi_fail_memory(&b->ctx->error, b->path);
    else if (fwrite(b->pending.data, 1, b->pending.count, b->file) != b->pending.count || fflush(b->file) != 0)
        qpi_fail_os(&b->ctx->error, b->path, "write");
    b->pending.count = 0;
}

/* TensorBoard takes files in the order of their names. */
static bool create(qp_board *b, const char *folder) {
    char host[65] = "";
    int  fd = -1;
    if (mkdir(folder, 0777) != 0 && errno != EEXIST) return qpi_fail_os(&b->ctx->error, folder, "make"), false;
    if (gethostname(host, sizeof host - 1) != 0) host[0] = 0;
    for (int i = 0; fd < 0 && i < 1000; i++) {
        if (snprintf(b->path, sizeof b->path, "%s/events.out.tfevents.%010" PRId64 ".%s.%ld.%d", folder,
                     (int64_t)now(), host, (long)getpid(), i) >= (int)sizeof b->path)
            return qp_fail(b->ctx, QP_ERR_ARGUMENT, "the path is too long: %.60s...", folder), false;
        fd = open(b->path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_CLOEXEC, 0666);
        if (fd < 0 && errno != EEXIST) break;
    }
    if (fd >= 0 && !(b->file = fdopen(fd, "ab"))) close(fd);
    if (!b->file) qpi_fail_os(&b->ctx->error, b->path, "make");
    return b->file != NULL;
}

qp_board *qp_board_open(qp_ctx *ctx, const char *folder, int64_t step) {
    if (qp_failed(ctx)) return NULL;
    qp_board *b = calloc(1, sizeof *b);
    if (!b || !(b->owned = qpi_own(ctx, b, destroy))) {
        free(b);
        qp_fail(ctx, QP_ERR_MEMORY, "out of memory: board");
        return NULL;
    }
    b->ctx = ctx;
    if (create(b, folder))
        flush(b, qpi_events_version(&b->pending, now()) && qpi_events_start(&b->pending, now(), step + 1));
    if (!qp_failed(ctx)) return b;
    qp_board_close(b);
    return NULL;
}

void qp_board_scalar(qp_board *b, const char *tag, int64_t step, double value) {
    if (!qp_failed(b->ctx)) flush(b, qpi_events_scalar(&b->pending, now(), step, tag, value));
}

void qp_board_text(qp_board *b, const char *tag, int64_t step, const char *text) {
    if (!qp_failed(b->ctx)) flush(b, qpi_events_text(&b->pending, now(), step, tag, text));
}

/* Values that are not finite are left out. */
static qpi_histogram measure(const float *x, int64_t n, double factor) {
    qpi_histogram h = {.min = INFINITY, .max = -INFINITY};
    for (int64_t i = 0; i < n; i++) {
        double y = factor * (double)x[i];
        if (!isfinite(y)) continue;
        h.min = fmin(h.min, y);
        h.max = fmax(h.max, y);
        h.sum += y;
        h.sum_squares += y * y;
        h.count++;
    }
    if (!h.count) h.min = h.max = 0;
    return h;
}

void qp_board_histogram(qp_board *b, const char *tag, int64_t step, qp_tensor t, double factor) {
    double       limits[CLASSES], counts[CLASSES] = {0};
    qp_scope     s = qp_enter(b->ctx);
    qp_tensor    flat = qp_contiguous(qp_cast(qp_detach(t), QP_F32));
    const float *x = qp_failed(b->ctx) ? NULL : qp_data_of(flat);
    if (x) {
        qpi_histogram h = measure(x, qp_count(flat), factor);
        double        width = (h.max - h.min) / CLASSES;
        h.classes = width > 0 ? CLASSES : 1;
        h.limits = limits;
        h.counts = counts;
        for (int i = 0; i < h.classes; i++) limits[i] = i + 1 < h.classes ? h.min + (i + 1) * width : h.max;
        for (int64_t i = 0; i < qp_count(flat); i++) {
            double at = (factor * (double)x[i] - h.min) / width;
            if (width > 0 && isfinite(at)) counts[at < CLASSES - 1 ? (int)at : CLASSES - 1]++;
        }
        if (!(width > 0)) counts[0] = (double)h.count;
        flush(b, qpi_events_histogram(&b->pending, now(), step, tag, &h));
    }
    qp_leave(s);
}

void qp_board_close(qp_board *b) {
    if (!b) return;
    qpi_disown(b->owned);
    destroy(b);
}
