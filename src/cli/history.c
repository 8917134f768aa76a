#include "cli/history.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "core/core.h"
#include "format/json.h"
#include "format/os.h"

static const char *const keys[HISTORY_COLUMNS] = {"loss",      "validation_loss",   "lr",
                                                  "grad_norm", "tokens_per_second", "seconds"};

static bool history_grow(history *t) {
    int64_t capacity = t->capacity ? 2 * t->capacity : 1024;
    for (int c = -1; c < HISTORY_COLUMNS; c++) {
        double **at = c < 0 ? &t->step : &t->value[c], *p = realloc(*at, (size_t)capacity * sizeof *p);
        if (!p) return false;
        *at = p;
    }
    t->capacity = capacity;
    return true;
}

static bool history_add(history *t, const json_t *line) {
    if (t->count == t->capacity && !history_grow(t)) return false;
    t->step[t->count] = json_number_value(json_object_get(line, "step"));
    for (int c = 0; c < HISTORY_COLUMNS; c++) {
        const json_t *x = json_object_get(line, keys[c]);
        t->value[c][t->count] = json_is_number(x) ? json_number_value(x) : NAN;
    }
    t->tokens += json_number_value(json_object_get(line, "tokens"));
    t->seconds += json_number_value(json_object_get(line, "seconds"));
    t->peak_bytes = fmax(t->peak_bytes, json_number_value(json_object_get(line, "peak_bytes")));
    t->count++;
    return true;
}

void history_free(history *t) {
    free(t->step);
    for (int c = 0; c < HISTORY_COLUMNS; c++) free(t->value[c]);
}

bool history_read(history *t, const char *path, qp_ctx *ctx) {
    char  *line = NULL;
    size_t size = 0;
    FILE  *file = fopen(path, "r");
    bool   ok = true;
    if (!file) return qpi_fail_os(&ctx->error, path, "open"), false;
    while (ok && getline(&line, &size, file) > 0) {
        json_t *value = qpi_json_parse(path, line, strlen(line), NULL);
        if (value) ok = history_add(t, value);
        json_decref(value);
    }
    free(line);
    fclose(file);
    if (!ok) qpi_fail_memory(&ctx->error, path);
    return ok;
}

void history_curve(const history *t, int column, plot_curve *c) {
    plot_thinning thinning = {0};
    int64_t       have = 0;
    for (int64_t i = 0; i < t->count; i++) have += isfinite(t->value[column][i]);
    c->n = 0;
    for (int64_t i = 0; i < t->count; i++)
        if (isfinite(t->value[column][i])) plot_thin(c, &thinning, have, t->step[i], t->value[column][i]);
}
