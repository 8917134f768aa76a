/* log.jsonl of a training, read. */
#ifndef QUIPU_CLI_HISTORY_H
#define QUIPU_CLI_HISTORY_H

#include "cli/plot.h"

enum {
    HISTORY_LOSS,
    HISTORY_VALIDATION,
    HISTORY_RATE,
    HISTORY_NORM,
    HISTORY_SPEED,
    HISTORY_SECONDS,
    HISTORY_COLUMNS
};

typedef struct {
    int64_t count, capacity;
    double *step, *value[HISTORY_COLUMNS]; /* NaN where a line says nothing */
    double  tokens, seconds, peak_bytes;   /* sums, and the largest */
} history;

/* Start with {0}; free it in any case. False after storing an error. */
bool history_read(history *t, const char *path, qp_ctx *ctx);
void history_free(history *t);

/* A column as a curve; points share where there are many. */
void history_curve(const history *t, int column, plot_curve *c);

#endif
