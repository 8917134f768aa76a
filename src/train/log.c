#define _GNU_SOURCE /* flock */
#include "train/log.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "format/buffer.h"
#include "format/os.h"
#include "format/writer.h"

/* The lines of steps up to `step`, as they are. A last line that was cut off is dropped. */
static bool keep_lines(FILE *old, int64_t step, qpi_buffer *kept) {
    char     *line = NULL;
    size_t    room = 0;
    ssize_t   n;
    long long at;
    bool      ok = true;
    while (ok && (n = getline(&line, &room, old)) > 0)
        if (line[n - 1] == '\n' && sscanf(line, "{\"step\": %lld,", &at) == 1 && at <= step)
            ok = qpi_buffer_put(kept, line, (size_t)n);
    free(line);
    return ok;
}

bool qpi_out_lock(qpi_log *log, const char *out, qp_ctx *ctx) {
    char path[4096];
    *log = (qpi_log){.ctx = ctx, .lock = -1};
    if (mkdir(out, 0777) != 0 && errno != EEXIST) return qpi_fail_os(&ctx->error, out, "make"), false;
    if (snprintf(path, sizeof path, "%s/.lock", out) >= (int)sizeof path)
        return qp_fail(ctx, QP_ERR_ARGUMENT, "the path is too long: %.60s...", out), false;
    log->lock = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (log->lock < 0) return qpi_fail_os(&ctx->error, path, "open"), false;
    if (flock(log->lock, LOCK_EX | LOCK_NB) == 0) return true;
    if (errno == EWOULDBLOCK) qp_fail(ctx, QP_ERR_STATE, "%s: another training is writing there", out);
    else qpi_fail_os(&ctx->error, path, "lock");
    return false;
}

bool qpi_log_open(qpi_log *log, const char *out, int64_t step) {
    qp_ctx    *ctx = log->ctx;
    qpi_buffer kept = {0};
    if (snprintf(log->path, sizeof log->path, "%s/log.jsonl", out) >= (int)sizeof log->path)
        return qp_fail(ctx, QP_ERR_ARGUMENT, "the path is too long: %.60s...", out), false;
    FILE *old = step > 0 ? fopen(log->path, "r") : NULL;
    bool  ok = !old || keep_lines(old, step, &kept);
    if (old) fclose(old);
    if (!ok) qpi_fail_memory(&ctx->error, log->path);
    ok = ok && qpi_write_file(log->path, kept.data ? kept.data : "", kept.count, &ctx->error);
    qpi_buffer_free(&kept);
    if (ok && !(log->file = fopen(log->path, "a"))) qpi_fail_os(&ctx->error, log->path, "open");
    return log->file != NULL;
}

#define MOST_VALUES 4096 /* of a statistic; larger ones are left out */

static void write_row(FILE *file, const float *x, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        if (isfinite(x[i])) fprintf(file, "%s%.4g", i ? ", " : "[", x[i]);
        else fprintf(file, "%snull", i ? ", " : "[");
    }
    fputc(']', file);
}

/* {"load": [[..], [..]], ..}: rows, or one row where each has one value. */
static void write_stats(FILE *file, const qp_record *stats) {
    float       x[MOST_VALUES];
    const char *before = ", \"stat\": {";
    for (int i = 0; i < stats->count; i++) {
        qp_tensor t = stats->tensors[i];
        int64_t   count = qp_count(t), n = qp_ndim(t) > 1 && qp_size(t, -1) > 1 ? qp_size(t, -1) : count;
        if (count < 1 || count > MOST_VALUES || qp_read(t, QP_F32, x, count) != QP_OK) continue;
        fprintf(file, "%s\"%s\": %s", before, stats->names[i] + 5, n < count ? "[" : "");
        for (int64_t k = 0; k < count; k += n) {
            if (k) fputs(", ", file);
            write_row(file, x + k, n);
        }
        if (n < count) fputc(']', file);
        before = ", ";
    }
    if (*before == ',' && before[2] == '\0') fputc('}', file);
}

bool qpi_log_step(qpi_log *log, const qp_train_event *e) {
    qp_stats s = qp_stats_of(log->ctx);
    fprintf(log->file, "{\"step\": %lld, \"loss\": %.9g, \"lr\": %.9g", (long long)e->step, e->loss, e->lr);
    if (!e->skipped) fprintf(log->file, ", \"grad_norm\": %.9g", e->norm);
    if (e->scale != 1) fprintf(log->file, ", \"loss_scale\": %g", e->scale);
    if (isfinite(e->validation)) fprintf(log->file, ", \"validation_loss\": %.9g", e->validation);
    fprintf(
        log->file, ", \"tokens\": %lld, \"seconds\": %.6f, \"tokens_per_second\": %.1f, \"peak_bytes\": %zu",
        (long long)e->tokens, e->seconds, e->seconds > 0 ? (double)e->tokens / e->seconds : 0, s.peak_bytes);
    write_stats(log->file, &e->stats);
    fputs("}\n", log->file);
    if (fflush(log->file) == 0 && !ferror(log->file)) return true;
    qpi_fail_os(&log->ctx->error, log->path, "write");
    return false;
}

void qpi_log_close(qpi_log *log) {
    if (log->file) fclose(log->file);
    if (log->lock >= 0) close(log->lock);
    *log = (qpi_log){.lock = -1};
}
