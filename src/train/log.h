/* log.jsonl: one line for each step, flushed as it comes. */
#ifndef QUIPU_TRAIN_LOG_H
#define QUIPU_TRAIN_LOG_H

#include <stdio.h>

#include "core/core.h"
#include "quipu/train.h"

typedef struct {
    qp_ctx *ctx;
    FILE   *file;
    int     lock; /* held while a training writes into the folder; the system frees it with the process */
    char    path[4096];
} qpi_log;

/* Makes the folder and takes its lock: two trainings must not write into one. */
bool qpi_out_lock(qpi_log *log, const char *out, qp_ctx *ctx);
/* Lines of steps after `step` (a run that was set back) are dropped; with 0 the log starts anew. */
bool qpi_log_open(qpi_log *log, const char *out, int64_t step);
bool qpi_log_step(qpi_log *log, const qp_train_event *e);
void qpi_log_close(qpi_log *log);

#endif
